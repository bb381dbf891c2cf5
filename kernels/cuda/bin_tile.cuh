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

// The place of this block's tile, in shared memory: two threads find it for all, where eight warps
// would do the same and keep it in registers. Called by all threads of the block.
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

// The bins of the pixels along an axis of a tile, counted from the tile's first.
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
  int32_t* bins;  // [y.bins, x.bins]
  BinTable rows, columns;

  __device__ BinTile(const CellCountsArgs& a, const TilePlace& place, unsigned char* shared)
      : b(place.image),
        y(place.y),
        x(place.x),
        bins(reinterpret_cast<int32_t*>(shared)),
        rows{reinterpret_cast<uint16_t*>(shared + a.row_bins)},
        columns{reinterpret_cast<uint16_t*>(shared + a.column_bins)} {}

  // Zeroes the bins and says which bin each row and column of pixels is in.
  __device__ void begin(const CellCountsArgs& a) const {
    for (int i = threadIdx.x; i < y.bins * x.bins; i += blockDim.x) bins[i] = 0;
    for (int i = threadIdx.x; i < x.pixels.length; i += blockDim.x) {
      columns.bin[i] = static_cast<uint16_t>(a.x.bin_of(x.pixels.start + i) - x.first_bin);
    }
    for (int i = threadIdx.x; i < y.pixels.length; i += blockDim.x) {
      rows.bin[i] = static_cast<uint16_t>(a.y.bin_of(y.pixels.start + i) - y.first_bin);
    }
  }

  // Adds the members among the 32 pixels from column `from` on, which are those of the lanes of
  // this warp. Called by whole warps: every lane takes part in the vote, those past the tile's
  // width as well, with the last column's bin.
  __device__ __forceinline__ void add(int32_t row, int32_t from, unsigned members) const {
    if (members == 0) return;  // the same in all lanes
    const int lane = lane_of_thread();
    const int32_t last = x.pixels.length - 1;
    const int32_t bin = columns.bin[min(from + lane, last)];
    // Lanes where a bin begins count its members up to the next such lane.
    const bool begins = lane == 0 || columns.bin[min(from + lane - 1, last)] != bin;
    const unsigned starts = __ballot_sync(kWarp, begins);
    if (begins) {
      const unsigned later = lane == 31 ? 0u : starts >> (lane + 1);
      const int length = later == 0 ? 32 - lane : __ffs(later);
      const unsigned mine = length == 32 ? kWarp : ((1u << length) - 1u) << lane;
      const int count = __popc(members & mine);
      if (count > 0) atomicAdd(&bins[rows.bin[row] * x.bins + bin], count);
    }
  }

  // Adds those pixels of cells below each other whose bit is set. `firsts` holds the first row of
  // each of the `cells` cells, and once more; `across` is their columns.
  template <int kRun>
  __device__ __forceinline__ void add_run(unsigned members, const uint16_t* firsts, int32_t cells,
                                          const Span& across) const {
    const int32_t last_row = firsts[min(kRun, cells)];
    for (int32_t row = firsts[0], next; row < last_row; row = next) {
      next = rows.same_bin(row, last_row);
      int32_t count = 0;
#pragma unroll
      for (int k = 0; k < kRun; ++k) {
        if ((members >> k & 1u) == 0) continue;
        count += max(min(firsts[k + 1], next) - max(firsts[k], row), 0);
      }
      int32_t* of_row = bins + rows.bin[row] * x.bins;
      for (int32_t column = across.first, beside; column < across.end; column = beside) {
        beside = columns.same_bin(column, across.end);
        atomicAdd(of_row + columns.bin[column], count * (beside - column));
      }
    }
  }

  // Adds those pixels below each other whose bit is set.
  __device__ __forceinline__ void add_column(unsigned members, int32_t column,
                                             const Span& down) const {
    members &= (1u << (down.end - down.first)) - 1u;
    if (members == 0) return;
    for (int32_t row = down.first, next; row < down.end; row = next) {
      next = rows.same_bin(row, down.end);
      const int count = __popc(members >> (row - down.first) & ((1u << (next - row)) - 1u));
      atomicAdd(&bins[rows.bin[row] * x.bins + columns.bin[column]], count);
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
