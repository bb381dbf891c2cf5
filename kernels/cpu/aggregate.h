// aggregate: merges coarse and fine logits into labels or scores, in strips of rows. Every output
// byte is written by one task.
//
// Labels: the coarse argmax first (coarse_labels.h), then edits inside the windows. The N logits
// are sampled, and exponentials taken (p_f's, too), only where p_f contradicts the coarse label.
// Scores: the N logits of a run of pixels are sampled into a small block, normalised and merged
// there, and written plane by plane.
#pragma once

#include <algorithm>
#include <cstdint>

#include "argmax.h"
#include "bytes.h"
#include "coarse_labels.h"
#include "merge_classes.h"
#include "parallel.h"
#include "patch_foreground.h"
#include "row_group.h"
#include "scratch.h"
#include "upsample.h"

namespace c2f::cpu {

namespace detail {

struct AggregateShared {
  explicit AggregateShared(const AggregateParams& p)
      : params(p),
        tables(p.coarse, p.H, p.W),
        foreground(p.fine, p.windows.window_px),
        groups(p.classes, p.coarse.N),
        small(p.classes) {}
  const AggregateParams& params;
  CoarseLabelTables tables;
  ForegroundTaps foreground;
  ClassGroups groups;
  ClassSet small;
};

// Calls body(y, rows) for the rows [y0, y1) of image b in groups that share their source rows and
// their windows.
template <class Body>
inline void for_row_groups(const RowGroupSampler& sampler, const ForegroundRows& foreground,
                           int64_t y0, int64_t y1, const Body& body) {
  for (int64_t y = y0; y < y1;) {
    const int64_t end = foreground.same_windows_end(y, sampler.group_end(y, y1));
    body(y, static_cast<int>(end - y));
    y = end;
  }
}

// One per worker.
class LabelMerger {
 public:
  explicit LabelMerger(const AggregateShared& shared)
      : shared_(shared),
        coarse_(shared.params.coarse, shared.tables),
        sampler_(shared.params.coarse, shared.tables.taps),
        foreground_(shared.params, shared.foreground),
        logits_(static_cast<size_t>(kMaxGroupRows * shared.groups.N * 8)) {}

  // Rows [y0, y1) of image b.
  void run(int64_t b, int64_t y0, int64_t y1) {
    const AggregateParams& params = shared_.params;
    uint8_t* out = params.labels + b * params.H * params.W;
    if (!params.labels_given) {
      coarse_.write_rows(b, y0, y1, out + y0 * params.W, params.W);
    }
    if (!foreground_.begin_strip(b, y0, y1)) return;
    for_row_groups(sampler_, foreground_, y0, y1, [&](int64_t y, int rows) {
      const bool official = params.rule == MergeRule::kOfficial;  // needs p_f at every pixel
      const Scratch<Span>& spans =
          official ? foreground_.p_f_rows(y, rows) : foreground_.rows(y, rows);
      if (!spans.empty()) sampler_.seek(b, y);
      for (const Span& span : spans) {
        for (int64_t x = span.begin; x < span.end; x += 32) merge32(span, y, rows, x, out);
      }
    });
  }

 private:
  // Up to 32 pixels of a row, one bit each: those that may change, and those whose coarse label is
  // in C.
  struct Pixels {
    uint32_t wanted, small;
  };

  // Merges up to 32 columns of the span, from x on, in all rows. Few of these pixels may change.
  void merge32(const Span& span, int64_t y, int rows, int64_t x, uint8_t* out) {
    const int64_t W = shared_.params.W, lanes = std::min<int64_t>(32, span.end - x);
    Pixels pixels[kMaxGroupRows];
    uint32_t any = 0;
    for (int r = 0; r < rows; ++r) {
      const float* values = foreground_.values(r) + x;
      const uint8_t* labels = out + (y + r) * W + x;
      pixels[r] = lanes == 32 ? look(labels, values, span.below_half(), 32)
                              : look(labels, values, span.below_half(), lanes);
      any |= pixels[r].wanted;
    }
    for (int first = 0; any != 0; first += 8, any >>= 8) {
      if ((any & 0xff) != 0) merge8(span, y, rows, x, first, pixels, out);
    }
  }

  // Inlined, so that `lanes` is the constant 32 in nearly all calls.
  inline Pixels look(const uint8_t* labels, const float* values, float below_half,
                     int64_t lanes) const {
    const Vec8f limit = set8(below_half);
    uint32_t foreground = 0, background = 0;  // both 0 where the value is NaN: not covered
    for (int64_t i = 0; i < lanes; i += 8) {
      const Vec8f value = load8(values + i);
      foreground |= static_cast<uint32_t>(movemask(value > limit)) << i;
      background |= static_cast<uint32_t>(movemask(limit >= value)) << i;
    }
    const uint32_t inside = lanes == 32 ? ~uint32_t{0} : (uint32_t{1} << lanes) - 1;
    if (shared_.params.rule == MergeRule::kOfficial) return {inside & (foreground | background), 0};
    const uint32_t small = shared_.small.bits(labels, lanes);
    return {inside & ((small & background) | (~small & foreground)), small};
  }

  // Merges columns [x + first, x + first + 8).
  void merge8(const Span& span, int64_t y, int rows, int64_t x, int first, const Pixels* pixels,
              uint8_t* out) {
    const AggregateParams& params = shared_.params;
    x += first;
    int64_t ys[kMaxGroupRows];
    int wanted[kMaxGroupRows], small[kMaxGroupRows], from[kMaxGroupRows], count = 0;
    for (int r = 0; r < rows; ++r) {
      wanted[count] = static_cast<int>(pixels[r].wanted >> first & 0xff);
      small[count] = static_cast<int>(pixels[r].small >> first & 0xff);
      if (wanted[count] == 0) continue;
      ys[count] = y + r;
      from[count++] = r;
    }
    sampler_.sample(ys, count, x, logits_.data());
    for (int i = 0; i < count; ++i) {
      float* logits = logits_.data() + i * shared_.groups.N * 8;
      const Vec8f value = load8(foreground_.values(from[i]) + x);
      Labels8 labels(out + ys[i] * params.W + x, params.W - x);
      if (params.rule == MergeRule::kOfficial) {
        merge_official8(shared_.groups, value, logits);
        RunningArgmax<1> running;
        for (int32_t c = 0; c < shared_.groups.N; ++c) {
          running.offer(0, load8(logits + 8 * c), set8(c));
        }
        labels.replace(running.label[0], wanted[i]);
      } else {
        merge_labels8(shared_.groups, logits, span.p_f(value), wanted[i], small[i], labels);
      }
    }
  }

  const AggregateShared& shared_;
  CoarseLabels coarse_;
  RowGroupSampler sampler_;
  ForegroundRows foreground_;
  Scratch<float> logits_;  // [rows, N, 8]
};

// One per worker.
class ProbMerger {
 public:
  explicit ProbMerger(const AggregateShared& shared)
      : shared_(shared),
        sampler_(shared.params.coarse, shared.tables.taps),
        foreground_(shared.params, shared.foreground),
        blocks_(std::clamp<int64_t>(256 / shared.groups.N, 2, 16)),
        values_(static_cast<size_t>(blocks_ * kMaxGroupRows * shared.groups.N * 8)) {}

  // Rows [y0, y1) of image b.
  void run(int64_t b, int64_t y0, int64_t y1) {
    const int64_t W = shared_.params.W;
    foreground_.begin_strip(b, y0, y1);
    for_row_groups(sampler_, foreground_, y0, y1, [&](int64_t y, int rows) {
      foreground_.p_f_rows(y, rows);
      sampler_.seek(b, y);
      for (int64_t x = 0; x < W; x += 8 * blocks_) {
        const int64_t pixels = std::min(8 * blocks_, W - x);
        for (int64_t i = 0; i < pixels; i += 8) merge8(y, rows, x + i, block(i / 8, 0));
        for (int r = 0; r < rows; ++r) write(b, y + r, r, x, pixels);
      }
    });
  }

 private:
  float* block(int64_t i, int r) {
    return values_.data() + (i * kMaxGroupRows + r) * shared_.groups.N * 8;
  }

  void merge8(int64_t y, int rows, int64_t x, float* values) {
    const int64_t N = shared_.groups.N;
    const int64_t ys[kMaxGroupRows] = {y, y + 1, y + 2, y + 3};
    sampler_.sample(ys, rows, x, values);
    for (int r = 0; r < rows; ++r, values += 8 * N) {
      const Vec8f p_f = load8(foreground_.values(r) + x);
      if (shared_.params.rule == MergeRule::kOfficial) {
        for (int64_t c = 0; c < N; ++c) {
          store8(values + 8 * c, max(load8(values + 8 * c), set8(kMinusInfinity)));
        }
        merge_official8(shared_.groups, p_f, values);
      } else if (movemask(p_f == p_f) == 0) {
        softmax8(N, largest8(N, values), values);
      } else {
        merge_probs8(shared_.groups, shared_.params.rule == MergeRule::kPaper, p_f, values);
      }
    }
  }

  // Row y, columns [x, x + pixels), from row r of the blocks.
  void write(int64_t b, int64_t y, int r, int64_t x, int64_t pixels) {
    const AggregateParams& params = shared_.params;
    const int64_t plane = params.H * params.W;
    float* out = params.probs + b * shared_.groups.N * plane + y * params.W + x;
    for (int64_t c = 0; c < shared_.groups.N; ++c, out += plane) {
      int64_t i = 0;
      for (; i + 8 <= pixels; i += 8) store8(out + i, load8(block(i / 8, r) + 8 * c));
      if (i < pixels) {
        store8_partial(out + i, load8(block(i / 8, r) + 8 * c), static_cast<int>(pixels - i));
      }
    }
  }

  const AggregateShared& shared_;
  RowGroupSampler sampler_;
  ForegroundRows foreground_;
  int64_t blocks_;         // blocks of 8 columns at a time: few enough to stay in L1 or L2
  Scratch<float> values_;  // [blocks, rows, N, 8]
};

template <class Merger>
inline void aggregate_with(const AggregateShared& shared, int threads) {
  const AggregateParams& params = shared.params;
  constexpr int64_t kStripRows = 32;
  const int64_t strips = (params.H + kStripRows - 1) / kStripRows;
  const int64_t tasks = params.coarse.B * strips;
  const int count = worker_count(tasks, threads);
  Scratch<Merger> workers;
  workers.reserve(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) workers.emplace_back(shared);
  parallel_for(tasks, threads, [&](int64_t task, int worker) {
    const int64_t y0 = task % strips * kStripRows;
    workers[static_cast<size_t>(worker)].run(task / strips, y0,
                                             std::min(y0 + kStripRows, params.H));
  });
}

}  // namespace detail

inline void aggregate(const AggregateParams& params, int threads) {
  if (params.coarse.B == 0) return;
  const ScratchRoom room(threads);
  const detail::AggregateShared shared(params);
  if (params.labels != nullptr) {
    detail::aggregate_with<detail::LabelMerger>(shared, threads);
  } else {
    detail::aggregate_with<detail::ProbMerger>(shared, threads);
  }
}

}  // namespace c2f::cpu
