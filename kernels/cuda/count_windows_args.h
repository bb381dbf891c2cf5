#pragma once

#include "cell_counts_args.h"

namespace c2f::cuda {

struct CountWindowsArgs {
  CellCountsArgs cells;
  int32_t* across;  // [B, y.bins, x.windows], scratch
  int32_t* counts;  // [B, y.windows, x.windows]
};

}  // namespace c2f::cuda
