// The tile of bins that one block counts, in shared memory.
#pragma once

#include "axis.cuh"
#include "cell_counts_args.h"

namespace c2f::cuda {

// What is asked of the pixels and cells along an axis of a tile.
struct AxisTables {
  uint16_t* bin;    // of each pixel, within the tile
  uint16_t* cell;   // of each pixel
  uint16_t* first;  // of each cell, and once more: its first pixel
  float* w1;        // of each pixel: weight of the second tap

  __device__ AxisTables(const AxisLayout& at, unsigned char* shared)
      : bin(reinterpret_cast<uint16_t*>(shared + at.bin)),
        cell(reinterpret_cast<uint16_t*>(shared + at.cell)),
        first(reinterpret_cast<uint16_t*>(shared + at.first)),
        w1(reinterpret_cast<float*>(shared + at.w1)) {}

  // The end of pixel i's bin, or `end` where that comes first.
  __device__ __forceinline__ int32_t same_bin(int32_t i, int32_t end) const {
    const int32_t mine = bin[i];
    if (bin[end - 1] == mine) return end;
    do ++i;
    while (bin[i] == mine);
    return i;
  }
};

// A tile along an axis. Where it is upsampled, cells are counted from that of its first pixel.
struct TilePart {
  int32_t number;
  int32_t first_bin, bins;
  int32_t start, length;  // pixels
  int32_t source, cells;  // first source pixel, and how many cells begin there
};

__device__ __forceinline__ TilePart tile_part(const BinAxis& axis, const Axis& taps,
                                              int32_t number) {
  TilePart part;
  part.number = number;
  part.first_bin = number * axis.tile_bins;
  part.bins = min(axis.tile_bins, axis.bins - part.first_bin);
  part.start = axis.bin_start(part.first_bin);
  part.length = axis.bin_start(part.first_bin + part.bins) - part.start;
  part.source = taps.tap(part.start).i0;
  part.cells = taps.tap(part.start + part.length - 1).i0 - part.source + 1;
  return part;
}

struct TilePlace {
  int32_t image;
  TilePart y, x;
};

// The place of this block's tile, in shared memory: two threads find it for all, where eight warps
// would do the same and keep it in registers. Called by all threads of the block.
__device__ __forceinline__ void find_tile(const CellCountsArgs& a, TilePlace* place) {
  const int32_t tile = static_cast<int32_t>(blockIdx.x);
  const int32_t row_of_all = a.x.by_tiles.quotient(tile);
  if (threadIdx.x == 0) {
    place->image = a.y.by_tiles.quotient(row_of_all);
    place->y = tile_part(a.y, Axis(a.seg.h, a.y.size_px, a.scale_y),
                         row_of_all - place->image * a.y.tiles);
  } else if (threadIdx.x == kWarpSize) {
    place->x = tile_part(a.x, Axis(a.seg.w, a.x.size_px, a.scale_x), tile - row_of_all * a.x.tiles);
  }
  // All threads are here; the place is written.
  __syncthreads();
}

// The tile of this block, and its part of shared memory.
struct Tile {
  int64_t b;
  const TilePart &y, &x;
  int32_t* bins;  // [y.bins, x.bins]
  AxisTables rows, columns;
  int16_t* points;    // labels of source pixels
  uint16_t* entries;  // slots of mixed cells

  __device__ Tile(const CellCountsArgs& a, const TilePlace& place, unsigned char* shared)
      : b(place.image),
        y(place.y),
        x(place.x),
        bins(reinterpret_cast<int32_t*>(shared)),
        rows(a.layout.y, shared),
        columns(a.layout.x, shared),
        points(reinterpret_cast<int16_t*>(shared + a.layout.points)),
        entries(reinterpret_cast<uint16_t*>(shared + a.layout.entries)) {}

  // Zeroes the bins and says which bin each row and column of pixels is in.
  __device__ void begin(const CellCountsArgs& a) const {
    for (int i = threadIdx.x; i < y.bins * x.bins; i += blockDim.x) bins[i] = 0;
    for (int i = threadIdx.x; i < x.length; i += blockDim.x) {
      columns.bin[i] = static_cast<uint16_t>(a.x.bin_of(x.start + i) - x.first_bin);
    }
    for (int i = threadIdx.x; i < y.length; i += blockDim.x) {
      rows.bin[i] = static_cast<uint16_t>(a.y.bin_of(y.start + i) - y.first_bin);
    }
  }

  // Adds the members among the 32 pixels from column `from` on, which are those of the lanes of
  // this warp. Called by whole warps: every lane takes part in the vote, those past the tile's
  // width as well, with the last column's bin.
  __device__ __forceinline__ void add(int32_t row, int32_t from, unsigned members) const {
    if (members == 0) return;  // the same in all lanes
    const int lane = lane_of_thread();
    const int32_t column = min(from + lane, x.length - 1);
    const int32_t bin = columns.bin[column];
    // Lanes where a bin begins count its members up to the next such lane.
    const bool begins = lane == 0 || columns.bin[min(from + lane - 1, x.length - 1)] != bin;
    const unsigned starts = __ballot_sync(kWarp, begins);
    if (begins) {
      const unsigned later = lane == 31 ? 0u : starts >> (lane + 1);
      const int length = later == 0 ? 32 - lane : __ffs(later);
      const unsigned mine = length == 32 ? kWarp : ((1u << length) - 1u) << lane;
      const int count = __popc(members & mine);
      if (count > 0) atomicAdd(&bins[rows.bin[row] * x.bins + bin], count);
    }
  }

  __device__ void store(const CellCountsArgs& a) const {
    int32_t* out = a.bins + b * a.y.bins * a.x.bins;
    for (int i = threadIdx.x; i < y.bins * x.bins; i += blockDim.x) {
      const int32_t at_y = y.first_bin + i / x.bins, at_x = x.first_bin + i % x.bins;
      out[static_cast<int64_t>(at_y) * a.x.bins + at_x] = bins[i];
    }
  }
};

}  // namespace c2f::cuda
