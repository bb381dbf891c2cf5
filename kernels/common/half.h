// 16-bit float storage types and their scalar conversions: one instruction on a GPU, integer
// arithmetic elsewhere. The cpu backend's vector conversions are in cpu/vec.h.
#pragma once

#include <cstdint>
#if !defined(__CUDA_ARCH__)
#include <cmath>
#include <cstring>
#endif

#include "host_device.h"

namespace c2f {

// Storage only, distinct types so that overloads pick the conversion.
struct F16 {
  uint16_t bits;
};
struct BF16 {
  uint16_t bits;
};

C2F_HD float float_of_bits(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

C2F_HD uint32_t bits_of_float(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}

C2F_HD float to_float(BF16 value) { return float_of_bits(static_cast<uint32_t>(value.bits) << 16); }

C2F_HD float to_float(F16 value) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
#else
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) {  // inf, NaN (quieted, as F16C does)
    const uint32_t mantissa = (magnitude & 0x3ffu) << 13;
    return float_of_bits(sign | 0x7f800000u | mantissa | (mantissa != 0 ? 0x400000u : 0u));
  }
  // 2^-24 is the unit of a subnormal half; exact in float.
  if (magnitude < 0x400u) {
    return float_of_bits(sign | bits_of_float(static_cast<float>(magnitude) * 0x1p-24f));
  }
  return float_of_bits(sign | ((magnitude << 13) + (112u << 23)));
#endif
}

// Rounds to nearest even. A NaN becomes a canonical quiet NaN, whose bits differ between a GPU and
// other processors.
C2F_HD BF16 to_bf16(float value) {
#if defined(__CUDA_ARCH__)
  BF16 result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#else
  const uint32_t bits = bits_of_float(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fc0u};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
#endif
}

// Rounds to nearest even; overflow gives inf.
C2F_HD F16 to_f16(float value) {
#if defined(__CUDA_ARCH__)
  F16 result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#else
  const uint32_t bits = bits_of_float(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // >= 65520
  if (magnitude < 0x38800000u) {
    // Below 2^-14: adding 0.5 leaves the half's subnormal mantissa, rounded, in the low bits.
    const uint32_t rounded = bits_of_float(float_of_bits(magnitude) + 0.5f) - bits_of_float(0.5f);
    return {static_cast<uint16_t>(sign | rounded)};
  }
  const uint32_t rounded = magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u);
  return {static_cast<uint16_t>(sign | (rounded >> 13))};
#endif
}

// Two values, rounded and packed into one word, the first in its low half; one instruction on a
// GPU.
C2F_HD uint32_t pack_bf16(float first, float second) {
#if defined(__CUDA_ARCH__)
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  return word;
#else
  return to_bf16(first).bits | static_cast<uint32_t>(to_bf16(second).bits) << 16;
#endif
}

C2F_HD uint32_t pack_f16(float first, float second) {
#if defined(__CUDA_ARCH__)
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  return word;
#else
  return to_f16(first).bits | static_cast<uint32_t>(to_f16(second).bits) << 16;
#endif
}

// max and > of each half of two words, for processors without the instructions (see Pair). The
// maximum of a NaN and a number is the number; > sets all bits of a half where it holds, which it
// never does for a NaN.
template <class Half>
C2F_HD uint32_t max_x2_in_two(uint32_t a, uint32_t b) {
  uint32_t word = 0;
  for (int shift = 0; shift < 32; shift += 16) {
    const Half x{static_cast<uint16_t>(a >> shift)}, y{static_cast<uint16_t>(b >> shift)};
    const bool second = to_float(y) > to_float(x) || std::isnan(to_float(x));
    word |= static_cast<uint32_t>((second ? y : x).bits) << shift;
  }
  return word;
}
template <class Half>
C2F_HD uint32_t greater_x2_in_two(uint32_t a, uint32_t b) {
  uint32_t word = 0;
  for (int shift = 0; shift < 32; shift += 16) {
    const Half x{static_cast<uint16_t>(a >> shift)}, y{static_cast<uint16_t>(b >> shift)};
    if (to_float(x) > to_float(y)) word |= 0xffffu << shift;
  }
  return word;
}

// Two 16-bit floats in the halves of a word; `kTogether` says that one instruction handles both.
template <class T>
struct Pair {
  static constexpr bool kTogether = false;
};

template <>
struct Pair<F16> {
  static constexpr bool kTogether = true;
  static constexpr uint32_t kLowest = 0xfc00fc00u, kLargest = 0x7bff7bffu;  // -inf; finite

  static C2F_HD uint32_t max(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)
    uint32_t word;
    asm("max.f16x2 %0, %1, %2;" : "=r"(word) : "r"(a), "r"(b));
    return word;
#else
    return max_x2_in_two<F16>(a, b);
#endif
  }
  static C2F_HD uint32_t greater(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)
    uint32_t word;
    asm("set.gt.u32.f16x2 %0, %1, %2;" : "=r"(word) : "r"(a), "r"(b));
    return word;
#else
    return greater_x2_in_two<F16>(a, b);
#endif
  }
};

// GPUs before compute capability 9.0 have no instruction that compares bfloat16.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
template <>
struct Pair<BF16> {
  static constexpr bool kTogether = true;
  static constexpr uint32_t kLowest = 0xff80ff80u, kLargest = 0x7f7f7f7fu;  // -inf; finite

  static C2F_HD uint32_t max(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)
    uint32_t word;
    asm("max.bf16x2 %0, %1, %2;" : "=r"(word) : "r"(a), "r"(b));
    return word;
#else
    return max_x2_in_two<BF16>(a, b);
#endif
  }
  static C2F_HD uint32_t greater(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)
    uint32_t word;
    asm("set.gt.u32.bf16x2 %0, %1, %2;" : "=r"(word) : "r"(a), "r"(b));
    return word;
#else
    return greater_x2_in_two<BF16>(a, b);
#endif
  }
};
#endif

}  // namespace c2f
