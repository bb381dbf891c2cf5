// What aggregate's kernels are told.
#pragma once

#include <cstdint>

#include "../common/class_bits.h"
#include "../common/params.h"

namespace c2f::cuda {

constexpr int kMergeThreads = 256;
constexpr int kTilePixels = 1024;  // most pixels of a tile

// Tiles of 64 x 16 pixels. Scores of logits that are hardly enlarged take 32 x 8, so that the
// source pixels of a tile fit into its shared memory (kPlaneElems).
constexpr int kWideTileX = 64, kWideTileY = 16, kNarrowTileX = 32, kNarrowTileY = 8;
constexpr int kWideTileLog2 = 6, kNarrowTileLog2 = 5;  // of the sides along x

// Most source pixels under a tile, with one column and row to spare for rounding: positions of
// neighbours differ by at most 1 (narrow tiles) or 1/2 (wide tiles), and a bilinear tap has one
// neighbour. Odd: planes of successive classes start in different banks.
constexpr int kPlaneElems = 385;  // (31 + 4) * (7 + 4) and (ceil(63 / 2) + 3) * (ceil(15 / 2) + 3)

// Source pixels under a tile of labels: (63 + 4) * (15 + 4).
constexpr int kPointElems = 1273;

constexpr int kStagedClasses = 16;  // at once, where their number is not compiled in

struct MergeArgs {
  Seg coarse;  // logits
  Image fine;  // logits [B*n, 1 or 2, hf, wf]
  WindowList windows;
  ClassBits small;
  int64_t H, W;
  MergeRule rule;
  // The tiles of an image; where labels are given, those of a window.
  int32_t tile_y, tile_x, tile_x_log2;  // pixels
  int32_t tiles_y, tiles_x;
  bool packed;        // the classes of a coarse pixel lie side by side, in multiples of 16 bytes
  bool labels_given;  // `labels` holds the coarse argmax: edited inside the windows only
  uint8_t* labels;    // [B, H, W] contiguous, or nullptr
  float* probs;       // [B, N, H, W] contiguous, or nullptr
};

}  // namespace c2f::cuda
