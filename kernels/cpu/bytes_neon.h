// NEON half of bytes.h, which documents the functions.
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace c2f::cpu::detail {

inline uint8x16_t members16(const uint8_t* rows, const uint8_t* labels) {
  const uint8x16x2_t table = {{vld1q_u8(rows), vld1q_u8(rows + 16)}};
  const uint8x16_t ids = vld1q_u8(labels), low = vandq_u8(ids, vdupq_n_u8(15));
  // The row of an id: its lowest four bits, and its top bit above them.
  const uint8x16_t row = vorrq_u8(low, vandq_u8(vshrq_n_u8(ids, 3), vdupq_n_u8(16)));
  const uint8x16_t column = vandq_u8(vshrq_n_u8(ids, 4), vdupq_n_u8(7));
  const uint8x16_t bit = vshlq_u8(vdupq_n_u8(1), vreinterpretq_s8_u8(column));
  return vtstq_u8(vqtbl2q_u8(table, row), bit);
}

inline void members32(const uint8_t* rows, const uint8_t* labels, uint8_t* out) {
  vst1q_u8(out, vandq_u8(members16(rows, labels), vdupq_n_u8(1)));
  vst1q_u8(out + 16, vandq_u8(members16(rows, labels + 16), vdupq_n_u8(1)));
}

inline uint32_t bits32(const uint8_t* rows, const uint8_t* labels) {
  const uint8x16_t bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const uint8x16_t first = vandq_u8(members16(rows, labels), bit);
  const uint8x16_t second = vandq_u8(members16(rows, labels + 16), bit);
  // Each step adds neighbours: eight bytes of one bit each become a byte of eight.
  uint8x16_t sums = vpaddq_u8(first, second);
  sums = vpaddq_u8(sums, sums);
  sums = vpaddq_u8(sums, sums);
  return vgetq_lane_u32(vreinterpretq_u32_u8(sums), 0);
}

inline int64_t sum_blocks(const uint8_t* p, int64_t n) {
  uint64x2_t sums = vdupq_n_u64(0);
  for (int64_t i = 0; i < n; i += 16) {
    sums = vpadalq_u32(sums, vpaddlq_u16(vpaddlq_u8(vld1q_u8(p + i))));
  }
  return static_cast<int64_t>(vaddvq_u64(sums));
}

inline void take16(const uint8_t* in, const uint8_t* lane, uint8_t* out) {
  vst1q_u8(out, vqtbl1q_u8(vld1q_u8(in), vld1q_u8(lane)));
}

}  // namespace c2f::cpu::detail
