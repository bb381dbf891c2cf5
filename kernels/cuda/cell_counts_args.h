// Arguments of the kernels that count small-object pixels, one block per tile of bins.
#pragma once

#include <cstdint>

#include "../common/class_bits.h"
#include "../common/params.h"
#include "window_bins.h"

namespace c2f::cuda {

// Longest sides of a tile, pixels: a mixed pixel's column and cell row are packed into 16 bits.
constexpr int32_t kMaxTileY = 64, kMaxTileX = 128;
constexpr int kCellThreads = 256;
constexpr int32_t kQuad = 4;  // pixels beside each other that a thread takes where cells agree

// What the coarse answer is, and so what a pixel costs.
enum class CellKind : int32_t { kLabels, kOwnSize, kUpsampled };

// What lies where in a block's dynamic shared memory, bytes from its start.
struct TileLayout {
  uint32_t column_bin, row_bin;    // uint16 [tile_px]: bins within the tile
  uint32_t column_tap, row_first;  // uint16 [tile_px_x, to whole quads], [cell rows + 1]
  uint32_t column_w1, row_w1;      // float [tile_px]: weights of second taps
  uint32_t points;                 // int16 [point rows, point columns]
  uint32_t cells;                  // int16 [cell rows, point columns]
  uint32_t entries;                // uint16 [cell rows, tile_px_x]
  uint32_t bytes;                  // bins, int32, come first
};

struct CellCountsArgs {
  Seg seg;
  ClassBits small;
  BinAxis y, x;
  float scale_y, scale_x;
  bool packed;  // the classes of a pixel lie side by side, in multiples of 16 bytes
  TileLayout layout;
  uint8_t* labels;  // [B, H, W], or nullptr
  int32_t* bins;    // [B, y.bins, x.bins], scratch
};

}  // namespace c2f::cuda
