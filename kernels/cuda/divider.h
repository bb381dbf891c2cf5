// Division by a number that the host knows before the launch.
#pragma once

#include <cstdint>

#include "../common/host_device.h"

namespace c2f::cuda {

// n / d for 0 <= n < 2^31 as a product: with l = ceil(log2 d) and mul = ceil(2^(31 + l) / d) the
// quotient is exactly n * mul >> (31 + l) (Granlund and Montgomery, PLDI 1994, theorem 4.2). An
// integer division costs a GPU a chain of some twenty instructions.
struct Divider {
  uint32_t mul, shift;

  C2F_HD int32_t quotient(int32_t n) const {
    return static_cast<int32_t>(static_cast<uint64_t>(static_cast<uint32_t>(n)) * mul >> shift);
  }
};

// No launch has blocks enough to ask for a number beyond these.
inline Divider make_divider(int64_t d) {
  constexpr int64_t kMost = 0x7fffffff;
  d = d < 1 ? 1 : d < kMost ? d : kMost;
  uint32_t log2 = 0;
  while ((int64_t{1} << log2) < d) ++log2;
  const uint64_t power = uint64_t{1} << (31 + log2), by = static_cast<uint64_t>(d);
  return {static_cast<uint32_t>((power + by - 1) / by), 31 + log2};
}

}  // namespace c2f::cuda
