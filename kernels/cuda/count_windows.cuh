// count_windows in one launch: the last block of an image to finish its tile adds up the windows.
#pragma once

#include "cell_counts.cuh"
#include "count_windows_args.h"
#include "window_sums.cuh"

namespace c2f::cuda {

template <class T, int N, CellKind kKind>
__global__ void C2F_BOUNDS(kCellThreads, 3)
    count_windows_kernel(const __grid_constant__ CountWindowsArgs a) {
  C2F_DYNAMIC_SHARED(shared);
  wait_for_previous();
  const int64_t b = count_cells<T, N, kKind>(a.cells, shared);
  const BinAxis &y = a.cells.y, &x = a.cells.x;
  if (!last_of_image(a.cells.tickets + b, static_cast<uint32_t>(y.tiles) * x.tiles)) return;
  int32_t* across = a.across + b * y.bins * x.windows;
  sum_across(x, a.cells.bins + b * y.bins * x.bins, across, y.bins);
  // All threads of this block are here: the condition above is the same in all of them.
  __syncthreads();
  sum_down(y, x.windows, across, a.counts + b * y.windows * x.windows);
}

}  // namespace c2f::cuda
