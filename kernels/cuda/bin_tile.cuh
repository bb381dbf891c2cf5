// The tile of bins that one block counts, in shared memory.
#pragma once

#include "axis.cuh"
#include "cell_counts_args.h"
#include "tile.cuh"

namespace c2f::cuda {

// A tile of bins along an axis.
struct BinPart {
  int32_t number;
  int32_t first_bin, bins;
  TilePart pixels;
};

__device__ __forceinline__ BinPart bin_part(const BinAxis& axis, const Axis& taps, int32_t number) {
  BinPart part;
  part.number = number;
  part.first_bin = number * axis.tile_bins;
  part.bins = min(axis.tile_bins, axis.bins - part.first_bin);
  const int32_t start = axis.bin_start(part.first_bin);
  part.pixels = tile_part(taps, start, axis.bin_start(part.first_bin + part.bins) - start);
  return part;
}

struct TilePlace {
  int32_t image;
  BinPart y, x;
};

// Finds the place of this block's tile. Two threads do so for all, in shared memory; else each of
// eight warps would compute the same and keep it in registers. Called by all threads of the block.
__device__ __forceinline__ void find_tile(const CellCountsArgs& a, TilePlace* place) {
  const CoarseArgs& coarse = a.coarse;
  const int32_t tile = static_cast<int32_t>(blockIdx.x);
  const int32_t row_of_all = a.x.by_tiles.quotient(tile);
  if (threadIdx.x == 0) {
    place->image = a.y.by_tiles.quotient(row_of_all);
    place->y = bin_part(a.y, Axis(coarse.seg.h, a.y.size_px, coarse.scale_y),
                        row_of_all - place->image * a.y.tiles);
  } else if (threadIdx.x == kWarpSize) {
    place->x = bin_part(a.x, Axis(coarse.seg.w, a.x.size_px, coarse.scale_x),
                        tile - row_of_all * a.x.tiles);
  }
  // All threads are here; the place is written.
  __syncthreads();
}

// The bin of each pixel along an axis of a tile, counted from the tile's first bin.
struct BinTable {
  uint16_t* bin;

  // The end of pixel i's bin, or `end` where that comes first.
  __device__ __forceinline__ int32_t same_bin(int32_t i, int32_t end) const {
    const int32_t mine = bin[i];
    if (bin[end - 1] == mine) return end;
    do ++i;
    while (bin[i] == mine);
    return i;
  }
};

// The bins of this block, and its part of shared memory.
struct BinTile {
  int64_t b;
  const BinPart &y, &x;
  const BinAxis& axis_y;
  int32_t* bins;  // [y.bins, x.bins]
  BinTable rows, columns;

  __device__ BinTile(const CellCountsArgs& a, const TilePlace& place, unsigned char* shared)
      : b(place.image),
        y(place.y),
        x(place.x),
        axis_y(a.y),
        bins(reinterpret_cast<int32_t*>(shared)),
        rows{reinterpret_cast<uint16_t*>(shared + a.row_bins)},
        columns{reinterpret_cast<uint16_t*>(shared + a.column_bins)} {}

  // Zeroes the bins and fills the tables of rows and columns.
  __device__ void begin(const CellCountsArgs& a) const {
    for (int i = threadIdx.x; i < y.bins * x.bins; i += blockDim.x) bins[i] = 0;
    for (int i = threadIdx.x; i < x.pixels.length; i += blockDim.x) {
      columns.bin[i] = static_cast<uint16_t>(a.x.bin_of(x.pixels.start + i) - x.first_bin);
    }
    for (int i = threadIdx.x; i < y.pixels.length; i += blockDim.x) {
      rows.bin[i] = static_cast<uint16_t>(a.y.bin_of(y.pixels.start + i) - y.first_bin);
    }
  }

  // Adds the pixels of a column `down`, or of a row `across`, whose bit in `members` is set.
  __device__ __forceinline__ void add_column(unsigned members, int32_t column,
                                             const Span& down) const {
    add(members, rows, down, bins + columns.bin[column], x.bins);
  }
  __device__ __forceinline__ void add_row(unsigned members, int32_t row, const Span& across) const {
    add(members, columns, across, bins + rows.bin[row] * x.bins, 1);
  }

  __device__ void store(const CellCountsArgs& a) const {
    int32_t* out = a.bins + b * a.y.bins * a.x.bins;
    for (int i = threadIdx.x; i < y.bins * x.bins; i += blockDim.x) {
      const int32_t at_y = y.first_bin + i / x.bins, at_x = x.first_bin + i % x.bins;
      out[static_cast<int64_t>(at_y) * a.x.bins + at_x] = bins[i];
    }
  }

 private:
  __device__ __forceinline__ void add(unsigned members, const BinTable& along, const Span& pixels,
                                      int32_t* first, int32_t step) const {
    members &= (1u << (pixels.end - pixels.first)) - 1u;
    if (members == 0) return;
    for (int32_t i = pixels.first, next; i < pixels.end; i = next) {
      next = along.same_bin(i, pixels.end);
      const int count = __popc(members >> (i - pixels.first) & ((1u << (next - i)) - 1u));
      atomicAdd(first + along.bin[i] * step, count);
    }
  }
};

// Counts pixels of two columns of cells, in the halves of a word, on the way down a tile. What lies
// in one row of bins is summed before it is added to the bins.
class ColumnCounts {
 public:
  // Begins at pixel row `row`; `even` and `odd` are the pixel columns of the two columns of cells.
  __device__ __forceinline__ ColumnCounts(const BinTile& tile, const Span& even, const Span& odd,
                                          int32_t row)
      : tile_(tile), even_(even), odd_(odd), row_(row), bin_(tile.rows.bin[row]) {
    find_end();
  }

  // Counts the rows of pixels down to `bottom`, in the columns whose half of `members` is 1.
  __device__ __forceinline__ void add(uint32_t members, int32_t bottom) {
    for (; bottom > end_; find_end()) {
      count_ += members * static_cast<uint32_t>(end_ - row_);
      row_ = end_;
      flush();
      ++bin_;
    }
    count_ += members * static_cast<uint32_t>(bottom - row_);
    row_ = bottom;
  }
  __device__ __forceinline__ void flush() {
    if (count_ == 0) return;
    int32_t* bins = tile_.bins + bin_ * tile_.x.bins;
    add_columns(bins, even_, static_cast<int32_t>(count_ & 0xffffu));
    add_columns(bins, odd_, static_cast<int32_t>(count_ >> 16));
    count_ = 0;
  }

 private:
  __device__ __forceinline__ void find_end() {
    end_ = tile_.axis_y.bin_start(tile_.y.first_bin + bin_ + 1) - tile_.y.pixels.start;
  }
  __device__ __forceinline__ void add_columns(int32_t* bins, const Span& across, int32_t rows) {
    if (rows == 0) return;
    for (int32_t column = across.first, beside; column < across.end; column = beside) {
      beside = tile_.columns.same_bin(column, across.end);
      atomicAdd(bins + tile_.columns.bin[column], rows * (beside - column));
    }
  }

  const BinTile& tile_;
  const Span &even_, &odd_;
  int32_t row_, bin_, end_;  // the next row of pixels, its row of bins, and where that ends
  uint32_t count_ = 0;
};

}  // namespace c2f::cuda
