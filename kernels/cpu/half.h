// 16-bit float storage types and their scalar conversions. Vector conversions stand in vec.h.
#pragma once

#include <cstdint>
#include <cstring>

namespace c2f::cpu {

// Storage only, distinct types so that overloads of load8 / store8 pick the conversion.
struct F16 {
  uint16_t bits;
};
struct BF16 {
  uint16_t bits;
};

inline float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t bits_of_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float to_float(BF16 value) { return float_of_bits(static_cast<uint32_t>(value.bits) << 16); }

inline float to_float(F16 value) {
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
}

// Round to nearest even; NaN becomes the canonical quiet NaN.
inline BF16 to_bf16(float value) {
  const uint32_t bits = bits_of_float(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fc0u};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

// Round to nearest even, overflow to inf.
inline F16 to_f16(float value) {
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
}

}  // namespace c2f::cpu
