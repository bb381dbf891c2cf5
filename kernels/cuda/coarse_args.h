// Arguments of kernels that label pixels: the coarse answer, and how it is taken to full size.
#pragma once

#include <cstdint>

#include "../common/params.h"
#include "divider.h"

namespace c2f::cuda {

// Longest sides of a tile, pixels.
constexpr int32_t kMaxTileY = 128, kMaxTileX = 256;
constexpr int kCellThreads = 256;
constexpr int32_t kQuad = 4;  // neighbouring pixels of one load, or of one store of labels

// Most rows of cells that a thread compares before it lists the mixed ones: it keeps a bit of half
// a word for each.
constexpr int32_t kMostComparedRows = 16;

// Offsets, in bytes, of tables in a block's dynamic shared memory. `pitch` is CoarseArgs::pitch.
struct AxisLayout {
  uint32_t cell;   // uint16 [tile_px]; along x only
  uint32_t first;  // uint16 [rows of cells + 1] along y, [pitch + 1] along x
  uint32_t w1;     // float [tile_px]
};
struct CellLayout {
  AxisLayout y, x;
  uint32_t points;   // uint16 [rows of points, pitch], and two more
  uint32_t entries;  // uint16 [cell rows, pitch]
};

struct CoarseArgs {
  Seg seg;
  int64_t H, W;            // full size
  float scale_y, scale_x;  // source pixels of a pixel
  bool packed;             // the classes of a pixel lie side by side, in multiples of 16 bytes
  bool quads;              // one load reads four source pixels of a row, from every fourth one on
  bool fours;              // in upsampled tiles a thread labels four neighbouring source pixels
  // Of upsampled tiles: most source pixels in a row of one, rounded up to whole quads.
  int32_t pitch;
  Divider by_pitch;
  // Rows of cells that a thread goes down when it compares points, and when it stores labels; then
  // it takes one of the `quads_across` quads of a tile's columns.
  int32_t compared_rows, stored_rows, quads_across;
  Divider by_quads;
  CellLayout layout;
  uint8_t* labels;  // [B, H, W] contiguous, or nullptr
};

}  // namespace c2f::cuda
