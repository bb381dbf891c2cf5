// Launch geometry of the kernels that count cells: tiles, shared memory, which instantiation.
#pragma once

#include <cstdint>

#include "../../kernels/cuda/cell_counts_args.h"
#include "cell_kernels.h"
#include "launch.h"

namespace c2f::cuda {

// seg, classes, H, W, window, stride, flush as the op's parameters have them.
struct CellPlan {
  CellCountsArgs args;
  uint32_t key;
  int64_t blocks;
  uint32_t shared_bytes;
};

CellPlan plan_cells(const Seg& seg, const ClassTable& classes, int64_t H, int64_t W,
                    int64_t window_px, int64_t stride_px, bool flush, uint8_t* labels,
                    Workspace& workspace, const char* op);

}  // namespace c2f::cuda
