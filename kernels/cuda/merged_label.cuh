// The merged label of a pixel, by its coarse logits.
#pragma once

#include <cmath>
#include <cstdint>

#include "argmax.cuh"
#include "patch_foreground.cuh"

namespace c2f::cuda {

// Addresses and weights of the coarse logits around an output pixel.
template <class T>
class PixelLogits {
 public:
  __device__ __forceinline__ PixelLogits(const CoarseArgs& a, const MergeTile& at, int pixel) {
    const Seg& seg = a.seg;
    const Axis y(seg.h, static_cast<int32_t>(a.H), a.scale_y);
    const Axis x(seg.w, static_cast<int32_t>(a.W), a.scale_x);
    const BilinearTap down = y.tap(at.y0 + at.row(pixel)), across = x.tap(at.x0 + at.column(pixel));
    resized_ = y.resized() || x.resized();
    w1_y_ = down.w1;
    w1_x_ = across.w1;
    stride_n_ = seg.stride_n;
    const int64_t right = across.i1 != across.i0 ? seg.stride_x : 0;
    p00_ = static_cast<const T*>(seg.data) + at.b * seg.stride_b + down.i0 * seg.stride_y +
           across.i0 * seg.stride_x;
    p01_ = p00_ + right;
    p10_ = p00_ + (down.i1 != down.i0 ? seg.stride_y : 0);
    p11_ = p10_ + right;
  }

  // The logit of the next class, beginning with the first.
  __device__ __forceinline__ float next() { return resized_ ? next_between() : next_at(); }

  // Those of all classes; NaN counts as -inf, as fmaxf takes the number of the two.
  template <int N>
  __device__ __forceinline__ void read(float (&value)[N]) {
    if (resized_) {
#pragma unroll
      for (int c = 0; c < N; ++c) value[c] = fmaxf(next_between(), -INFINITY);
    } else {
#pragma unroll
      for (int c = 0; c < N; ++c) value[c] = fmaxf(next_at(), -INFINITY);
    }
  }

 private:
  __device__ __forceinline__ float next_at() {
    const float value = to_float(*p00_);
    p00_ += stride_n_;
    return value;
  }
  __device__ __forceinline__ float next_between() {
    const float value = bilinear_value(to_float(*p00_), to_float(*p01_), to_float(*p10_),
                                       to_float(*p11_), w1_y_, w1_x_);
    p00_ += stride_n_;
    p01_ += stride_n_;
    p10_ += stride_n_;
    p11_ += stride_n_;
    return value;
  }

  const T *p00_, *p01_, *p10_, *p11_;
  int64_t stride_n_;
  float w1_y_, w1_x_;
  bool resized_;
};

// Whether a label is in C, among N classes.
template <int N>
__device__ __forceinline__ bool is_small(const ClassBits& small, int32_t label) {
  return N == 0 ? small.has(label) : (small.word[0] >> (label & 31) & 1u) != 0;
}

// The merged label of a listed pixel.
template <class T>
__device__ __forceinline__ int32_t merge_any(const MergeArgs& a, PixelLogits<T>& logits, float p_f,
                                             int32_t coarse) {
  const int32_t classes = static_cast<int32_t>(a.coarse.seg.N);
  if (a.rule == MergeRule::kOfficial) {
    FirstArgmax found;
#pragma unroll 2
    for (int32_t c = 0; c < classes; ++c) {
      const float logit = logits.next();
      found.offer(a.small.has(c) ? logit + p_f : logit, c);
    }
    return found.label;
  }
  GroupBest best;
  RunningExpSum exps;
#pragma unroll 2
  for (int32_t c = 0; c < classes; ++c) {
    const float logit = logits.next();
    best.add(c, a.small.has(c), logit);
    exps.add(logit);
  }
  const bool small = a.small.has(coarse);
  const GroupBest::Group from = small ? best.inside : best.outside;
  const GroupBest::Group to = small ? best.outside : best.inside;
  if (to.cls == kNoClass) return coarse;
  const bool one_hot = !(fabsf(exps.top) < INFINITY);
  const float p_from = one_hot ? 1.0f : expf(from.value - exps.top) / exps.sum;
  const float p_to = one_hot ? 0.0f : expf(to.value - exps.top) / exps.sum;
  return merged_label(coarse, p_from, to.cls, p_to, conflict_addition(small, p_f));
}

// The classes of the group (C or the rest) that does not contain a pixel's label.
template <int N>
__device__ __forceinline__ uint32_t other_classes(const ClassBits& small, bool label_is_small) {
  static_assert(N < 32);
  return (label_is_small ? ~small.word[0] : small.word[0]) & ((1u << N) - 1u);
}

// The same for a compiled-in number of classes: all logits stay in registers.
template <class T, int N>
__device__ __forceinline__ int32_t merge_pixel(const MergeArgs& a, PixelLogits<T>& logits,
                                               float p_f, int32_t coarse) {
  float v[N];
  logits.read(v);
  if (a.rule == MergeRule::kOfficial) {
    FirstArgmax found;
#pragma unroll
    for (int c = 0; c < N; ++c) found.offer(is_small<N>(a.small, c) ? v[c] + p_f : v[c], c);
    return found.label;
  }
  // The best class of the other group, or its first class if none is above -inf. The coarse label
  // has the largest logit; where the other class ties with it, what is added decides.
  const bool small = is_small<N>(a.small, coarse);
  const uint32_t others = other_classes<N>(a.small, small);
  FirstArgmax to;
  to.label = __ffs(others) - 1;
  if (to.label == kNoClass) return coarse;
  float top = -INFINITY;
#pragma unroll
  for (int c = 0; c < N; ++c) {
    to.offer((others & 1u << c) != 0 ? v[c] : -INFINITY, c);
    top = fmaxf(top, v[c]);
  }
  float sum = 0.0f;
#pragma unroll
  for (int c = 0; c < N; ++c) sum += softmax_exp(v[c] - top);
  const float scale = 1.0f / sum;
  const bool one_hot = !(fabsf(top) < INFINITY);
  const float p_from = one_hot ? 1.0f : scale;
  const float p_to = one_hot ? 0.0f : softmax_exp(to.best - top) * scale;
  return merged_label(coarse, p_from, to.label, p_to, conflict_addition(small, p_f));
}

}  // namespace c2f::cuda
