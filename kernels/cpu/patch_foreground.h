// p_f, the fine network's probability of a small object, row by row of the full-size image. At a
// pixel it is the mean of the sigmoid of the fine logit over the windows that cover the pixel,
// summed in slot order; the logit is sampled once per pixel as F.interpolate to k x k does. Where a
// single window covers a pixel, which is nearly everywhere, the sign of its logit tells on which
// side of 0.5 p_f lies, so the exponential is left to callers that need p_f itself.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "../common/merge_rule.h"
#include "pixel_rows.h"
#include "resample.h"
#include "row_group.h"
#include "scratch.h"

namespace c2f::cpu {

// Columns [begin, end), covered by the same windows. Their values are logits if that is one window,
// else p_f.
struct Span {
  int64_t begin, end, windows;

  // p_f >= 0.5 where a value is above this, p_f < 0.5 where it is not; NaN means not covered.
  float below_half() const { return windows == 1 ? kBelowLogitOfHalf : 0x1.fffffep-2f; }
  Vec8f p_f(Vec8f values) const { return windows == 1 ? sigmoid(values) : values; }
};

// What the workers of one call share.
struct ForegroundTaps {
  ForegroundTaps(const Image& fine, int64_t window_px)
      : y(Resample::kBilinear, fine.H, window_px),
        x(Resample::kBilinear, fine.W, window_px),
        spoils_infinity(y.identity != x.identity) {}
  ResampleTaps y, x;
  // If only one axis is interpolated, F.interpolate takes two taps on the same source, of weights 1
  // and 0, along the other: infinity becomes NaN.
  bool spoils_infinity;
};

// One per worker.
class ForegroundRows {
 public:
  ForegroundRows(const AggregateParams& params, const ForegroundTaps& taps)
      : params_(params), taps_(taps) {
    const size_t values = static_cast<size_t>(kMaxGroupRows * row_size());
    values_.assign(values, std::numeric_limits<float>::quiet_NaN());
    for (auto* row : {&source_, &background_}) {
      row->resize(static_cast<size_t>(padded_row_size(params.fine.W)));
    }
    sampled_.resize(static_cast<size_t>(taps.x.padded_out));
    const int64_t windows = std::min(kHeldWindows, params.windows.n);
    held_logits_.resize(static_cast<size_t>(2 * windows * held_size()));
    const size_t n = static_cast<size_t>(params.windows.n);
    in_strip_.reserve(n);
    in_row_.reserve(n);
    begins_.reserve(n);
    spans_.reserve(2 * n);  // spans begin and end where windows do
  }

  // Rows asked for next lie in [y0, y1) of image b. Returns whether any window reaches them.
  bool begin_strip(int64_t b, int64_t y0, int64_t y1) {
    const WindowList& windows = params_.windows;
    in_strip_.clear();
    for (int64_t slot = b * windows.n; slot < b * windows.n + windows.num[b]; ++slot) {
      const int64_t y = windows.origins[2 * slot];
      if (y < y1 && y + windows.window_px > y0) in_strip_.push_back(slot);
    }
    return !in_strip_.empty();
  }

  // One past the last row, at most `limit`, that the same windows cover as row y.
  int64_t same_windows_end(int64_t y, int64_t limit) const {
    const int64_t k = params_.windows.window_px;
    for (const int64_t slot : in_strip_) {
      const int64_t begin = params_.windows.origins[2 * slot];
      const int64_t next = begin > y ? begin : begin + k;
      if (next > y) limit = std::min(limit, next);
    }
    return limit;
  }

  // Fills values(r) for rows y + r, r in [0, rows), which the same windows cover; returns the
  // covered columns, from left to right.
  const Scratch<Span>& rows(int64_t y, int rows) {
    const int64_t k = params_.windows.window_px;
    const int32_t* origins = params_.windows.origins;
    in_row_.clear();
    for (const int64_t slot : in_strip_) {
      if (origins[2 * slot] <= y && y < origins[2 * slot] + k) in_row_.push_back(slot);
    }
    find_spans();
    for (const Span& span : spans_) {
      if (span.windows > 1) fill(span, 0.0f, rows);
    }
    for (size_t place = 0; place < in_row_.size(); ++place) {
      const int32_t* origin = origins + 2 * in_row_[place];
      const auto starts = [](const Span& span, int64_t x) { return span.begin < x; };
      const auto first = std::lower_bound(spans_.begin(), spans_.end(), origin[1], starts);
      const auto last = std::lower_bound(first, spans_.end(), origin[1] + k, starts);
      for (int r = 0; r < rows; ++r) {
        add(place, y + r - origin[0], &*first, &*first + (last - first), row(r));
      }
    }
    for (const Span& span : spans_) {
      if (span.windows > 1) divide(span, rows);
    }
    return spans_;
  }

  // The same, but values(r) is p_f in all columns, and NaN where a pixel counts as not covered.
  const Scratch<Span>& p_f_rows(int64_t y, int count) {
    for (const Span& span : spans_) {
      fill(span, std::numeric_limits<float>::quiet_NaN(), kMaxGroupRows);
    }
    for (const Span& span : rows(y, count)) {
      for (int r = 0; r < count && span.windows == 1; ++r) {
        float* p_f = row(r);
        for (int64_t x = span.begin; x < span.end; x += 8) {
          store8_first(p_f + x, sigmoid(load8(p_f + x)), span.end - x);
        }
      }
    }
    return spans_;
  }

  // [W + 8]
  const float* values(int r) const { return values_.data() + r * row_size(); }

 private:
  // Which fine row a held row is: row `row` of the patch in `slot`.
  struct Held {
    int64_t slot = -1, row = -1;
  };

  int64_t row_size() const { return params_.W + 8; }
  int64_t held_size() const { return taps_.x.padded_out + 8; }
  float* row(int r) { return values_.data() + r * row_size(); }

  // Starts and ends of windows cut the row into spans; those that no window covers are left out.
  void find_spans() {
    const int64_t k = params_.windows.window_px;
    begins_.clear();
    for (const int64_t slot : in_row_) begins_.push_back(params_.windows.origins[2 * slot + 1]);
    std::sort(begins_.begin(), begins_.end());
    spans_.clear();
    const size_t windows = begins_.size();
    int64_t x = 0;
    for (size_t entered = 0, left = 0; left < windows;) {
      const bool enters = entered < windows && begins_[entered] <= begins_[left] + k;
      const int64_t next = enters ? begins_[entered] : begins_[left] + k;
      if (next > x && entered > left) {
        spans_.push_back({x, next, static_cast<int64_t>(entered - left)});
      }
      x = next;
      enters ? ++entered : ++left;
    }
  }

  void fill(const Span& span, float value, int rows) {
    for (int r = 0; r < rows; ++r) {
      std::fill(row(r) + span.begin, row(r) + span.end, value);
    }
  }

  // Enters row dy of window in_row_[place] into `values`: its logits where it covers a span alone,
  // their sigmoid added to the sum elsewhere. Horizontal taps first, as F.interpolate orders them.
  void add(size_t place, int64_t dy, const Span* first, const Span* last, float* values) {
    const int taps = taps_.y.taps;
    const float* from[4] = {};
    float w[4] = {};
    for (int t = 0; t < taps; ++t) {
      from[t] = resampled_row(place, taps_.y.source(dy, t));
      w[t] = taps_.y.w(dy, t);
    }
    for (const Span* span = first; span != last; ++span) {
      const int64_t size = span->end - span->begin;
      float* to = values + span->begin;
      combine_rows(from, w, taps, size, span->windows == 1 ? to : sampled_.data());
      for (int64_t i = 0; i < size && span->windows > 1; i += 8) {
        store8_first(to + i, load8(to + i) + sigmoid(load8(sampled_.data() + i)), size - i);
      }
      for (int t = 0; t < taps; ++t) from[t] += size;
    }
  }

  // Row i of a patch's foreground logits, resampled to the window's k columns; 8 more are readable.
  // Two neighbouring rows of each window are kept, for the output rows between them.
  const float* resampled_row(size_t place, int64_t i) {
    const int64_t at = 2 * (static_cast<int64_t>(place) % kHeldWindows) + (i & 1);
    float* logits = held_logits_.data() + at * held_size();
    Held& held = held_[at];
    if (held.slot != in_row_[place] || held.row != i) {
      held = {in_row_[place], i};
      resample(held, logits);
    }
    return logits;
  }

  void resample(const Held& wanted, float* logits) {
    float* source = source_.data() + kRowPadLeft;
    load_fine_row(wanted.slot, wanted.row, source);
    pad_row(source, params_.fine.W);
    resample_row(source, taps_.x, 1.0f, 0.0f, logits);
    for (int64_t x = 0; taps_.spoils_infinity && x < taps_.x.padded_out; x += 8) {
      store8(logits + x, fma(load8(logits + x), set8(0.0f), load8(logits + x)));
    }
  }

  // Row i of a patch's foreground logits: l, or l1 - l0 of two channels.
  void load_fine_row(int64_t slot, int64_t i, float* out) {
    const Image& fine = params_.fine;
    visit_pixel_type(fine.dtype, [&](auto* type) {
      const auto* row =
          static_cast<decltype(type)>(fine.data) + slot * fine.stride_b + i * fine.stride_y;
      if (fine.C == 1) return load_strided(row, fine.stride_x, fine.W, out);
      float* background = background_.data();
      load_strided(row, fine.stride_x, fine.W, background);
      load_strided(row + fine.stride_c, fine.stride_x, fine.W, out);
      for (int64_t x = 0; x < fine.W; x += 8) {
        store8(out + x, load8(out + x) - load8(background + x));
      }
    });
  }

  void divide(const Span& span, int rows) {
    const Vec8f windows = set8(static_cast<float>(span.windows));
    for (int r = 0; r < rows; ++r) {
      float* sum = row(r);
      for (int64_t x = span.begin; x < span.end; x += 8) {
        store8_first(sum + x, load8(sum + x) / windows, span.end - x);
      }
    }
  }

  const AggregateParams& params_;
  const ForegroundTaps& taps_;
  Scratch<float> values_;               // [kMaxGroupRows, W + 8]
  Scratch<float> source_, background_;  // a fine row, padded, and its background channel
  Scratch<float> sampled_;              // logits of a span, before their sigmoid is added
  // Windows of a row that have held rows of their own; further ones share theirs.
  static constexpr int64_t kHeldWindows = 16;
  Held held_[2 * kHeldWindows];         // for each window a row of even and one of odd number
  Scratch<float> held_logits_;          // held_size() for each of them
  Scratch<int64_t> in_strip_, in_row_;  // slots of the batch, ascending
  Scratch<int64_t> begins_;             // columns where windows of the row begin, ascending
  Scratch<Span> spans_;
};

}  // namespace c2f::cpu
