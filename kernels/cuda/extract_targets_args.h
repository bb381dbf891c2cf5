// What extract_targets' kernel is told.
#pragma once

#include <cstdint>

#include "../common/class_bits.h"
#include "../common/params.h"

namespace c2f::cuda {

constexpr int kTargetThreads = 256;

struct TargetArgs {
  Seg labels;
  WindowList windows;
  ClassBits classes;
  int32_t ignore_index;
  uint8_t* out;     // [B*n, k, k] contiguous
  int64_t elems;    // of a patch: k * k
  uint32_t blocks;  // of a patch: ceil of elems / (4 * kTargetThreads)
  bool words;       // every patch starts on a multiple of 4 bytes
};

}  // namespace c2f::cuda
