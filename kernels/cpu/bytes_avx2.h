// AVX2 half of bytes.h, which documents the functions.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace c2f::cpu::detail {

// A byte shuffle by the low four bits of an id fetches a row of eight membership bits, one per
// value of the next three bits; the top bit chooses between the two tables of rows.
inline __m256i members32(const uint8_t* rows, __m256i ids) {
  const auto load16 = [](const uint8_t* p) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  };
  const __m256i bit_of = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(1, 2, 4, 8, 16, 32, 64, -128, 1, 2, 4, 8, 16, 32, 64, -128));
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i column = _mm256_and_si256(ids, nibble);
  const __m256i row = _mm256_and_si256(_mm256_srli_epi16(ids, 4), nibble);
  const __m256i bits = _mm256_blendv_epi8(_mm256_shuffle_epi8(load16(rows), column),
                                          _mm256_shuffle_epi8(load16(rows + 16), column), ids);
  const __m256i hit = _mm256_and_si256(bits, _mm256_shuffle_epi8(bit_of, row));
  return _mm256_add_epi8(_mm256_cmpeq_epi8(hit, _mm256_setzero_si256()), _mm256_set1_epi8(1));
}

inline void members32(const uint8_t* rows, const uint8_t* labels, uint8_t* out) {
  const __m256i ids = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(labels));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), members32(rows, ids));
}

inline uint32_t bits32(const uint8_t* rows, const uint8_t* labels) {
  const __m256i ids = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(labels));
  return static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_slli_epi16(members32(rows, ids), 7)));
}

inline int64_t sum_blocks(const uint8_t* p, int64_t n) {
  if (n == 0) return 0;
  __m256i sums = _mm256_setzero_si256();
  for (int64_t i = 0; i < n; i += 32) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i));
    sums = _mm256_add_epi64(sums, _mm256_sad_epu8(bytes, _mm256_setzero_si256()));
  }
  int64_t lanes[4];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), sums);
  return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

inline void take16(const uint8_t* in, const uint8_t* lane, uint8_t* out) {
  const __m128i source = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in));
  const __m128i lanes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(lane));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_shuffle_epi8(source, lanes));
}

}  // namespace c2f::cpu::detail
