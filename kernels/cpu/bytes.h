// Rows of label bytes: class membership, sums, and repetition of coarse columns. Where C2F_VECTORS
// is defined (vec.h), namespace detail has these for the instruction set:
//
//   members32(rows, labels, out)  ClassSet::members for 32 labels; `rows` is ClassSet::rows_
//   bits32(rows, labels)          bit i says whether labels[i] is in the set
//   sum_blocks(p, n)              the sum of n bytes, n a multiple of 32
//   take16(in, lane, out)         out[i] = in[lane[i]] for 16 bytes, lane[i] in 0..15
#pragma once

#include <cstdint>
#include <cstring>

#include "../common/params.h"
#include "scratch.h"
#include "vec.h"

#if defined(C2F_VECTORS) && defined(__AVX2__)
#include "bytes_avx2.h"
#elif defined(C2F_VECTORS)
#include "bytes_neon.h"
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
      uint8_t* rows = first < 128 ? rows_ : rows_ + 16;
      for (int id = first; id < first + 8; ++id) {
        rows[id & 15] = static_cast<uint8_t>(rows[id & 15] | member_[id] << ((id >> 4) & 7));
      }
    }
  }

  uint8_t has(uint8_t id) const { return member_[id]; }

  // out[i] = 1 where labels[i] is in the set, else 0.
  void members(const uint8_t* labels, int64_t n, uint8_t* out) const {
    int64_t i = 0;
#if defined(C2F_VECTORS)
    for (; i + 32 <= n; i += 32) detail::members32(rows_, labels + i, out + i);
#endif
    for (; i < n; ++i) out[i] = member_[labels[i]];
  }

  // The same for exactly 32 labels.
  void members32(const uint8_t* labels, uint8_t* out) const { members(labels, 32, out); }

  // Bit i says whether labels[i] is in the set, for the first n <= 32; bits from n on are garbage.
  uint32_t bits(const uint8_t* labels, int64_t n) const {
#if defined(C2F_VECTORS)
    uint8_t padded[32];
    if (n < 32) {
      std::memcpy(padded, labels, static_cast<size_t>(n));
      labels = padded;
    }
    return detail::bits32(rows_, labels);
#else
    uint32_t found = 0;
    for (int64_t i = 0; i < n; ++i) found |= static_cast<uint32_t>(has(labels[i])) << i;
    return found;
#endif
  }

 private:
  // Bit k of rows_[i] stands for id i + 16 k, of rows_[16 + i] for id 128 + i + 16 k.
  uint8_t rows_[32] = {};
  uint8_t member_[kMaxClasses];
};

inline int64_t sum_bytes(const uint8_t* p, int64_t n) {
  int64_t sum = 0;
  int64_t i = 0;
#if defined(C2F_VECTORS)
  i = n - n % 32;
  sum = detail::sum_blocks(p, i);
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
#if defined(C2F_VECTORS)
    for (; x + 16 <= width_; x += 16) {
      detail::take16(in + column_[x], lane_.data() + x, out + x);
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
