// Arguments of the kernels in faults.cu.
#pragma once

#include <cstdint>

namespace c2f::cuda {

struct FaultArgs {
  int32_t* out;  // [blocks, 64]
  uint32_t* ticket;
};

}  // namespace c2f::cuda
