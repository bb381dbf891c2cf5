// Rows of label bytes: class membership, sums, and repetition of coarse columns.
#pragma once

#include <cstdint>
#include <cstring>

#include "../common/params.h"
#include "scratch.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace c2f::cpu {

// The set of small classes, ready for 32 lookups at a time.
class ClassSet {
 public:
  explicit ClassSet(const ClassTable& table) {
    for (int id = 0; id < kMaxClasses; ++id) member_[id] = table.is_small[id] != 0 ? 1 : 0;
    for (int first = 0; first < kMaxClasses; first += 8) {
      uint64_t eight;
      std::memcpy(&eight, member_ + first, 8);
      if (eight == 0) continue;
      uint8_t* rows = first < 128 ? low_rows_ : high_rows_;
      for (int id = first; id < first + 8; ++id) {
        rows[id & 15] = static_cast<uint8_t>(rows[id & 15] | member_[id] << ((id >> 4) & 7));
      }
    }
  }

  uint8_t has(uint8_t id) const { return member_[id]; }

  // out[i] = 1 where labels[i] is in the set, else 0.
  void members(const uint8_t* labels, int64_t n, uint8_t* out) const {
    int64_t i = 0;
#if defined(__AVX2__)
    for (; i + 32 <= n; i += 32) {
      const __m256i ids = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(labels + i));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), members32(ids));
    }
#endif
    for (; i < n; ++i) out[i] = member_[labels[i]];
  }

  // The same for exactly 32 labels.
  void members32(const uint8_t* labels, uint8_t* out) const { members(labels, 32, out); }

  // Bit i says whether labels[i] is in the set, for the first n <= 32; bits from n on are garbage.
  uint32_t bits(const uint8_t* labels, int64_t n) const {
#if defined(__AVX2__)
    uint8_t padded[32];
    if (n < 32) {
      std::memcpy(padded, labels, static_cast<size_t>(n));
      labels = padded;
    }
    const __m256i in = members32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(labels)));
    return static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_slli_epi16(in, 7)));
#else
    uint32_t found = 0;
    for (int64_t i = 0; i < n; ++i) found |= static_cast<uint32_t>(has(labels[i])) << i;
    return found;
#endif
  }

 private:
#if defined(__AVX2__)
  // A byte shuffle by the low four bits of an id fetches a row of eight membership bits, one per
  // value of the next three bits; the top bit chooses between the two tables of rows.
  __m256i members32(__m256i ids) const {
    const __m256i low = _mm256_broadcastsi128_si256(load16(low_rows_));
    const __m256i high = _mm256_broadcastsi128_si256(load16(high_rows_));
    const __m256i bit_of = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(1, 2, 4, 8, 16, 32, 64, -128, 1, 2, 4, 8, 16, 32, 64, -128));
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256i column = _mm256_and_si256(ids, nibble);
    const __m256i row = _mm256_and_si256(_mm256_srli_epi16(ids, 4), nibble);
    const __m256i bits = _mm256_blendv_epi8(_mm256_shuffle_epi8(low, column),
                                            _mm256_shuffle_epi8(high, column), ids);
    const __m256i hit = _mm256_and_si256(bits, _mm256_shuffle_epi8(bit_of, row));
    return _mm256_add_epi8(_mm256_cmpeq_epi8(hit, _mm256_setzero_si256()), _mm256_set1_epi8(1));
  }
  static __m128i load16(const uint8_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
#endif

  uint8_t low_rows_[16] = {};   // ids 0..127
  uint8_t high_rows_[16] = {};  // ids 128..255
  uint8_t member_[kMaxClasses];
};

inline int64_t sum_bytes(const uint8_t* p, int64_t n) {
  int64_t sum = 0;
  int64_t i = 0;
#if defined(__AVX2__)
  if (n >= 32) {
    __m256i sums = _mm256_setzero_si256();
    for (; i + 32 <= n; i += 32) {
      const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i));
      sums = _mm256_add_epi64(sums, _mm256_sad_epu8(bytes, _mm256_setzero_si256()));
    }
    int64_t lanes[4];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), sums);
    sum = lanes[0] + lanes[1] + lanes[2] + lanes[3];
  }
#endif
  for (; i < n; ++i) sum += p[i];
  return sum;
}

// Repeats bytes of coarse columns over the output columns they belong to: out[x] = in[column[x]],
// where `column` never falls and rises by at most one per position.
class ByteExpander {
 public:
  static constexpr int64_t kReadPadding = 16;  // bytes that `in` must offer past its last column

  ByteExpander(const int32_t* column, int64_t width) : column_(column), width_(width) {
    lane_.resize(static_cast<size_t>(width));
    for (int64_t x = 0; x < width; ++x) {
      lane_[static_cast<size_t>(x)] = static_cast<uint8_t>(column[x] - column[x / 16 * 16]);
    }
  }

  void operator()(const uint8_t* in, uint8_t* out) const {
    int64_t x = 0;
#if defined(__AVX2__)
    for (; x + 16 <= width_; x += 16) {
      const __m128i source = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + column_[x]));
      const __m128i lane = _mm_loadu_si128(reinterpret_cast<const __m128i*>(lane_.data() + x));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + x), _mm_shuffle_epi8(source, lane));
    }
#endif
    for (; x < width_; ++x) out[x] = in[column_[x]];
  }

 private:
  const int32_t* column_;  // [width], owned by the caller
  int64_t width_;
  Scratch<uint8_t> lane_;  // column[x] minus the column of the 16-byte block x lies in
};

}  // namespace c2f::cpu
