// The grid of cells of which all windows of a call are unions: starts and ends of the windows cut
// each axis into intervals. So a window's count is the sum of its cells, exactly, whatever window
// size, stride and edge rule are.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../common/windows.h"
#include "scratch.h"

namespace c2f::cpu {

// One axis. Interval e covers pixels edge[e] .. edge[e + 1] - 1. With stride > window some
// intervals belong to no window; pixels past the last edge never do.
struct CellAxis {
  explicit CellAxis(const WindowAxis& axis) {
    const int64_t count = axis.count();
    begin.resize(static_cast<size_t>(count));
    end.resize(static_cast<size_t>(count));
    // Merges the ascending starts with the ascending ends.
    for (int64_t starts = 0, ends = 0; ends < count;) {
      const int64_t next_end = axis.origin(ends) + axis.window_px;
      const int64_t next = starts < count ? std::min(axis.origin(starts), next_end) : next_end;
      const int32_t at = static_cast<int32_t>(edge.size());
      edge.push_back(static_cast<int32_t>(next));
      if (starts < count && axis.origin(starts) == next) begin[static_cast<size_t>(starts++)] = at;
      if (next_end == next) end[static_cast<size_t>(ends++)] = at;
    }
  }

  int64_t windows() const { return static_cast<int64_t>(begin.size()); }
  int64_t cells() const { return static_cast<int64_t>(edge.size()) - 1; }
  int32_t origin(int64_t i) const {
    return edge[static_cast<size_t>(begin[static_cast<size_t>(i)])];
  }

  Scratch<int32_t> edge;        // ascending, first 0
  Scratch<int32_t> begin, end;  // window i = intervals begin[i] .. end[i] - 1
};

struct CellGrid {
  CellGrid(int64_t H, int64_t W, int64_t window_px, int64_t stride_px, bool flush)
      : y(WindowAxis{H, window_px, stride_px, flush}),
        x(WindowAxis{W, window_px, stride_px, flush}) {}

  int64_t cells() const { return y.cells() * x.cells(); }
  int64_t windows() const { return y.windows() * x.windows(); }

  CellAxis y, x;
};

// Window counts from cell sums, by sums over all cells above and to the left of each corner; holds
// the scratch. The sums are kept modulo 2^32, which leaves differences exact for windows below 2^32
// pixels.
class WindowSums {
 public:
  explicit WindowSums(const CellGrid& grid)
      : grid_(&grid),
        corner_(static_cast<size_t>((grid.y.cells() + 1) * (grid.x.cells() + 1))),
        band_(static_cast<size_t>(grid.x.cells() + 1)) {}

  // cells: [cells_y, cells_x]; counts: [windows_y, windows_x].
  void run(const uint32_t* cells, int32_t* counts) {
    const size_t nx = static_cast<size_t>(grid_->x.cells());
    const size_t ny = static_cast<size_t>(grid_->y.cells());
    for (size_t e = 0; e < ny; ++e) {
      const uint32_t* row = cells + e * nx;
      const uint32_t* above = &corner_[e * (nx + 1)];
      uint32_t* below = &corner_[(e + 1) * (nx + 1)];
      uint32_t sum = 0;
      for (size_t f = 0; f < nx; ++f) {
        sum += row[f];
        below[f + 1] = above[f + 1] + sum;
      }
    }
    const int32_t* begin = grid_->x.begin.data();
    const int32_t* end = grid_->x.end.data();
    const size_t S = static_cast<size_t>(grid_->x.windows());
    for (size_t i = 0; i < static_cast<size_t>(grid_->y.windows()); ++i) {
      const uint32_t* top = &corner_[static_cast<size_t>(grid_->y.begin[i]) * (nx + 1)];
      const uint32_t* bottom = &corner_[static_cast<size_t>(grid_->y.end[i]) * (nx + 1)];
      for (size_t f = 0; f <= nx; ++f) band_[f] = bottom[f] - top[f];
      for (size_t j = 0; j < S; ++j) {
        counts[i * S + j] = static_cast<int32_t>(band_[static_cast<size_t>(end[j])] -
                                                 band_[static_cast<size_t>(begin[j])]);
      }
    }
  }

 private:
  const CellGrid* grid_;
  Scratch<uint32_t> corner_;  // first row and column stay 0
  Scratch<uint32_t> band_;
};

}  // namespace c2f::cpu
