// Elements of tensors on the device: their values in float32, and several at once.
#pragma once

#include <cmath>
#include <cstdint>

#include "../common/half.h"
#include "gpu.cuh"

namespace c2f::cuda {

using c2f::to_float;
template <class T>
__device__ __forceinline__ float to_float(T value) {
  return static_cast<float>(value);
}

// e^x for a softmax, whose x is at most 2. The instruction is within 2^-22 of its argument's power
// of 2, relatively, and the product adds |x| * 2^-24: of what softmax makes of it no more than
// 2^-21 is left, absolutely. Below 2^-126 it is 0. A third of the instructions of expf, which knows
// neither range nor purpose.
__device__ __forceinline__ float softmax_exp(float x) {
  const float power = x * 1.44269504f;
#if defined(C2F_ON_HOST)
  return exp2f(power);
#else
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(power));
  return result;
#endif
}

// 16 bytes of elements, loaded at once from an address that is a multiple of 16. Not by __ldg: the
// compiler may move a load of supposedly constant memory above wait_for_previous(), and a kernel
// that is launched early begins while its predecessor still writes.
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

// Four neighbouring elements; kOnce: read by one load, from an address that is a multiple of their
// size.
template <class T>
struct alignas(4 * sizeof(T)) Quad {
  T elems[4];
};

template <bool kOnce, class T>
__device__ __forceinline__ Quad<T> load_quad(const T* from) {
  Quad<T> quad;
  if constexpr (!kOnce) {
    for (int i = 0; i < 4; ++i) quad.elems[i] = from[i];
  } else if constexpr (sizeof(T) == 2) {  // as words, or the compiler unpacks the elements
    *reinterpret_cast<uint2*>(&quad) = *reinterpret_cast<const uint2*>(from);
  } else {
    quad = *reinterpret_cast<const Quad<T>*>(from);
  }
  return quad;
}

__device__ __forceinline__ void store_value(float* at, float value) { *at = value; }
__device__ __forceinline__ void store_value(F16* at, float value) { *at = to_f16(value); }
__device__ __forceinline__ void store_value(BF16* at, float value) { *at = to_bf16(value); }

// Stores 16 bytes; `at` is a multiple of 16.
__device__ __forceinline__ void store_pack(float* at, const float (&value)[4]) {
  *reinterpret_cast<float4*>(at) = make_float4(value[0], value[1], value[2], value[3]);
}
__device__ __forceinline__ void store_pack(F16* at, const float (&value)[8]) {
  *reinterpret_cast<uint4*>(at) =
      make_uint4(pack_f16(value[0], value[1]), pack_f16(value[2], value[3]),
                 pack_f16(value[4], value[5]), pack_f16(value[6], value[7]));
}
__device__ __forceinline__ void store_pack(BF16* at, const float (&value)[8]) {
  *reinterpret_cast<uint4*>(at) =
      make_uint4(pack_bf16(value[0], value[1]), pack_bf16(value[2], value[3]),
                 pack_bf16(value[4], value[5]), pack_bf16(value[6], value[7]));
}

}  // namespace c2f::cuda
