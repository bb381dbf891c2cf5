// Elements of tensors on the device: what kernels/common/half.h does not have.
#pragma once

#include <cstdint>

#include "../common/half.h"
#include "gpu.cuh"

namespace c2f::cuda {

using c2f::to_float;
__device__ __forceinline__ float to_float(float value) { return value; }

// 16 bytes of elements, loaded at once from an address that is a multiple of 16. Not through __ldg:
// the compiler may move a load of what it takes for constant above wait_for_previous(), and a
// kernel launched early begins while its predecessor still writes.
template <class T>
struct alignas(16) Pack {
  static constexpr int kElems = 16 / static_cast<int>(sizeof(T));
  T elems[kElems];
};

template <class T>
__device__ __forceinline__ Pack<T> load_pack(const T* from) {
  const uint4 raw = *reinterpret_cast<const uint4*>(from);
  Pack<T> pack;
  *reinterpret_cast<uint4*>(&pack) = raw;
  return pack;
}

// Four elements beside each other, loaded at once from an address that is a multiple of their size.
template <class T>
struct alignas(4 * sizeof(T)) Quad {
  T elems[4];
};

template <class T>
__device__ __forceinline__ Quad<T> load_quad(const T* from) {
  return *reinterpret_cast<const Quad<T>*>(from);
}

}  // namespace c2f::cuda
