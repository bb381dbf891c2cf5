// What aggregate's kernels are told.
#pragma once

#include <cstdint>

#include "../common/class_bits.h"
#include "../common/params.h"
#include "coarse_args.h"

namespace c2f::cuda {

constexpr int kMergeThreads = 256;
constexpr int kTilePixels = 1024;  // most pixels that are merged at once
constexpr int kRowsOfThread = kTilePixels / kMergeThreads;

// Tiles of 64 x 16 pixels. Scores of small images take 32 x 8, for enough blocks to fill a GPU; and
// so do those of logits that are hardly enlarged, so that the source pixels of a tile fit into its
// shared memory (kPlaneElems).
constexpr int kWideTileX = 64, kWideTileY = 16, kNarrowTileX = 32, kNarrowTileY = 8;
constexpr int kWideTileLog2 = 6, kNarrowTileLog2 = 5;  // of the sides along x

// Most source pixels under a tile, with one column and row to spare for rounding: positions of
// neighbours differ by at most 1 (narrow tiles) or 1/2 (wide tiles), and a bilinear tap has one
// neighbour. Odd: planes of successive classes start in different banks.
constexpr int kPlaneElems = 385;  // (31 + 4) * (7 + 4) and (ceil(63 / 2) + 3) * (ceil(15 / 2) + 3)

constexpr int kStagedClasses = 16;  // at once, where their number is not compiled in

// Where the coarse labels come from that are merged.
enum class LabelKind : int32_t { kGiven, kOwnSize, kUpsampled };

// Parts of a tile are told from each other by a bit: those below each other by neighbouring ones.
constexpr int kPartsLog2 = 3;
static_assert(kWideTileY << kPartsLog2 == kMaxTileY && kMaxTileX / kWideTileX << kPartsLog2 <= 32);

// Dynamic shared memory that merging labels takes: a LabelTile.
constexpr uint32_t kLabelTileBytes = 8328;

struct MergeArgs {
  // Logits; `labels` where labels are wanted. Given, they hold the coarse argmax already and are
  // edited inside the windows only.
  CoarseArgs coarse;
  Image fine;                        // logits [B*n, 1 or 2, hf, wf]
  float fine_scale_y, fine_scale_x;  // hf and wf / window
  WindowList windows;
  Divider by_slots;
  int32_t last_y, last_x;  // origins of windows that fit, at most; negative where none does
  ClassBits small;
  MergeRule rule;
  // The tiles of an image; where labels are given, those of a window. Labels of a tile are merged
  // in parts of kTilePixels, which are as wide as tile_x_log2 says.
  int32_t tile_y, tile_x, tile_x_log2;  // pixels
  int32_t thread_rows;                  // of a thread that makes scores
  int32_t tiles_y, tiles_x;
  Divider by_tiles_y, by_tiles_x;
  // Where tiles of an image have many parts: blocks that come before those of the tiles, and take
  // the parts that windows reach. So many of a window, at most.
  int32_t window_blocks, window_parts_y, window_parts_x;
  Divider by_window_parts_y, by_window_parts_x;
  float* probs;  // [B, N, H, W] contiguous, or nullptr
};

}  // namespace c2f::cuda
