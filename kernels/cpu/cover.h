// Greedy maximum coverage over a window grid, exact to the pixel since windows cover whole cells.
#pragma once

#include <algorithm>
#include <cstdint>

#include "scratch.h"
#include "window_cells.h"

namespace c2f::cpu {

// One per worker: holds the scratch. When a window is taken, the pixels it newly covers are
// subtracted from the gains of the windows that overlap it; no other gain changes. The best gain of
// each row of windows is kept, so that a round looks at few windows.
class Cover {
 public:
  explicit Cover(const CellGrid& grid)
      : grid_(&grid), row_best_(static_cast<size_t>(grid.y.windows())) {
    const size_t widest = longest(grid.x), highest = longest(grid.y);
    fresh_.resize((highest + 1) * (widest + 1));
    band_.resize(widest + 1);
  }

  // `cells` (sums per cell) and `gains` (counts per window) are used up. Calls take(index, gain)
  // for each window chosen, at most n times, until none gains min_pixels; ties go to the lower
  // index.
  template <class Take>
  void run(uint32_t* cells, int32_t* gains, int64_t n, int64_t min_pixels, const Take& take) {
    const int64_t R = grid_->y.windows(), S = grid_->x.windows();
    for (int64_t i = 0; i < R; ++i) find_row_best(gains, i);
    for (int64_t round = 0; round < n; ++round) {
      const int64_t i = std::max_element(row_best_.begin(), row_best_.end()) - row_best_.begin();
      const int32_t gain = row_best_[static_cast<size_t>(i)];
      if (gain < min_pixels) return;
      const int32_t* row = gains + i * S;
      const int64_t j = std::find(row, row + S, gain) - row;
      take(i * S + j, gain);
      if (round + 1 < n) remove(cells, gains, i, j);
    }
  }

 private:
  static size_t longest(const CellAxis& axis) {
    int32_t most = 0;
    for (size_t i = 0; i < axis.begin.size(); ++i) {
      most = std::max(most, axis.end[i] - axis.begin[i]);
    }
    return static_cast<size_t>(most);
  }

  // Windows [first, last) that share cells with window i; a range, since starts and ends ascend.
  static void overlapping(const CellAxis& axis, int64_t i, int64_t* first, int64_t* last) {
    const int32_t begin = axis.begin[static_cast<size_t>(i)];
    const int32_t end = axis.end[static_cast<size_t>(i)];
    int64_t a = i, z = i + 1;
    while (a > 0 && axis.end[static_cast<size_t>(a - 1)] > begin) --a;
    while (z < axis.windows() && axis.begin[static_cast<size_t>(z)] < end) ++z;
    *first = a;
    *last = z;
  }

  void find_row_best(const int32_t* gains, int64_t i) {
    const int64_t S = grid_->x.windows();
    const int32_t* row = gains + i * S;
    int32_t best = 0;
    for (int64_t j = 0; j < S; ++j) best = std::max(best, row[j]);
    row_best_[static_cast<size_t>(i)] = best;
  }

  // Takes the pixels of window (i, j) out of the cells and of every gain.
  void remove(uint32_t* cells, int32_t* gains, int64_t i, int64_t j) {
    const CellAxis& y = grid_->y;
    const CellAxis& x = grid_->x;
    const int32_t y0 = y.begin[static_cast<size_t>(i)], y1 = y.end[static_cast<size_t>(i)];
    const int32_t x0 = x.begin[static_cast<size_t>(j)], x1 = x.end[static_cast<size_t>(j)];
    const size_t width = static_cast<size_t>(x1 - x0);
    take_cells(cells, y0, y1, x0, width);
    int64_t first_row, last_row, first, last;
    overlapping(y, i, &first_row, &last_row);
    overlapping(x, j, &first, &last);
    for (int64_t row = first_row; row < last_row; ++row) {
      const int32_t top = std::max(y.begin[static_cast<size_t>(row)], y0) - y0;
      const int32_t bottom = std::min(y.end[static_cast<size_t>(row)], y1) - y0;
      const uint32_t* above = &fresh_[static_cast<size_t>(top) * (width + 1)];
      const uint32_t* below = &fresh_[static_cast<size_t>(bottom) * (width + 1)];
      if (above[width] == below[width]) continue;  // nothing new in these cells
      for (size_t f = 0; f <= width; ++f) band_[f] = below[f] - above[f];
      int32_t* gain = gains + row * x.windows();
      for (int64_t column = first; column < last; ++column) {
        const int32_t left = std::max(x.begin[static_cast<size_t>(column)], x0) - x0;
        const int32_t right = std::min(x.end[static_cast<size_t>(column)], x1) - x0;
        gain[column] -= static_cast<int32_t>(band_[static_cast<size_t>(right)] -
                                             band_[static_cast<size_t>(left)]);
      }
      find_row_best(gains, row);
    }
  }

  // Zeroes the cells of a window. fresh_[r][c], of [rows + 1, width + 1], gets the sum of what its
  // first r rows and c columns of cells held.
  void take_cells(uint32_t* cells, int32_t y0, int32_t y1, int32_t x0, size_t width) {
    std::fill(fresh_.begin(), fresh_.begin() + static_cast<int64_t>(width + 1), 0u);
    for (int32_t e = y0; e < y1; ++e) {
      uint32_t* row = cells + e * grid_->x.cells() + x0;
      const uint32_t* above = &fresh_[static_cast<size_t>(e - y0) * (width + 1)];
      uint32_t* below = &fresh_[static_cast<size_t>(e - y0 + 1) * (width + 1)];
      uint32_t sum = 0;
      below[0] = 0;
      for (size_t f = 0; f < width; ++f) {
        sum += row[f];
        row[f] = 0;
        below[f + 1] = above[f + 1] + sum;
      }
    }
  }

  const CellGrid* grid_;
  Scratch<int32_t> row_best_;  // largest gain in each row of windows
  Scratch<uint32_t> fresh_, band_;
};

}  // namespace c2f::cpu
