// Arguments of aggregate's kernels.
#pragma once

#include <cstdint>

#include "../common/class_bits.h"
#include "../common/params.h"
#include "coarse_args.h"

namespace c2f::cuda {

constexpr int kMergeThreads = 256;
constexpr int kTilePixels = 1024;  // most pixels that are merged at once
constexpr int kRowsOfThread = kTilePixels / kMergeThreads;

// Tiles of 64 x 16 pixels. Scores use tiles of 32 x 8 for small images, to have enough blocks to
// fill a GPU, and for logits that are hardly enlarged, so that the source pixels of a tile fit into
// shared memory (kPlaneElems).
constexpr int kWideTileX = 64, kWideTileY = 16, kNarrowTileX = 32, kNarrowTileY = 8;
constexpr int kWideTileLog2 = 6, kNarrowTileLog2 = 5;  // of the sides along x

// Most source pixels under a tile, with a column and a row to spare for rounding: source positions
// of neighbours differ by at most 1 (narrow tiles) or 1/2 (wide tiles), and a bilinear tap has one
// neighbour. Odd, so that planes of successive classes start in different banks.
constexpr int kPlaneElems = 385;  // (31 + 4) * (7 + 4) and (ceil(63 / 2) + 3) * (ceil(15 / 2) + 3)

constexpr int kStagedClasses = 16;  // at once, where their number is not compiled in

// Where the coarse labels to be merged come from.
enum class LabelKind : int32_t { kGiven, kOwnSize, kUpsampled };

// Each part of a tile has a bit; vertically neighbouring parts have neighbouring bits.
constexpr int kPartsLog2 = 3;
static_assert(kWideTileY << kPartsLog2 == kMaxTileY && kMaxTileX / kWideTileX << kPartsLog2 <= 32);

// Dynamic shared memory for merging labels: a LabelTile.
constexpr uint32_t kLabelTileBytes = 8328;

struct MergeArgs {
  // The logits, and `labels` if labels are wanted. Labels that are given hold the coarse argmax
  // already and are edited inside the windows only.
  CoarseArgs coarse;
  Image fine;                        // logits [B*n, 1 or 2, hf, wf]
  float fine_scale_y, fine_scale_x;  // hf and wf / window
  WindowList windows;
  Divider by_slots;
  int32_t last_y, last_x;  // largest origin of a window that fits; negative if none does
  ClassBits small;
  MergeRule rule;
  // Tiles of an image or, where labels are given, of a window. Labels of a tile are merged in parts
  // of kTilePixels, 1 << tile_x_log2 wide.
  int32_t tile_y, tile_x, tile_x_log2;  // pixels
  int32_t thread_rows;                  // pixels of a thread that makes scores
  int32_t tiles_y, tiles_x;
  Divider by_tiles_y, by_tiles_x;
  // If tiles have many parts: blocks that come before the tiles' blocks and take the parts that
  // windows reach, window_parts_y x window_parts_x for each window.
  int32_t window_blocks, window_parts_y, window_parts_x;
  Divider by_window_parts_y, by_window_parts_x;
  float* probs;  // [B, N, H, W] contiguous, or nullptr
};

}  // namespace c2f::cuda
