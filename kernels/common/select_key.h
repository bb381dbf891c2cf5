// Windows are ordered by higher count, then lower index. Both are packed into one 64-bit key,
// unique per window, so that any way of sorting gives the same order.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace c2f {

C2F_HD uint64_t select_key(int32_t count, uint32_t index) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(count)) << 32) | (0xffffffffu - index);
}
C2F_HD int32_t select_key_count(uint64_t key) { return static_cast<int32_t>(key >> 32); }
C2F_HD uint32_t select_key_index(uint64_t key) {
  return 0xffffffffu - static_cast<uint32_t>(key & 0xffffffffu);
}

}  // namespace c2f
