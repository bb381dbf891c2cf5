// A tile of the full-size image in which coarse logits are interpolated, and its shared memory.
#pragma once

#include "axis.cuh"
#include "coarse_args.h"

namespace c2f::cuda {

// A tile along one axis. Cells, where it is upsampled, are counted from its first pixel's.
struct TilePart {
  int32_t start, length;  // pixels
  int32_t source, cells;  // first source pixel, and number of cells from there on
};

__device__ __forceinline__ TilePart tile_part(const Axis& taps, int32_t start, int32_t length) {
  const int32_t source = taps.tap(start).i0;
  return {start, length, source, taps.tap(start + length - 1).i0 - source + 1};
}

// A range of pixels along one axis, such as those of a cell.
struct Span {
  int32_t first, end;
  __device__ __forceinline__ Span(int32_t first_, int32_t end_) : first(first_), end(end_) {}
  __device__ __forceinline__ Span(const uint16_t* firsts, int32_t cell)
      : first(firsts[cell]), end(firsts[cell + 1]) {}
  __device__ __forceinline__ bool empty() const { return first == end; }
};

// Tables of the pixels and cells along one axis of a tile.
struct AxisTables {
  uint16_t* cell;   // of each pixel; along x only
  uint16_t* first;  // of each cell, and one more: its first pixel
  float* w1;        // of each pixel: weight of the second tap

  __device__ AxisTables(const AxisLayout& at, unsigned char* shared)
      : cell(reinterpret_cast<uint16_t*>(shared + at.cell)),
        first(reinterpret_cast<uint16_t*>(shared + at.first)),
        w1(reinterpret_cast<float*>(shared + at.w1)) {}
};

// A block's tile, and its part of shared memory.
struct Tile {
  int64_t b;
  const TilePart &y, &x;
  AxisTables rows, columns;
  uint16_t* points;   // labels of source pixels, with mark kNotFinite (argmax.cuh)
  uint16_t* entries;  // slots of mixed cells

  __device__ Tile(const CellLayout& layout, int64_t image, const TilePart& y_, const TilePart& x_,
                  unsigned char* shared)
      : b(image),
        y(y_),
        x(x_),
        rows(layout.y, shared),
        columns(layout.x, shared),
        points(reinterpret_cast<uint16_t*>(shared + layout.points)),
        entries(reinterpret_cast<uint16_t*>(shared + layout.entries)) {}
};

}  // namespace c2f::cuda
