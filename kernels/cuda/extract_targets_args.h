// Arguments of extract_targets' kernel.
#pragma once

#include <cstdint>

#include "../common/class_bits.h"
#include "../common/params.h"
#include "divider.h"

namespace c2f::cuda {

constexpr int kTargetThreads = 256;
constexpr int kTargetPixels = 8;                    // of a thread
constexpr int64_t kMostDivided = int64_t{1} << 31;  // parts of a patch that a Divider can divide

struct TargetArgs {
  Seg labels;
  WindowList windows;
  ClassBits classes;
  int32_t ignore_index;
  uint8_t* out;       // [B*n, k, k] contiguous
  int64_t parts;      // of a patch: kTargetPixels of a row, or the rest of it
  int32_t row_parts;  // of a row
  Divider by_row_parts;
  int32_t blocks;  // of a patch: ceil of parts / kTargetThreads
  Divider by_blocks, by_slots;
  bool packed;  // every part starts on a multiple of kTargetPixels bytes, and has as many
};

}  // namespace c2f::cuda
