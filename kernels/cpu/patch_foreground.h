// p_f, the fine network's probability of a small object, row by row of the full-size image: the
// mean, summed in slot order, over the windows that cover a pixel of the sigmoid of their fine
// logits, sampled once per pixel as F.interpolate to k x k does.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "pixel_rows.h"
#include "resample.h"
#include "row_group.h"
#include "scratch.h"

namespace c2f::cpu {

// Columns [begin, end).
struct Span {
  int64_t begin, end;
};

// What the workers of one call share.
struct ForegroundTaps {
  ForegroundTaps(const Image& fine, int64_t window_px)
      : y(Resample::kBilinear, fine.H, window_px),
        x(Resample::kBilinear, fine.W, window_px),
        spoils_infinity(y.identity != x.identity) {}
  ResampleTaps y, x;
  // F.interpolate gives an axis of equal sizes beside an interpolated one two taps on the same
  // source, of weights 1 and 0: infinity becomes NaN.
  bool spoils_infinity;
};

// One per worker.
class ForegroundRows {
 public:
  ForegroundRows(const AggregateParams& params, const ForegroundTaps& taps)
      : params_(params), taps_(taps) {
    const size_t padded_w = static_cast<size_t>(params.W + 8);
    for (auto& row : p_f_) row.assign(padded_w, std::numeric_limits<float>::quiet_NaN());
    covers_.resize(padded_w);
    for (auto& row : source_) row.resize(static_cast<size_t>(padded_row_size(params.fine.W)));
    mixed_.resize(static_cast<size_t>(padded_row_size(params.fine.W)));
    logits_.resize(static_cast<size_t>(taps.x.padded_out));
    const size_t n = static_cast<size_t>(params.windows.n);
    in_strip_.reserve(n);
    in_row_.reserve(n);
    spans_.reserve(n);
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

  // Fills p_f(r) for rows y + r, r in [0, rows), which the same windows cover; returns the covered
  // columns, from left to right, not touching.
  const Scratch<Span>& rows(int64_t y, int rows) {
    const int64_t k = params_.windows.window_px;
    const int32_t* origins = params_.windows.origins;
    fill_spans(std::numeric_limits<float>::quiet_NaN(), kMaxGroupRows);
    in_row_.clear();
    for (const int64_t slot : in_strip_) {
      if (origins[2 * slot] <= y && y < origins[2 * slot] + k) in_row_.push_back(slot);
    }
    find_spans();
    fill_spans(0.0f, rows);
    for (const Span& span : spans_) {
      std::fill(covers_.begin() + span.begin, covers_.begin() + span.end, 0.0f);
    }
    for (const int64_t slot : in_row_) {
      const int64_t x = origins[2 * slot + 1];
      count(x);
      for (int r = 0; r < rows; ++r) add(slot, y + r - origins[2 * slot], k, p_f_[r].data() + x);
    }
    if (in_row_.size() == spans_.size()) return spans_;  // no two windows overlap
    for (const Span& span : spans_) {
      for (int r = 0; r < rows; ++r) divide(span, p_f_[r].data());
    }
    return spans_;
  }

  // [W + 8]; NaN where the pixel counts as not covered.
  const float* p_f(int r) const { return p_f_[r].data(); }

 private:
  void find_spans() {
    const int64_t k = params_.windows.window_px;
    const int32_t* origins = params_.windows.origins;
    spans_.clear();
    for (const int64_t slot : in_row_) {
      const int64_t x = origins[2 * slot + 1];
      spans_.push_back({x, x + k});
    }
    std::sort(spans_.begin(), spans_.end(),
              [](const Span& a, const Span& b) { return a.begin < b.begin; });
    size_t kept = 0;
    for (const Span& span : spans_) {
      if (kept > 0 && span.begin <= spans_[kept - 1].end) {
        spans_[kept - 1].end = std::max(spans_[kept - 1].end, span.end);
      } else {
        spans_[kept++] = span;
      }
    }
    spans_.resize(kept);
  }

  void fill_spans(float value, int rows) {
    for (const Span& span : spans_) {
      for (int r = 0; r < rows; ++r) {
        std::fill(p_f_[r].begin() + span.begin, p_f_[r].begin() + span.end, value);
      }
    }
  }

  void count(int64_t x) {
    const int64_t k = params_.windows.window_px;
    for (int64_t i = x; i < x + k; ++i) covers_[static_cast<size_t>(i)] += 1.0f;
  }

  // Adds row dy of a window's probabilities to sum[0 .. k).
  void add(int64_t slot, int64_t dy, int64_t k, float* sum) {
    const float* logits = foreground_logits(slot, dy);
    for (int64_t i = 0; i < k; i += 8) {
      Vec8f logit = load8(logits + i);
      if (taps_.spoils_infinity) logit = fma(logit, set8(0.0f), logit);
      const Vec8f p = set8(1.0f) / (set8(1.0f) + exp(set8(0.0f) - logit));
      store8_first(sum + i, load8(sum + i) + p, k - i);
    }
  }

  // Foreground logits of row dy of a window, [k] and readable up to a multiple of 8.
  const float* foreground_logits(int64_t slot, int64_t dy) {
    float* row = fine_row(slot, taps_.y.source(dy, 0));
    if (!taps_.y.identity) {
      const float *above = row, *below = fine_row(slot, taps_.y.source(dy, 1));
      const Vec8f w0 = set8(taps_.y.w(dy, 0)), w1 = set8(taps_.y.w(dy, 1));
      row = mixed_.data() + kRowPadLeft;
      for (int64_t i = 0; i < params_.fine.W; i += 8) {
        store8(row + i, fma(load8(below + i), w1, load8(above + i) * w0));
      }
    }
    pad_row(row, params_.fine.W);
    resample_row(row, taps_.x, 1.0f, 0.0f, logits_.data());
    return logits_.data();
  }

  // Row i of a patch's foreground logit; neighbouring rows are kept side by side, for the rows of
  // the output between them.
  float* fine_row(int64_t slot, int64_t i) {
    const int side = static_cast<int>(i & 1);
    float* row = source_[side].data() + kRowPadLeft;
    if (held_slot_[side] != slot || held_row_[side] != i) {
      load_fine_row(slot, i, row);
      held_slot_[side] = slot;
      held_row_[side] = i;
    }
    return row;
  }

  // Row i of a patch's foreground logit: l, or l1 - l0 of two channels.
  void load_fine_row(int64_t slot, int64_t i, float* out) {
    const Image& fine = params_.fine;
    visit_pixel_type(fine.dtype, [&](auto* type) {
      const auto* row =
          static_cast<decltype(type)>(fine.data) + slot * fine.stride_b + i * fine.stride_y;
      if (fine.C == 1) return load_strided(row, fine.stride_x, fine.W, out);
      float* background = mixed_.data() + kRowPadLeft;
      load_strided(row, fine.stride_x, fine.W, background);
      load_strided(row + fine.stride_c, fine.stride_x, fine.W, out);
      for (int64_t x = 0; x < fine.W; x += 8) {
        store8(out + x, load8(out + x) - load8(background + x));
      }
    });
  }

  void divide(const Span& span, float* sum) const {
    for (int64_t x = span.begin; x < span.end; x += 8) {
      store8_first(sum + x, load8(sum + x) / load8(covers_.data() + x), span.end - x);
    }
  }

  const AggregateParams& params_;
  const ForegroundTaps& taps_;
  Scratch<float> p_f_[kMaxGroupRows];  // [W + 8] each
  Scratch<float> covers_;              // [W + 8], for all rows of a group
  Scratch<float> source_[2];           // fine rows, of even and of odd number
  int64_t held_slot_[2] = {-1, -1};
  int64_t held_row_[2] = {-1, -1};
  Scratch<float> mixed_;                // their mean by weights; the background channel, before
  Scratch<float> logits_;               // [k, rounded up to 8]
  Scratch<int64_t> in_strip_, in_row_;  // slots of the batch, ascending
  Scratch<Span> spans_;
};

}  // namespace c2f::cpu
