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

// N classes of one pixel side by side, two in a word. They are compared two at once: the largest
// value first, then which classes have it, as bits.
template <int N, class T>
__device__ __forceinline__ FirstArgmax argmax_of_packed(const T* pixel) {
  static_assert(N <= 16 && N % 8 == 0);
  uint4 value[N / 8];
#pragma unroll
  for (int i = 0; i < N / 8; ++i) value[i] = reinterpret_cast<const uint4*>(pixel)[i];
  uint32_t best = Pair<T>::kLowest;  // which takes no NaN
#pragma unroll
  for (int i = 0; i < N / 8; ++i) {
    best = Pair<T>::max(best, Pair<T>::max(value[i].x, value[i].y));
    best = Pair<T>::max(best, Pair<T>::max(value[i].z, value[i].w));
  }
  best = Pair<T>::max(best, best >> 16 | best << 16);
  uint32_t has = 0;
#pragma unroll
  for (int i = 0; i < N / 8; ++i) {
    const uint32_t word[4] = {value[i].x, value[i].y, value[i].z, value[i].w};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      has |= Pair<T>::equal(best, word[k]) & (0x00020001u << (8 * i + 2 * k));
    }
  }
  FirstArgmax found;
  found.best = to_float(T{static_cast<uint16_t>(best)});
  // No class has it where all are NaN.
  found.label = max(__ffs(static_cast<int>((has | has >> 16) & 0xffffu)) - 1, 0);
  return found;
}

// N classes, `stride` elements apart; N = 0: `classes` of them.
template <class T, int N>
__device__ __forceinline__ FirstArgmax first_argmax(const T* pixel, int64_t stride, int32_t classes,
                                                    bool packed) {
  FirstArgmax found;
  constexpr int kElems = Pack<T>::kElems;
  if constexpr (N == 0 || N % kElems == 0) {
    if (packed) {
      if constexpr (N != 0 && Pair<T>::kTogether) return argmax_of_packed<N>(pixel);
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

// The same of four pixels beside each other, whose logits of a class are one load.
template <int N, class T>
__device__ __forceinline__ void argmax_of_four(const T* pixels, int64_t stride, int32_t classes,
                                               FirstArgmax (&found)[4]) {
  constexpr int kBatch = N == 0 ? 4 : N < 8 ? N : 8;  // classes whose loads are in flight at once
  const int32_t count = N != 0 ? N : classes;
#pragma unroll(N != 0 ? (N + kBatch - 1) / kBatch : 1)
  for (int32_t first = 0; first < count; first += kBatch) {
    Quad<T> quad[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      quad[i] = load_quad(pixels + min(first + i, count - 1) * stride);
    }
    // The last class, where it is here again, is not better than itself.
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) found[j].offer(to_float(quad[i].elems[j]), first + i);
    }
  }
}

// Two pixels at once are compared as halves of a word: the largest values first, then which classes
// have them, as bits of each half.
template <int N, class T>
__device__ __forceinline__ void argmax_of_four_halves(const T* pixels, int64_t stride,
                                                      FirstArgmax (&found)[4]) {
  static_assert(N <= 16);
  uint2 value[N];
#pragma unroll
  for (int c = 0; c < N; ++c) value[c] = *reinterpret_cast<const uint2*>(pixels + c * stride);
  uint32_t best[2] = {Pair<T>::kLowest, Pair<T>::kLowest};  // which takes no NaN
#pragma unroll
  for (int c = 0; c < N; ++c) {
    best[0] = Pair<T>::max(best[0], value[c].x);
    best[1] = Pair<T>::max(best[1], value[c].y);
  }
  uint32_t has[2] = {};
#pragma unroll
  for (int c = 0; c < N; ++c) {
    has[0] |= Pair<T>::equal(best[0], value[c].x) & (0x00010001u << c);
    has[1] |= Pair<T>::equal(best[1], value[c].y) & (0x00010001u << c);
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int shift = j % 2 * 16;
    found[j].best = to_float(T{static_cast<uint16_t>(best[j / 2] >> shift)});
    // No class has it where all are NaN.
    found[j].label = max(__ffs(static_cast<int>(has[j / 2] >> shift & 0xffffu)) - 1, 0);
  }
}

template <int N, class T>
__device__ __forceinline__ void first_argmax_of_quad(const T* pixels, int64_t stride,
                                                     int32_t classes, FirstArgmax (&found)[4]) {
  if constexpr (N != 0 && Pair<T>::kTogether) {
    argmax_of_four_halves<N>(pixels, stride, found);
  } else {
    argmax_of_four<N>(pixels, stride, classes, found);
  }
}

}  // namespace c2f::cuda
