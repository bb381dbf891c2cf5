// Pixels in memory and their values in float32; packs of 16 bytes.
#pragma once

#include <cstdint>

#include "../common/half.h"
#include "gpu.cuh"

namespace c2f::cuda {

template <class T>
__device__ __forceinline__ float pixel_value(T value) {
  return static_cast<float>(value);
}
template <>
__device__ __forceinline__ float pixel_value(F16 value) {
  return to_float(value);
}
template <>
__device__ __forceinline__ float pixel_value(BF16 value) {
  return to_float(value);
}

__device__ __forceinline__ void store_value(float* at, float value) { *at = value; }
__device__ __forceinline__ void store_value(F16* at, float value) { *at = to_f16(value); }
__device__ __forceinline__ void store_value(BF16* at, float value) { *at = to_bf16(value); }

// 16 bytes; `at` is a multiple of 16.
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
