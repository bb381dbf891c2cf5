// Arguments of the kernels that count small-object pixels, one block per tile of bins.
#pragma once

#include <cstdint>

#include "../common/class_bits.h"
#include "../common/params.h"
#include "window_bins.h"

namespace c2f::cuda {

// Longest sides of a tile, pixels.
constexpr int32_t kMaxTileY = 128, kMaxTileX = 256;
constexpr int kCellThreads = 256;
constexpr int32_t kQuad = 4;  // pixels beside each other that are one load, or one store of labels

// What the coarse answer is, and so what a pixel costs.
enum class CellKind : int32_t { kLabels, kOwnSize, kUpsampled };

// What lies where in a block's dynamic shared memory, bytes from its start. `pitch` is
// CellCountsArgs'.
struct AxisLayout {
  uint32_t bin, cell;  // uint16 [tile_px]
  uint32_t first;      // uint16 [cell rows, or pitch, and one]
  uint32_t w1;         // float [tile_px]
};
struct TileLayout {
  AxisLayout y, x;
  uint32_t points;   // int16 [point rows, pitch], and one
  uint32_t entries;  // uint16 [cell rows, pitch]
  uint32_t bytes;    // bins, int32, come first
};

struct CellCountsArgs {
  Seg seg;
  ClassBits small;
  BinAxis y, x;
  float scale_y, scale_x;
  bool packed;    // the classes of a pixel lie side by side, in multiples of 16 bytes
  bool quads;     // every fourth source pixel of a row begins four that are one load
  int32_t pitch;  // source pixels of a row of a tile, at most, in whole quads
  Divider by_pitch;
  TileLayout layout;
  uint8_t* labels;  // [B, H, W], or nullptr
  int32_t* bins;    // [B, y.bins, x.bins], scratch
};

}  // namespace c2f::cuda
