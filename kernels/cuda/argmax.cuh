// First argmax over the classes of a pixel of coarse logits.
#pragma once

#include <cmath>

#include "element.cuh"

namespace c2f::cuda {

// Fed with logits in ascending class order. A strict > keeps the first of equal classes and never
// takes a NaN, which thereby counts as -inf; without anything above -inf the label is 0.
struct FirstArgmax {
  float best;
  int32_t label;

  __device__ __forceinline__ FirstArgmax() : best(-INFINITY), label(0) {}
  __device__ __forceinline__ void offer(float value, int32_t c) {
    const bool better = value > best;
    best = better ? value : best;
    label = better ? c : label;
  }
  // An infinite best proves nothing about the pixels between this one and its neighbours.
  __device__ __forceinline__ bool finite() const { return fabsf(best) < INFINITY; }
};

// N classes, `stride` elements apart; N = 0: `classes` of them.
template <class T, int N>
__device__ __forceinline__ FirstArgmax first_argmax(const T* pixel, int64_t stride, int32_t classes,
                                                    bool packed) {
  FirstArgmax found;
  constexpr int kElems = Pack<T>::kElems;
  if constexpr (N == 0 || N % kElems == 0) {
    if (packed) {
      const int32_t count = N != 0 ? N : classes;
#pragma unroll(N != 0 ? N / kElems : 2)
      for (int32_t first = 0; first < count; first += kElems) {
        const Pack<T> pack = load_pack(pixel + first);
#pragma unroll
        for (int i = 0; i < kElems; ++i) found.offer(to_float(pack.elems[i]), first + i);
      }
      return found;
    }
  }
  if constexpr (N != 0) {
    T value[N];  // all loads in flight before the first comparison
#pragma unroll
    for (int c = 0; c < N; ++c) value[c] = pixel[c * stride];
#pragma unroll
    for (int c = 0; c < N; ++c) found.offer(to_float(value[c]), c);
  } else {
#pragma unroll 8
    for (int32_t c = 0; c < classes; ++c) found.offer(to_float(pixel[c * stride]), c);
  }
  return found;
}

}  // namespace c2f::cuda
