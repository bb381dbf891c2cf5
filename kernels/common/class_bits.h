// A set of classes as 256 bits: small enough to be a kernel parameter.
#pragma once

#include <cstdint>

#include "host_device.h"
#include "params.h"

namespace c2f {

struct ClassBits {
  uint32_t word[kMaxClasses / 32];

  // c in 0..255; 1 where it is in the set.
  C2F_HD uint32_t bit(int32_t c) const { return word[c >> 5] >> (c & 31) & 1u; }
  C2F_HD bool has(int32_t c) const { return bit(c) != 0; }

  // Any id of a label map.
  C2F_HD bool has_id(int64_t id) const {
    return id >= 0 && id < kMaxClasses && has(static_cast<int32_t>(id));
  }
};

inline ClassBits class_bits(const ClassTable& table) {
  ClassBits bits{};
  for (int c = 0; c < kMaxClasses; ++c) {
    if (table.is_small[c] != 0) bits.word[c >> 5] |= 1u << (c & 31);
  }
  return bits;
}

}  // namespace c2f
