// The coarse answer, and how it is taken to full size: what kernels that label its pixels are told.
#pragma once

#include <cstdint>

#include "../common/params.h"
#include "divider.h"

namespace c2f::cuda {

// Longest sides of a tile, pixels.
constexpr int32_t kMaxTileY = 128, kMaxTileX = 256;
constexpr int kCellThreads = 256;
constexpr int32_t kQuad = 4;  // pixels beside each other that are one load, or one store of labels

// Rows of cells that a thread compares before it lists those that are mixed: a bit each of half a
// word.
constexpr int32_t kMostComparedRows = 16;

// What lies where in a block's dynamic shared memory, bytes from its start. `pitch` is CoarseArgs'.
struct AxisLayout {
  uint32_t cell;   // uint16 [tile_px]; along x only
  uint32_t first;  // uint16 [cell rows, or pitch, and one]
  uint32_t w1;     // float [tile_px]
};
struct CellLayout {
  AxisLayout y, x;
  uint32_t points;   // uint16 [point rows, pitch], and a pair
  uint32_t entries;  // uint16 [cell rows, pitch]
};

struct CoarseArgs {
  Seg seg;
  int64_t H, W;            // full size
  float scale_y, scale_x;  // source pixels of a pixel
  bool packed;             // the classes of a pixel lie side by side, in multiples of 16 bytes
  bool quads;              // every fourth source pixel of a row begins four that are one load
  bool fours;              // of tiles that are upsampled: a thread labels four of a row
  // Of tiles that are upsampled: source pixels of a row of one, at most, in whole quads.
  int32_t pitch;
  Divider by_pitch;
  // Rows of cells that a thread goes down when it compares points, and when it stores labels; of
  // these a thread has a quad out of a tile's columns.
  int32_t compared_rows, stored_rows, quads_across;
  Divider by_quads;
  CellLayout layout;
  uint8_t* labels;  // [B, H, W] contiguous, or nullptr
};

}  // namespace c2f::cuda
