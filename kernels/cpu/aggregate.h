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
#include <cstring>
#include <vector>

#include "argmax.h"
#include "coarse_labels.h"
#include "merge_classes.h"
#include "parallel.h"
#include "patch_foreground.h"
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

// One per worker.
class LabelMerger {
 public:
  explicit LabelMerger(const AggregateShared& shared)
      : shared_(shared),
        coarse_(shared.params.coarse, shared.tables),
        sampler_(shared.params.coarse, shared.tables.taps),
        foreground_(shared.params, shared.foreground),
        logits_(static_cast<size_t>(8 * shared.groups.N)) {}

  // Rows [y0, y1) of image b.
  void run(int64_t b, int64_t y0, int64_t y1) {
    const AggregateParams& params = shared_.params;
    uint8_t* out = params.labels + (b * params.H + y0) * params.W;
    if (!params.labels_given) coarse_.write_rows(b, y0, y1, out, params.W);
    if (!foreground_.begin_strip(b, y0, y1)) return;
    for (int64_t y = y0; y < y1; ++y, out += params.W) {
      sought_ = false;
      for (const Span& span : foreground_.row(y)) {
        for (int64_t x = span.begin; x < span.end; x += 8) {
          merge8(b, y, x, static_cast<int>(std::min<int64_t>(8, span.end - x)), out + x);
        }
      }
    }
  }

 private:
  // The first `lanes` of the 8 pixels from column x on, all covered unless p_f is NaN.
  void merge8(int64_t b, int64_t y, int64_t x, int lanes, uint8_t* labels) {
    const float* p_f = foreground_.p_f() + x;
    const Vec8f p = load8(p_f);
    const int covered = movemask(p == p) & ((1 << lanes) - 1);
    if (shared_.params.rule == MergeRule::kOfficial) {
      if (covered == 0) return;
      sample(b, y, x);
      merge_official8(shared_.groups, p, logits_.data());
      return write_argmax(covered, labels);
    }
    int small = 0;
    for (int j = 0; j < lanes; ++j) {
      small |= (shared_.params.classes.is_small[labels[j]] != 0 ? 1 : 0) << j;
    }
    const int conflicts = covered & (small ^ movemask(p >= set8(0.5f)));
    if (conflicts == 0) return;
    sample(b, y, x);
    merge_labels8(shared_.groups, logits_.data(), p_f, conflicts, small, labels);
  }

  void sample(int64_t b, int64_t y, int64_t x) {
    if (!sought_) sampler_.seek(b, y);
    sought_ = true;
    sampler_.sample8(x, logits_.data());
  }

  void write_argmax(int lanes, uint8_t* labels) const {
    RunningArgmax<1> running;
    for (int32_t c = 0; c < shared_.groups.N; ++c) {
      running.offer(0, load8(logits_.data() + 8 * c), set8(c));
    }
    uint8_t found[8];
    store8_bytes(found, running.label[0]);
    for (int j = 0; j < 8; ++j) {
      if ((lanes >> j & 1) != 0) labels[j] = found[j];
    }
  }

  const AggregateShared& shared_;
  CoarseLabels coarse_;
  LogitSampler sampler_;
  ForegroundRows foreground_;
  std::vector<float> logits_;  // [N, 8]
  bool sought_ = false;        // whether the sampler stands on the current row
};

// One per worker.
class ProbMerger {
 public:
  explicit ProbMerger(const AggregateShared& shared)
      : shared_(shared),
        sampler_(shared.params.coarse, shared.tables.taps),
        foreground_(shared.params, shared.foreground),
        blocks_(std::clamp<int64_t>(1024 / shared.groups.N, 2, 16)),
        values_(static_cast<size_t>(blocks_ * shared.groups.N * 8)) {}

  // Rows [y0, y1) of image b.
  void run(int64_t b, int64_t y0, int64_t y1) {
    const int64_t W = shared_.params.W;
    foreground_.begin_strip(b, y0, y1);
    for (int64_t y = y0; y < y1; ++y) {
      foreground_.row(y);
      sampler_.seek(b, y);
      for (int64_t x = 0; x < W; x += 8 * blocks_) {
        const int64_t pixels = std::min(8 * blocks_, W - x);
        for (int64_t i = 0; i < pixels; i += 8) merge8(x + i, block(i / 8));
        write(b, y, x, pixels);
      }
    }
  }

 private:
  float* block(int64_t i) { return values_.data() + i * shared_.groups.N * 8; }

  void merge8(int64_t x, float* values) {
    const int64_t N = shared_.groups.N;
    const Vec8f p_f = load8(foreground_.p_f() + x);
    sampler_.sample8(x, values);
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

  void write(int64_t b, int64_t y, int64_t x, int64_t pixels) {
    const AggregateParams& params = shared_.params;
    const int64_t plane = params.H * params.W;
    float* out = params.probs + b * shared_.groups.N * plane + y * params.W + x;
    for (int64_t c = 0; c < shared_.groups.N; ++c, out += plane) {
      int64_t i = 0;
      for (; i + 8 <= pixels; i += 8) store8(out + i, load8(block(i / 8) + 8 * c));
      if (i < pixels) {
        store8_partial(out + i, load8(block(i / 8) + 8 * c), static_cast<int>(pixels - i));
      }
    }
  }

  const AggregateShared& shared_;
  LogitSampler sampler_;
  ForegroundRows foreground_;
  int64_t blocks_;             // of 8 pixels, small enough to stay in the first cache
  std::vector<float> values_;  // [blocks, N, 8]
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
