// count_windows: the number of small-class pixels in every window of a regular grid.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../common/params.h"
#include "cell_sums.h"
#include "parallel.h"
#include "scratch.h"
#include "window_cells.h"

namespace c2f::cpu {

inline void count_windows(const CountWindowsParams& p, int threads) {
  const ScratchRoom room(threads);
  const CellGrid grid(p.H, p.W, p.window_px, p.stride_px, p.flush);
  Scratch<uint32_t> sums(static_cast<size_t>(p.seg.B * grid.cells()));
  CellSums(p.seg, p.classes, p.H, p.W, grid, p.labels, threads).run(sums.data());
  Scratch<WindowSums> scratch;
  for (int i = 0; i < worker_count(p.seg.B, threads); ++i) scratch.emplace_back(grid);
  parallel_for(p.seg.B, threads, [&](int64_t b, int worker) {
    scratch[static_cast<size_t>(worker)].run(sums.data() + b * grid.cells(),
                                             p.counts + b * grid.windows());
  });
}

}  // namespace c2f::cpu
