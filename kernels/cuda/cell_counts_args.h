// Arguments of the kernels that count small-object pixels, one block per tile of bins.
#pragma once

#include <cstdint>

#include "../common/class_bits.h"
#include "coarse_args.h"
#include "window_bins.h"

namespace c2f::cuda {

// What the coarse answer is: a label map, logits of the image's size, or logits to be upsampled.
enum class CellKind : int32_t { kLabels, kOwnSize, kUpsampled };

struct CellCountsArgs {
  CoarseArgs coarse;
  ClassBits small;
  BinAxis y, x;
  // Offsets, in bytes, of two tables in a block's dynamic shared memory, which begins with the
  // int32 bins: uint16 [tile_px], the bin of each row or column of pixels.
  uint32_t row_bins, column_bins;
  int32_t* bins;  // [B, y.bins, x.bins], scratch
};

}  // namespace c2f::cuda
