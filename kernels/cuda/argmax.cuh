// First argmax over the classes of a pixel of coarse logits.
#pragma once

#include <cmath>

#include "coarse_args.h"
#include "element.cuh"

namespace c2f::cuda {

// Mark beside a point's label: its largest logit is infinite, or all are NaN or -inf, so that its
// label proves nothing about the pixels between it and its neighbours.
constexpr uint32_t kNotFinite = 1u << 14;

// Fed with logits in ascending class order. A strict > keeps the first of equal classes and never
// takes a NaN, which thus counts as -inf; with nothing above -inf the label is 0.
struct FirstArgmax {
  float best;
  int32_t label;

  __device__ __forceinline__ FirstArgmax() : best(-INFINITY), label(0) {}
  __device__ __forceinline__ void offer(float value, int32_t c) {
    const bool better = value > best;
    best = better ? value : best;
    label = better ? c : label;
  }
  __device__ __forceinline__ uint32_t point() const {
    return static_cast<uint32_t>(label) | (fabsf(best) < INFINITY ? 0u : kNotFinite);
  }
};

// Two of these, whose logits are the halves of a word: two pixels, or the even and the odd classes
// of one.
template <class T>
struct FirstArgmaxOfTwo {
  uint32_t best = Pair<T>::kLowest, labels = 0;

  __device__ __forceinline__ void offer(uint32_t values, uint32_t classes) {
    const uint32_t better = Pair<T>::greater(values, best);
    labels ^= (labels ^ classes) & better;
    best = Pair<T>::max(best, values);
  }
  __device__ __forceinline__ uint32_t points() const {
    const uint32_t infinite = Pair<T>::greater(best & 0x7fff7fffu, Pair<T>::kLargest);
    return labels | (infinite & kNotFinite * 0x10001u);
  }
  // The argmax of the one pixel whose even and odd classes the halves are.
  __device__ __forceinline__ FirstArgmax together() const {
    FirstArgmax low, high;
    low.best = to_float(T{static_cast<uint16_t>(best)});
    low.label = static_cast<int32_t>(labels & 0xffffu);
    high.best = to_float(T{static_cast<uint16_t>(best >> 16)});
    high.label = static_cast<int32_t>(labels >> 16);
    const bool tie = high.best == low.best && high.label < low.label;
    return high.best > low.best || tie ? high : low;
  }
};

// Argmax of a pixel whose N classes lie side by side in memory, two in a word.
template <int N, class T>
__device__ __forceinline__ FirstArgmax argmax_of_packed(const T* pixel) {
  static_assert(N % 8 == 0);
  uint4 value[N / 8];
#pragma unroll
  for (int i = 0; i < N / 8; ++i) value[i] = reinterpret_cast<const uint4*>(pixel)[i];
  FirstArgmaxOfTwo<T> found;
#pragma unroll
  for (int i = 0; i < N / 8; ++i) {
    const uint32_t word[4] = {value[i].x, value[i].y, value[i].z, value[i].w};
#pragma unroll
    for (int k = 0; k < 4; ++k) found.offer(word[k], 0x00010000u + (8 * i + 2 * k) * 0x00010001u);
  }
  return found.together();
}

// Argmax of a pixel whose N classes (N = 0: `classes` of them) are `stride` elements apart.
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

// Four neighbouring pixels; gives their points, two in a word.
template <class T, bool kTogether = Pair<T>::kTogether>
struct FirstArgmaxOfFour {
  FirstArgmax found[4];

  __device__ __forceinline__ void offer(const Quad<T>& quad, int32_t c) {
#pragma unroll
    for (int j = 0; j < 4; ++j) found[j].offer(to_float(quad.elems[j]), c);
  }
  __device__ __forceinline__ uint2 points() const {
    return make_uint2(found[0].point() | found[1].point() << 16, found[2].point() | found[3].point()
                                                                                        << 16);
  }
};

template <class T>
struct FirstArgmaxOfFour<T, true> {
  FirstArgmaxOfTwo<T> left, right;

  __device__ __forceinline__ void offer(const Quad<T>& quad, int32_t c) {
    const uint2 words = *reinterpret_cast<const uint2*>(&quad);
    left.offer(words.x, c * 0x00010001u);
    right.offer(words.y, c * 0x00010001u);
  }
  __device__ __forceinline__ uint2 points() const {
    return make_uint2(left.points(), right.points());
  }
};

// Points of four pixels that are neighbours in memory; kQuads: one load reads their logits of a
// class.
template <int N, bool kQuads, class T>
__device__ __forceinline__ uint2 points_of_four(const T* pixels, int64_t stride, int32_t classes) {
  constexpr int kMost = kQuads ? 32 / static_cast<int>(sizeof(T)) : 8;
  constexpr int kBatch = N == 0      ? 4
                         : N < kMost ? N
                                     : kMost;  // classes with loads under way at once
  const int32_t count = N != 0 ? N : classes;
  FirstArgmaxOfFour<T> found;
#pragma unroll(N != 0 ? (N + kBatch - 1) / kBatch : 1)
  for (int32_t first = 0; first < count; first += kBatch) {
    Quad<T> quad[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      quad[i] = load_quad<kQuads>(pixels + min(first + i, count - 1) * stride);
    }
    // The last class may be offered again; it is not better than itself.
#pragma unroll
    for (int i = 0; i < kBatch; ++i) found.offer(quad[i], first + i);
  }
  return found.points();
}

// Labels of the first `inside` of four neighbouring pixels, from (y, x) of an image on, as the
// bytes of a word.
template <int N, class T>
__device__ __forceinline__ uint32_t labels_of_four(const CoarseArgs& a, const T* image, int64_t y,
                                                   int64_t x, int32_t inside) {
  const Seg& seg = a.seg;
  const T* pixels = image + y * seg.stride_y + x * seg.stride_x;
  const int32_t classes = static_cast<int32_t>(seg.N);
  if (seg.stride_x == 1 && inside == kQuad) {
    const uint2 points = a.quads && x % kQuad == 0
                             ? points_of_four<N, true>(pixels, seg.stride_n, classes)
                             : points_of_four<N, false>(pixels, seg.stride_n, classes);
    return __byte_perm(points.x, points.y, 0x6420);
  }
  uint32_t labels = 0;
#pragma unroll 1
  for (int32_t i = 0; i < inside; ++i, pixels += seg.stride_x) {
    const auto found = first_argmax<T, N>(pixels, seg.stride_n, classes, a.packed);
    labels |= static_cast<uint32_t>(found.label) << 8 * i;
  }
  return labels;
}

// Stores neighbouring labels: the first `inside` bytes of a word.
__device__ __forceinline__ void store_labels(uint8_t* at, uint32_t labels, int32_t inside) {
  if (inside == kQuad && reinterpret_cast<uintptr_t>(at) % kQuad == 0) {
    *reinterpret_cast<uint32_t*>(at) = labels;
  } else {
    for (int32_t i = 0; i < inside; ++i) at[i] = static_cast<uint8_t>(labels >> 8 * i);
  }
}

}  // namespace c2f::cuda
