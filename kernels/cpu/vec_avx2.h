// AVX2 + FMA + F16C half of vec.h, which documents the functions.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "../common/half.h"

namespace c2f::cpu {

struct Vec8f {
  __m256 v;
};
struct Vec8i {
  __m256i v;
};
struct Mask8 {
  __m256 v;  // all ones or all zeros per lane
};

inline Vec8f set8(float value) { return {_mm256_set1_ps(value)}; }
inline Vec8i set8(int32_t value) { return {_mm256_set1_epi32(value)}; }

inline Vec8f load8(const float* p) { return {_mm256_loadu_ps(p)}; }
inline Vec8i load8(const int32_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
}
inline Vec8f load8(const F16* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
inline Vec8f load8(const BF16* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
}
inline Vec8f load8(const uint8_t* p) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))};
}
inline Vec8f load8(const uint16_t* p) {
  const __m128i words = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(words))};
}
inline Vec8f load8(const int16_t* p) {
  const __m128i words = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(words))};
}

inline void store8(float* p, Vec8f a) { _mm256_storeu_ps(p, a.v); }
inline void store8(int32_t* p, Vec8i a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.v); }
inline void store8(F16* p, Vec8f a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline void store8(BF16* p, Vec8f a) {
  const __m256i bits = _mm256_castps_si256(a.v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_srli_epi32(
      _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q));
  const __m256i words = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), nan);
  const __m128i packed =
      _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), packed);
}

namespace detail {
inline __m256i first_lanes(int m) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(m), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
}  // namespace detail

inline Vec8f load8_partial(const float* p, int m) {
  return {_mm256_maskload_ps(p, detail::first_lanes(m))};
}
inline void store8_partial(float* p, Vec8f a, int m) {
  _mm256_maskstore_ps(p, detail::first_lanes(m), a.v);
}

inline Vec8i load8_bytes(const uint8_t* p) {
  return {_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))};
}
inline void store8_bytes(uint8_t* p, Vec8i a) {
  const __m128i words =
      _mm_packus_epi32(_mm256_castsi256_si128(a.v), _mm256_extracti128_si256(a.v, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
}
inline void store32_bytes(uint8_t* p, Vec8i a, Vec8i b, Vec8i c, Vec8i d) {
  // packus works within 128-bit halves; the permutation puts the groups of four back in order.
  const __m256i ab = _mm256_packus_epi32(a.v, b.v);
  const __m256i cd = _mm256_packus_epi32(c.v, d.v);
  const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(ab, cd),
                                                    _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bytes);
}

inline Vec8f operator+(Vec8f a, Vec8f b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Vec8f operator-(Vec8f a, Vec8f b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Vec8f operator*(Vec8f a, Vec8f b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Vec8f operator/(Vec8f a, Vec8f b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Vec8i operator+(Vec8i a, Vec8i b) { return {_mm256_add_epi32(a.v, b.v)}; }
inline Vec8i operator-(Vec8i a, Vec8i b) { return {_mm256_sub_epi32(a.v, b.v)}; }
inline Vec8f fma(Vec8f a, Vec8f b, Vec8f c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec8f min(Vec8f a, Vec8f b) { return {_mm256_min_ps(a.v, b.v)}; }
inline Vec8f max(Vec8f a, Vec8f b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Vec8f abs(Vec8f a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }

inline Mask8 operator>(Vec8f a, Vec8f b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)}; }
inline Mask8 operator>=(Vec8f a, Vec8f b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GE_OQ)}; }
inline Mask8 operator<(Vec8f a, Vec8f b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
inline Mask8 operator==(Vec8f a, Vec8f b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
inline Mask8 operator==(Vec8i a, Vec8i b) {
  return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(a.v, b.v))};
}
inline int movemask(Mask8 m) { return _mm256_movemask_ps(m.v); }
inline Mask8 mask_of_bits(int bits) {
  const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return {_mm256_castsi256_ps(
      _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(bits), lane), lane))};
}

inline Vec8f select(Mask8 m, Vec8f yes, Vec8f no) { return {_mm256_blendv_ps(no.v, yes.v, m.v)}; }
inline Vec8i select(Mask8 m, Vec8i yes, Vec8i no) {
  return {_mm256_blendv_epi8(no.v, yes.v, _mm256_castps_si256(m.v))};
}

inline Vec8f to_float(Vec8i a) { return {_mm256_cvtepi32_ps(a.v)}; }
inline Vec8i to_int_rounded(Vec8f a) { return {_mm256_cvtps_epi32(a.v)}; }
inline Vec8f pow2(Vec8i n) {
  return {
      _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.v, _mm256_set1_epi32(127)), 23))};
}

inline Vec8f permute(Vec8f a, Vec8i index) { return {_mm256_permutevar8x32_ps(a.v, index.v)}; }
inline Vec8f gather(const float* base, Vec8i index) {
  return {_mm256_i32gather_ps(base, index.v, 4)};
}
inline Vec8i gather_words(const uint8_t* p, int step) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i offsets = _mm256_mullo_epi32(lane, _mm256_set1_epi32(step));
  return {_mm256_i32gather_epi32(reinterpret_cast<const int*>(p), offsets, 1)};
}
inline Vec8i low_bytes(Vec8i words) { return {_mm256_and_si256(words.v, _mm256_set1_epi32(255))}; }
inline Vec8i without_low_bytes(Vec8i words) { return {_mm256_srli_epi32(words.v, 8)}; }

inline void transpose8(Vec8f r[8]) {
  const __m256 t0 = _mm256_unpacklo_ps(r[0].v, r[1].v), t1 = _mm256_unpackhi_ps(r[0].v, r[1].v);
  const __m256 t2 = _mm256_unpacklo_ps(r[2].v, r[3].v), t3 = _mm256_unpackhi_ps(r[2].v, r[3].v);
  const __m256 t4 = _mm256_unpacklo_ps(r[4].v, r[5].v), t5 = _mm256_unpackhi_ps(r[4].v, r[5].v);
  const __m256 t6 = _mm256_unpacklo_ps(r[6].v, r[7].v), t7 = _mm256_unpackhi_ps(r[6].v, r[7].v);
  const __m256 s0 = _mm256_shuffle_ps(t0, t2, 0x44), s1 = _mm256_shuffle_ps(t0, t2, 0xee);
  const __m256 s2 = _mm256_shuffle_ps(t1, t3, 0x44), s3 = _mm256_shuffle_ps(t1, t3, 0xee);
  const __m256 s4 = _mm256_shuffle_ps(t4, t6, 0x44), s5 = _mm256_shuffle_ps(t4, t6, 0xee);
  const __m256 s6 = _mm256_shuffle_ps(t5, t7, 0x44), s7 = _mm256_shuffle_ps(t5, t7, 0xee);
  r[0].v = _mm256_permute2f128_ps(s0, s4, 0x20);
  r[1].v = _mm256_permute2f128_ps(s1, s5, 0x20);
  r[2].v = _mm256_permute2f128_ps(s2, s6, 0x20);
  r[3].v = _mm256_permute2f128_ps(s3, s7, 0x20);
  r[4].v = _mm256_permute2f128_ps(s0, s4, 0x31);
  r[5].v = _mm256_permute2f128_ps(s1, s5, 0x31);
  r[6].v = _mm256_permute2f128_ps(s2, s6, 0x31);
  r[7].v = _mm256_permute2f128_ps(s3, s7, 0x31);
}

}  // namespace c2f::cpu
