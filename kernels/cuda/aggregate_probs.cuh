// aggregate to scores, in one launch: N planes of float32 are streamed out, 128 bytes per warp and
// class, and nothing of full size is ever read back. A block makes a tile (aggregate_args.h),
// independently of all others.
//
// The source pixels of a tile are staged in shared memory as float32, whatever their type and
// strides, one plane per class. Each class of an output pixel then costs four loads from there;
// pixels of a column share them while they lie between the same two source rows. If the number of
// classes is compiled in, the logits of a pixel stay in registers from sampling to the last store.
// Otherwise classes come in chunks: one pass for the statistics of the softmax and one for the
// scores (and one in between for the second softmax of "paper").
#pragma once

#include <cmath>
#include <cstdint>

#include "element.cuh"
#include "merged_label.cuh"
#include "patch_foreground.cuh"

namespace c2f::cuda {

// Source pixels under the tile: rows [top, top + rows), columns [left, left + columns).
struct SourceRect {
  int32_t top, left, rows, columns;

  __device__ __forceinline__ SourceRect(const MergeTile& at, const Axis& y, const Axis& x) {
    top = y.tap(at.y0).i0;
    left = x.tap(at.x0).i0;
    rows = y.tap(at.y0 + at.height - 1).i1 - top + 1;
    columns = x.tap(at.x0 + at.width - 1).i1 - left + 1;
  }
};

// Stages the planes of classes [c0, c0 + count). A thread takes all classes of a source pixel: it
// computes the address once, its loads are in flight together, and lanes write neighbours.
template <class T>
__device__ __forceinline__ void stage_classes_as(const MergeArgs& a, int64_t b,
                                                 const SourceRect& rect, int32_t c0, int count,
                                                 float* planes) {
  constexpr int kElems = Pack<T>::kElems;
  const Seg& seg = a.coarse.seg;
  const T* corner = static_cast<const T*>(seg.data) + b * seg.stride_b + c0 * seg.stride_n +
                    rect.top * seg.stride_y + rect.left * seg.stride_x;
  const int points = rect.rows * rect.columns;
  for (int i = threadIdx.x; i < points; i += static_cast<int>(blockDim.x)) {
    const int row = i / rect.columns;
    const T* pixel = corner + row * seg.stride_y + (i - row * rect.columns) * seg.stride_x;
    float* to = planes + i;
    if (a.coarse.packed) {  // then so are c0 and count: kStagedClasses is a multiple of any pack
#pragma unroll 4
      for (int c = 0; c < count; c += kElems, to += kElems * kPlaneElems) {
        const Pack<T> pack = load_pack(pixel + c);
#pragma unroll
        for (int e = 0; e < kElems; ++e) to[e * kPlaneElems] = to_float(pack.elems[e]);
      }
      continue;
    }
#pragma unroll 8
    for (int c = 0; c < count; ++c, to += kPlaneElems) {
      *to = to_float(*pixel);
      pixel += seg.stride_n;
    }
  }
}

// Called by all threads of the block; ends with a barrier.
__device__ __forceinline__ void stage_classes(const MergeArgs& a, int64_t b, const SourceRect& rect,
                                              int32_t c0, int count, float* planes) {
  if (a.coarse.seg.dtype == DType::kF32) {
    stage_classes_as<float>(a, b, rect, c0, count, planes);
  } else if (a.coarse.seg.dtype == DType::kF16) {
    stage_classes_as<F16>(a, b, rect, c0, count, planes);
  } else {
    stage_classes_as<BF16>(a, b, rect, c0, count, planes);
  }
  __syncthreads();  // threads sample what others staged; callers do not diverge within a block
}

// Where an output pixel's taps lie in a plane.
struct StagedPixel {
  int p00, right, below;
  float w1_y, w1_x;
  bool resized;

  __device__ __forceinline__ StagedPixel(const SourceRect& rect, BilinearTap y, BilinearTap x,
                                         bool is_resized)
      : p00((y.i0 - rect.top) * rect.columns + x.i0 - rect.left),
        right(x.i1 - x.i0),
        below((y.i1 - y.i0) * rect.columns),
        w1_y(y.w1),
        w1_x(x.w1),
        resized(is_resized) {}

  // NaN counts as -inf.
  __device__ __forceinline__ float sample(const float* plane) const {
    const float* at = plane + p00;
    if (!resized) return fmaxf(at[0], -INFINITY);  // of NaN and a number fmaxf takes the number
    return fmaxf(bilinear_value(at[0], at[right], at[below], at[below + right], w1_y, w1_x),
                 -INFINITY);
  }
};

// All classes of the pixels of a column, from top to bottom. Pixels between the same two source
// rows share what is interpolated along x.
template <int N>
class StagedColumn {
 public:
  __device__ __forceinline__ StagedColumn(const SourceRect& rect, BilinearTap x, bool resized)
      : rect_(rect), x_(x), resized_(resized) {}

  // Values as bilinear_value computes them; NaN counts as -inf, as fmaxf takes the number of the
  // two.
  __device__ __forceinline__ void sample(const float* planes, BilinearTap y, float (&v)[N]) {
    const float* at = planes + (y.i0 - rect_.top) * rect_.columns + x_.i0 - rect_.left;
    if (!resized_) {
#pragma unroll
      for (int c = 0; c < N; ++c) v[c] = fmaxf(at[c * kPlaneElems], -INFINITY);
      return;
    }
    if (y.i0 != held_) {
      held_ = y.i0;
      const int right = x_.i1 - x_.i0, below = (y.i1 - y.i0) * rect_.columns;
      const float w0 = 1.0f - x_.w1;
#pragma unroll
      for (int c = 0; c < N; ++c, at += kPlaneElems) {
        top_[c] = fmaf(at[right], x_.w1, at[0] * w0);
        bottom_[c] = fmaf(at[below + right], x_.w1, at[below] * w0);
      }
    }
    const float w0 = 1.0f - y.w1;
#pragma unroll
    for (int c = 0; c < N; ++c) v[c] = fmaxf(fmaf(bottom_[c], y.w1, top_[c] * w0), -INFINITY);
  }

 private:
  const SourceRect& rect_;
  BilinearTap x_;
  bool resized_;
  int32_t held_ = -1;
  float top_[N], bottom_[N];
};

// find_foreground, with the vote on the first slots before it.
__device__ __forceinline__ bool vote_and_find(const MergeArgs& a, const MergeTile& tile,
                                              const ThreadPixels& pixels, WindowVotes& votes,
                                              Foreground* out) {
  const ImageWindows windows(a, tile.b);
  if (warp_of_thread() == 0) {
    const uint32_t first = vote_of_warp(a, windows, tile, 0);
    if (lane_of_thread() == 0) votes.first = first;
  }
  __syncthreads();  // all threads get here; the vote on the first slots is visible from here on
  return find_foreground(a, tile, windows, pixels, 0, votes, out);
}

struct ProbTile {
  MergeTile at;
  Axis y, x;
  SourceRect rect;
  bool resized;
  int64_t plane;  // H * W

  __device__ __forceinline__ ProbTile(const MergeArgs& a, MergeTile tile)
      : at(tile),
        y(a.coarse.seg.h, a.coarse.H),
        x(a.coarse.seg.w, a.coarse.W),
        rect(at, y, x),
        resized(y.resized() || x.resized()),
        plane(a.coarse.H * a.coarse.W) {}

  __device__ __forceinline__ StagedPixel pixel(int32_t row, int32_t column) const {
    return {rect, y.tap(at.y0 + row), x.tap(at.x0 + column), resized};
  }
  __device__ __forceinline__ float* out(const MergeArgs& a, int32_t row, int32_t column) const {
    return a.probs + at.b * a.coarse.seg.N * plane + (at.y0 + row) * a.coarse.W + at.x0 + column;
  }
};

__device__ __forceinline__ MergeTile prob_tile_of_block(const MergeArgs& a) {
  const TileNumber number(a, static_cast<int32_t>(blockIdx.x));
  MergeTile at{number.owner, number.y * a.tile_y, number.x * a.tile_x, a.tile_y,
               a.tile_x,     a.tile_x_log2};
  if (a.coarse.H - at.y0 < at.height) at.height = static_cast<int32_t>(a.coarse.H - at.y0);
  if (a.coarse.W - at.x0 < at.width) at.width = static_cast<int32_t>(a.coarse.W - at.x0);
  return at;
}

// Replaces logits, of which the largest is `top`, by the terms that softmax sums; returns 1 / their
// sum. If top is infinite, the first class that has it gets everything.
template <int N>
__device__ __forceinline__ float softmax_terms(float (&v)[N], float top) {
  if (!(fabsf(top) < INFINITY)) {
    bool taken = false;
#pragma unroll
    for (int c = 0; c < N; ++c) {
      const bool takes = !taken && v[c] == top;
      taken = taken || takes;
      v[c] = takes ? 1.0f : 0.0f;
    }
    return 1.0f;
  }
  float sum = 0.0f;
#pragma unroll
  for (int c = 0; c < N; ++c) {
    v[c] = softmax_exp(v[c] - top);
    sum += v[c];
  }
  return 1.0f / sum;
}

// What the fine answer adds, and to which class. The largest of the logits is `top`.
template <int N>
__device__ __forceinline__ Addition addition_to(const MergeArgs& a, const float (&v)[N], float top,
                                                float p_f) {
  if (!is_covered(p_f)) return {};
  // c*, the lowest class of the largest logit.
  uint32_t largest = 0;
#pragma unroll
  for (int c = 0; c < N; ++c) largest |= v[c] == top ? 1u << c : 0u;
  const bool small = is_small<N>(a.small, __ffs(static_cast<int>(largest)) - 1);
  if (!is_conflict(small, p_f)) return {};
  // The best class of the other group, or its first class if none is above -inf.
  const uint32_t others = other_classes<N>(a.small, small);
  FirstArgmax to;
  to.label = __ffs(others) - 1;
  if (to.label == kNoClass) return {};
#pragma unroll
  for (int c = 0; c < N; ++c) to.offer((others & 1u << c) != 0 ? v[c] : -INFINITY, c);
  return {to.label, conflict_addition(small, p_f)};
}

// Replaces the logits of a pixel by its scores.
template <int N>
__device__ __forceinline__ void merge_scores(const MergeArgs& a, float p_f, float (&v)[N]) {
  const bool covered = is_covered(p_f);
  if (a.rule == MergeRule::kOfficial) {
    const float addition = covered ? p_f : 0.0f;
#pragma unroll
    for (int c = 0; c < N; ++c) v[c] = is_small<N>(a.small, c) ? v[c] + addition : v[c];
    return;
  }
  float top = -INFINITY;
#pragma unroll
  for (int c = 0; c < N; ++c) top = fmaxf(top, v[c]);
  const Addition added = addition_to<N>(a, v, top, p_f);
  const float scale = softmax_terms<N>(v, top);
  if (a.rule == MergeRule::kPaper && covered) {
    // Values lie in [0, 2]: the softmax needs no maximum.
    float second = 0.0f;
#pragma unroll
    for (int c = 0; c < N; ++c) {
      v[c] = softmax_exp(fmaf(v[c], scale, c == added.target ? added.value : 0.0f));
      second += v[c];
    }
    const float share = 1.0f / second;
#pragma unroll
    for (int c = 0; c < N; ++c) v[c] *= share;
  } else if (added.target == kNoClass) {
#pragma unroll
    for (int c = 0; c < N; ++c) v[c] *= scale;
  } else {
    const float share = 1.0f / (1.0f + added.value);
#pragma unroll
    for (int c = 0; c < N; ++c) {
      v[c] = fmaf(v[c], scale, c == added.target ? added.value : 0.0f) * share;
    }
  }
}

template <int N>
__global__ void C2F_BOUNDS(kMergeThreads, N > 8 ? 3 : 4)
    aggregate_probs_kernel(const __grid_constant__ MergeArgs a) {
  using Planes = float[N * kPlaneElems];
  C2F_SHARED(Planes, planes);
  C2F_SHARED(WindowVotes, votes);
  C2F_DYNAMIC_SHARED(shared);
  const ProbTile tile(a, prob_tile_of_block(a));
  stage_classes(a, tile.at.b, tile.rect, 0, N, planes);
  const int threads = static_cast<int>(blockDim.x);
  const ThreadPixels pixels(tile.at, a.thread_rows);
  // p_f of this thread's pixels; no other thread reads them.
  float* p_f = reinterpret_cast<float*>(shared) + threadIdx.x;
  Foreground fine;
  const bool any_window = vote_and_find(a, tile.at, pixels, votes, &fine);
  if (pixels.rows <= 0) return;  // no barrier follows
  if (any_window) {
#pragma unroll
    for (int r = 0; r < kRowsOfThread; ++r) {
      if (r < pixels.rows) p_f[r * threads] = fine.p_f(r);
    }
  }
  StagedColumn<N> logits(tile.rect, tile.x.tap(tile.at.x0 + pixels.column), tile.resized);
  float* out = tile.out(a, pixels.row, pixels.column);
  for (int r = 0; r < pixels.rows; ++r, out += a.coarse.W, p_f += threads) {
    float v[N];
    logits.sample(planes, tile.y.tap(tile.at.y0 + pixels.row + r), v);
    merge_scores<N>(a, any_window ? *p_f : NAN, v);
    float* at = out;
#pragma unroll
    for (int c = 0; c < N; ++c, at += tile.plane) __stcs(at, v[c]);
  }
}

// Any number of classes. Tiles are narrow: one pixel per thread, whose state is kept across chunks.
__global__ void C2F_BOUNDS(kMergeThreads, 2)
    aggregate_probs_any_kernel(const __grid_constant__ MergeArgs a) {
  using Planes = float[kStagedClasses * kPlaneElems];
  C2F_SHARED(Planes, planes);
  C2F_SHARED(WindowVotes, votes);
  const ProbTile tile(a, prob_tile_of_block(a));
  const ThreadPixels pixels(tile.at, 1);
  Foreground fine;
  const bool any_window = vote_and_find(a, tile.at, pixels, votes, &fine);
  const bool mine = pixels.rows > 0;
  const int32_t row = mine ? pixels.row : 0, column = mine ? pixels.column : 0;
  const StagedPixel pixel = tile.pixel(row, column);
  const float p_f = any_window ? fine.p_f(0) : NAN;
  const int32_t classes = static_cast<int32_t>(a.coarse.seg.N);

  // Calls body(class, logit) for all classes of this thread's pixel. Called by all threads.
  const auto for_classes = [&](const auto& body) {
    for (int32_t c0 = 0; c0 < classes; c0 += kStagedClasses) {
      const int count = classes - c0 < kStagedClasses ? classes - c0 : kStagedClasses;
      stage_classes(a, tile.at.b, tile.rect, c0, count, planes);
      if (mine) {
        for (int i = 0; i < count; ++i) body(c0 + i, pixel.sample(planes + i * kPlaneElems));
      }
      __syncthreads();  // all have sampled, so the next chunk may overwrite; bounds are uniform
    }
  };

  float* out = tile.out(a, row, column);
  if (a.rule == MergeRule::kOfficial) {
    const float addition = is_covered(p_f) ? p_f : 0.0f;
    for_classes([&](int32_t c, float logit) {
      __stcs(out, a.small.has(c) ? logit + addition : logit);
      out += tile.plane;
    });
    return;
  }
  GroupBest best;
  RunningExpSum exps;
  for_classes([&](int32_t c, float logit) {
    best.add(c, a.small.has(c), logit);
    exps.add(logit);
  });
  const float top = best.top(), scale = 1.0f / exps.sum;
  const bool one_hot = !(fabsf(top) < INFINITY);
  const int32_t winner = best.winner();
  const Addition added = addition_of(best, p_f);
  const auto raised = [&](int32_t c, float logit) {
    const float addition = c == added.target ? added.value : 0.0f;
    return one_hot ? (c == winner ? 1.0f : 0.0f) + addition
                   : fmaf(expf(logit - top), scale, addition);
  };
  const bool second_softmax = a.rule == MergeRule::kPaper && is_covered(p_f);
  float share = 1.0f / (1.0f + added.value);
  if (a.rule == MergeRule::kPaper && any_window) {  // the same in all threads
    float second = 0.0f;
    for_classes([&](int32_t c, float logit) { second += expf(raised(c, logit)); });
    if (second_softmax) share = 1.0f / second;
  }
  for_classes([&](int32_t c, float logit) {
    const float value = raised(c, logit);
    __stcs(out, (second_softmax ? expf(value) : value) * share);
    out += tile.plane;
  });
}

}  // namespace c2f::cuda
