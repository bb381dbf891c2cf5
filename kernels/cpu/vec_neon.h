// NEON half of vec.h, which documents the functions: every 64-bit Arm processor has it.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "../common/half.h"

namespace c2f::cpu {

struct Vec8f {
  float32x4_t lo, hi;
};
struct Vec8i {
  int32x4_t lo, hi;
};
struct Mask8 {
  uint32x4_t lo, hi;  // all ones or all zeros per lane
};

namespace detail {
inline Vec8f floats_of(uint16x8_t a) {
  return {vcvtq_f32_u32(vmovl_u16(vget_low_u16(a))), vcvtq_f32_u32(vmovl_high_u16(a))};
}
inline uint16x8_t low_halves(uint32x4_t lo, uint32x4_t hi) {
  return vuzp1q_u16(vreinterpretq_u16_u32(lo), vreinterpretq_u16_u32(hi));
}
inline uint16x8_t low_halves(Vec8i a) {
  return low_halves(vreinterpretq_u32_s32(a.lo), vreinterpretq_u32_s32(a.hi));
}
inline float64x2_t pairs(float32x4_t a) { return vreinterpretq_f64_f32(a); }
inline float32x4_t singles(float64x2_t a) { return vreinterpretq_f32_f64(a); }
}  // namespace detail

inline Vec8f set8(float value) { return {vdupq_n_f32(value), vdupq_n_f32(value)}; }
inline Vec8i set8(int32_t value) { return {vdupq_n_s32(value), vdupq_n_s32(value)}; }

inline Vec8f load8(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
inline Vec8i load8(const int32_t* p) { return {vld1q_s32(p), vld1q_s32(p + 4)}; }
inline Vec8f load8(const F16* p) {
  const float16x8_t halves = vreinterpretq_f16_u16(vld1q_u16(&p->bits));
  return {vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)};
}
inline Vec8f load8(const BF16* p) {
  const uint16x8_t words = vld1q_u16(&p->bits);
  return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(words), 16)),
          vreinterpretq_f32_u32(vshll_high_n_u16(words, 16))};
}
inline Vec8f load8(const uint8_t* p) { return detail::floats_of(vmovl_u8(vld1_u8(p))); }
inline Vec8f load8(const uint16_t* p) { return detail::floats_of(vld1q_u16(p)); }
inline Vec8f load8(const int16_t* p) {
  const int16x8_t words = vld1q_s16(p);
  return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(words))), vcvtq_f32_s32(vmovl_high_s16(words))};
}

inline void store8(float* p, Vec8f a) {
  vst1q_f32(p, a.lo);
  vst1q_f32(p + 4, a.hi);
}
inline void store8(int32_t* p, Vec8i a) {
  vst1q_s32(p, a.lo);
  vst1q_s32(p + 4, a.hi);
}
inline void store8(F16* p, Vec8f a) {
  const float16x8_t halves = vcvt_high_f16_f32(vcvt_f16_f32(a.lo), a.hi);
  vst1q_u16(&p->bits, vreinterpretq_u16_f16(halves));
}
inline void store8(BF16* p, Vec8f a) {
  const auto rounded = [](float32x4_t v) {
    const uint32x4_t bits = vreinterpretq_u32_f32(v);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t sum = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    return vbslq_u32(vceqq_f32(v, v), vshrq_n_u32(sum, 16), vdupq_n_u32(0x7fc0));
  };
  vst1q_u16(&p->bits, detail::low_halves(rounded(a.lo), rounded(a.hi)));
}

inline Vec8i load8_bytes(const uint8_t* p) {
  const uint16x8_t words = vmovl_u8(vld1_u8(p));
  return {vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(words))),
          vreinterpretq_s32_u32(vmovl_high_u16(words))};
}
inline void store8_bytes(uint8_t* p, Vec8i a) { vst1_u8(p, vmovn_u16(detail::low_halves(a))); }
inline void store32_bytes(uint8_t* p, Vec8i a, Vec8i b, Vec8i c, Vec8i d) {
  const auto bytes_of = [](Vec8i first, Vec8i second) {
    return vuzp1q_u8(vreinterpretq_u8_u16(detail::low_halves(first)),
                     vreinterpretq_u8_u16(detail::low_halves(second)));
  };
  vst1q_u8(p, bytes_of(a, b));
  vst1q_u8(p + 16, bytes_of(c, d));
}

inline Vec8f operator+(Vec8f a, Vec8f b) { return {vaddq_f32(a.lo, b.lo), vaddq_f32(a.hi, b.hi)}; }
inline Vec8f operator-(Vec8f a, Vec8f b) { return {vsubq_f32(a.lo, b.lo), vsubq_f32(a.hi, b.hi)}; }
inline Vec8f operator*(Vec8f a, Vec8f b) { return {vmulq_f32(a.lo, b.lo), vmulq_f32(a.hi, b.hi)}; }
inline Vec8f operator/(Vec8f a, Vec8f b) { return {vdivq_f32(a.lo, b.lo), vdivq_f32(a.hi, b.hi)}; }
inline Vec8i operator+(Vec8i a, Vec8i b) { return {vaddq_s32(a.lo, b.lo), vaddq_s32(a.hi, b.hi)}; }
inline Vec8i operator-(Vec8i a, Vec8i b) { return {vsubq_s32(a.lo, b.lo), vsubq_s32(a.hi, b.hi)}; }
inline Vec8f fma(Vec8f a, Vec8f b, Vec8f c) {
  return {vfmaq_f32(c.lo, a.lo, b.lo), vfmaq_f32(c.hi, a.hi, b.hi)};
}
inline Vec8f abs(Vec8f a) { return {vabsq_f32(a.lo), vabsq_f32(a.hi)}; }

inline Mask8 operator>(Vec8f a, Vec8f b) { return {vcgtq_f32(a.lo, b.lo), vcgtq_f32(a.hi, b.hi)}; }
inline Mask8 operator>=(Vec8f a, Vec8f b) { return {vcgeq_f32(a.lo, b.lo), vcgeq_f32(a.hi, b.hi)}; }
inline Mask8 operator<(Vec8f a, Vec8f b) { return b > a; }
inline Mask8 operator==(Vec8f a, Vec8f b) { return {vceqq_f32(a.lo, b.lo), vceqq_f32(a.hi, b.hi)}; }
inline Mask8 operator==(Vec8i a, Vec8i b) { return {vceqq_s32(a.lo, b.lo), vceqq_s32(a.hi, b.hi)}; }
inline int movemask(Mask8 m) {
  const uint16x8_t bit = {1, 2, 4, 8, 16, 32, 64, 128};
  return vaddvq_u16(vandq_u16(detail::low_halves(m.lo, m.hi), bit));
}
inline Mask8 mask_of_bits(int bits) {
  const uint32x4_t all = vdupq_n_u32(static_cast<uint32_t>(bits));
  const uint32x4_t lo = {1, 2, 4, 8}, hi = {16, 32, 64, 128};
  return {vtstq_u32(all, lo), vtstq_u32(all, hi)};
}

inline Vec8f select(Mask8 m, Vec8f yes, Vec8f no) {
  return {vbslq_f32(m.lo, yes.lo, no.lo), vbslq_f32(m.hi, yes.hi, no.hi)};
}
inline Vec8i select(Mask8 m, Vec8i yes, Vec8i no) {
  return {vbslq_s32(m.lo, yes.lo, no.lo), vbslq_s32(m.hi, yes.hi, no.hi)};
}
// Not vminq and vmaxq: they return NaN if either operand is one.
inline Vec8f min(Vec8f a, Vec8f b) { return select(a < b, a, b); }
inline Vec8f max(Vec8f a, Vec8f b) { return select(a > b, a, b); }

inline Vec8f to_float(Vec8i a) { return {vcvtq_f32_s32(a.lo), vcvtq_f32_s32(a.hi)}; }
inline Vec8i to_int_rounded(Vec8f a) { return {vcvtnq_s32_f32(a.lo), vcvtnq_s32_f32(a.hi)}; }
inline Vec8f pow2(Vec8i n) {
  const Vec8i biased = n + set8(int32_t{127});
  return {vreinterpretq_f32_s32(vshlq_n_s32(biased.lo, 23)),
          vreinterpretq_f32_s32(vshlq_n_s32(biased.hi, 23))};
}

inline Vec8f permute(Vec8f a, Vec8i index) {
  const uint8x16x2_t table = {{vreinterpretq_u8_f32(a.lo), vreinterpretq_u8_f32(a.hi)}};
  const auto lanes = [&](int32x4_t i) {
    // Lane k lies in bytes 4k to 4k + 3.
    const uint32x4_t lane = vandq_u32(vreinterpretq_u32_s32(i), vdupq_n_u32(7));
    const uint32x4_t bytes = vmlaq_n_u32(vdupq_n_u32(0x03020100u), lane, 0x04040404u);
    return vreinterpretq_f32_u8(vqtbl2q_u8(table, vreinterpretq_u8_u32(bytes)));
  };
  return {lanes(index.lo), lanes(index.hi)};
}
inline Vec8f gather(const float* base, Vec8i index) {
  int32_t at[8];
  store8(at, index);
  const float lanes[8] = {base[at[0]], base[at[1]], base[at[2]], base[at[3]],
                          base[at[4]], base[at[5]], base[at[6]], base[at[7]]};
  return load8(lanes);
}
inline Vec8i gather_words(const uint8_t* p, int step) {
  int32_t words[8];
  for (int i = 0; i < 8; ++i) std::memcpy(words + i, p + i * step, 4);
  return load8(words);
}
inline Vec8i low_bytes(Vec8i words) {
  const int32x4_t byte = vdupq_n_s32(255);
  return {vandq_s32(words.lo, byte), vandq_s32(words.hi, byte)};
}
inline Vec8i without_low_bytes(Vec8i words) {
  const auto shifted = [](int32x4_t a) {
    return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(a), 8));
  };
  return {shifted(words.lo), shifted(words.hi)};
}

inline void transpose8(Vec8f r[8]) {
  const auto transpose4 = [](float32x4_t& a, float32x4_t& b, float32x4_t& c, float32x4_t& d) {
    const auto even_ab = detail::pairs(vtrn1q_f32(a, b)), odd_ab = detail::pairs(vtrn2q_f32(a, b));
    const auto even_cd = detail::pairs(vtrn1q_f32(c, d)), odd_cd = detail::pairs(vtrn2q_f32(c, d));
    a = detail::singles(vtrn1q_f64(even_ab, even_cd));
    b = detail::singles(vtrn1q_f64(odd_ab, odd_cd));
    c = detail::singles(vtrn2q_f64(even_ab, even_cd));
    d = detail::singles(vtrn2q_f64(odd_ab, odd_cd));
  };
  transpose4(r[0].lo, r[1].lo, r[2].lo, r[3].lo);
  transpose4(r[0].hi, r[1].hi, r[2].hi, r[3].hi);
  transpose4(r[4].lo, r[5].lo, r[6].lo, r[7].lo);
  transpose4(r[4].hi, r[5].hi, r[6].hi, r[7].hi);
  for (int i = 0; i < 4; ++i) {
    const float32x4_t t = r[i].hi;
    r[i].hi = r[i + 4].lo;
    r[i + 4].lo = t;
  }
}

}  // namespace c2f::cpu
