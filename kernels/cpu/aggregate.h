// aggregate: merges coarse and fine logits into labels or scores, in strips of rows. Every output
// byte is written by one task.
//
// Labels: the coarse argmax first (coarse_labels.h), then edits inside the windows. Only where p_f
// contradicts the coarse label are the N logits sampled and exponentials taken.
// Scores: the N logits of a run of pixels are sampled into a small block, normalised and merged
// there, and written plane by plane.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "argmax.h"
#include "coarse_labels.h"
#include "merge_classes.h"
#include "parallel.h"
#include "patch_foreground.h"
#include "row_group.h"
#include "upsample.h"

namespace c2f::cpu {

namespace detail {

struct AggregateShared {
  explicit AggregateShared(const AggregateParams& p)
      : params(p),
        tables(p.coarse, p.H, p.W),
        foreground(p.fine, p.windows.window_px),
        groups(p.classes, p.coarse.N) {}
  const AggregateParams& params;
  CoarseLabelTables tables;
  ForegroundTaps foreground;
  ClassGroups groups;
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
      const std::vector<Span>& spans = foreground_.rows(y, rows);
      if (!spans.empty()) sampler_.seek(b, y);
      for (const Span& span : spans) {
        for (int64_t x = span.begin; x < span.end; x += 8) {
          merge8(y, rows, x, static_cast<int>(std::min<int64_t>(8, span.end - x)), out);
        }
      }
    });
  }

 private:
  // The first `lanes` of the 8 columns from x on, all covered unless p_f is NaN.
  void merge8(int64_t y, int rows, int64_t x, int lanes, uint8_t* out) {
    const AggregateParams& params = shared_.params;
    const bool official = params.rule == MergeRule::kOfficial;
    // Rows with something to decide: which pixels, and which of their coarse labels are in C.
    int64_t ys[kMaxGroupRows];
    int wanted[kMaxGroupRows], small[kMaxGroupRows], from[kMaxGroupRows], count = 0;
    for (int r = 0; r < rows; ++r) {
      const Vec8f p = load8(foreground_.p_f(r) + x);
      const int covered = movemask(p == p) & ((1 << lanes) - 1);
      const int in_c = official ? 0 : small_bits(out + (y + r) * params.W + x, lanes);
      const int pixels = official ? covered : covered & (in_c ^ movemask(p >= set8(0.5f)));
      if (pixels == 0) continue;
      ys[count] = y + r;
      wanted[count] = pixels;
      small[count] = in_c;
      from[count++] = r;
    }
    if (count == 0) return;
    sampler_.sample(ys, count, x, logits_.data());
    for (int i = 0; i < count; ++i) {
      float* logits = logits_.data() + i * shared_.groups.N * 8;
      const float* p_f = foreground_.p_f(from[i]) + x;
      uint8_t* labels = out + ys[i] * params.W + x;
      if (official) {
        merge_official8(shared_.groups, load8(p_f), logits);
        write_argmax(logits, wanted[i], labels);
      } else {
        merge_labels8(shared_.groups, logits, p_f, wanted[i], small[i], labels);
      }
    }
  }

  int small_bits(const uint8_t* labels, int lanes) const {
    int bits = 0;
    for (int j = 0; j < lanes; ++j) {
      bits |= (shared_.params.classes.is_small[labels[j]] != 0 ? 1 : 0) << j;
    }
    return bits;
  }

  void write_argmax(const float* logits, int lanes, uint8_t* labels) const {
    RunningArgmax<1> running;
    for (int32_t c = 0; c < shared_.groups.N; ++c) {
      running.offer(0, load8(logits + 8 * c), set8(c));
    }
    uint8_t found[8];
    store8_bytes(found, running.label[0]);
    for (int j = 0; j < 8; ++j) {
      if ((lanes >> j & 1) != 0) labels[j] = found[j];
    }
  }

  const AggregateShared& shared_;
  CoarseLabels coarse_;
  RowGroupSampler sampler_;
  ForegroundRows foreground_;
  std::vector<float> logits_;  // [rows, N, 8]
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
      foreground_.rows(y, rows);
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
      const Vec8f p_f = load8(foreground_.p_f(r) + x);
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
  int64_t blocks_;             // of 8 columns, few enough to stay in the nearest caches
  std::vector<float> values_;  // [blocks, rows, N, 8]
};

template <class Merger>
inline void aggregate_with(const AggregateShared& shared, int threads) {
  const AggregateParams& params = shared.params;
  std::vector<Merger> workers;
  workers.reserve(static_cast<size_t>(threads));
  for (int i = 0; i < threads; ++i) workers.emplace_back(shared);
  constexpr int64_t kStripRows = 32;
  const int64_t strips = (params.H + kStripRows - 1) / kStripRows;
  parallel_for(params.coarse.B * strips, threads, [&](int64_t task, int worker) {
    const int64_t y0 = task % strips * kStripRows;
    workers[static_cast<size_t>(worker)].run(task / strips, y0,
                                             std::min(y0 + kStripRows, params.H));
  });
}

}  // namespace detail

inline void aggregate(const AggregateParams& params, int threads) {
  if (params.coarse.B == 0) return;
  const detail::AggregateShared shared(params);
  if (params.labels != nullptr) {
    detail::aggregate_with<detail::LabelMerger>(shared, threads);
  } else {
    detail::aggregate_with<detail::ProbMerger>(shared, threads);
  }
}

}  // namespace c2f::cpu
