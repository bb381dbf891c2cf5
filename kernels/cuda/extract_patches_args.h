// Arguments of extract_patches' kernels.
#pragma once

#include <cstdint>

#include "../common/params.h"
#include "divider.h"

namespace c2f::cuda {

constexpr int kPatchThreads = 256;
constexpr int kPatchChannels = 64;          // of one launch
constexpr int kPatchSlots = 32;             // resampled source rows a block holds
constexpr int kPatchTileRows = 64;          // most output rows made from these at a time
constexpr int kPatchRows = 128;             // most output rows of a block
constexpr int kPatchWidth = kPatchThreads;  // most elements of a row in a block: one per thread
constexpr int64_t kPatchMaxSide = 1 << 20;  // of windows and patches: float32 positions stay exact

// Most output rows whose source rows fit into the slots of shared memory. Where patches are
// enlarged, r rows have at most (r - 1) * k / p + taps source rows, and rounding may add one.
inline int64_t most_tile_rows(int64_t window, int64_t side, int taps) {
  if (side == window) return kPatchSlots;
  if (side < window) return kPatchSlots / taps;
  const int64_t rows = 1 + (kPatchSlots - taps - 1) * side / window;
  return rows < kPatchTileRows ? rows : kPatchTileRows;
}

// A row of a patch is `row_elems` elements: p pixels of one channel or, if channels are stored
// last, of all `group` channels. They are `out_stride_elem` apart: 1, unless channels_last patches
// have more channels than one launch takes.
struct PatchArgs {
  Image image;
  WindowList windows;
  Resample mode;
  void* out;
  DType out_dtype;
  int64_t out_stride_patch, out_stride_c, out_stride_y, out_stride_elem;  // elements
  int32_t side;                                                           // p
  int32_t first_channel;  // of this launch; gain[0] belongs to it
  int32_t group, groups;  // channels in a row of elements; such rows per row of pixels
  Divider by_group;
  int32_t row_elems;
  int32_t part_rows, part_width;  // of a block; part_width: a multiple of 8
  int32_t parts_y, parts_x;       // per patch and group
  Divider by_parts_y, by_parts_x, by_groups, by_slots;
  int32_t tile_rows;     // of a part's, between barriers
  int32_t packs, bands;  // 16-byte stores of a part's row; how many rows a block stores at once
  Divider by_packs, by_bands;
  float resize;        // window / side
  bool vector_stores;  // every row of a part starts on 16 bytes
  // (v * scale - mean) / std, folded.
  float gain[kPatchChannels], bias[kPatchChannels];
};

// A block makes a tile of a plane: 32 columns, and `band_rows` rows for each of its warps.
constexpr int kBackwardColumns = 32;
constexpr int kBackwardBands = kPatchThreads / kBackwardColumns;
constexpr int kBandRows = 16;       // most rows of a band
constexpr int kBackwardReads = 16;  // outputs of a column whose weights a block holds
constexpr int kBackwardRows = kPatchThreads - kBackwardColumns;  // rows of outputs held at a time

struct PatchBackwardArgs {
  Image grad_patches;  // [B*n, C, p, p]
  WindowList windows;
  float* grad_image;  // [B, C, H, W] contiguous
  int64_t C, H, W;
  int32_t first_channel, channels;  // of this launch
  int32_t band_rows;
  int32_t tiles_y, tiles_x;  // of a plane
  Divider by_tiles_y, by_tiles_x, by_channels;
  float scale;       // window / side
  float per_source;  // side / window
  float gain[kPatchChannels];
};

}  // namespace c2f::cuda
