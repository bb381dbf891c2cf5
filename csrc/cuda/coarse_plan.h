// Tiles in which coarse logits are taken to full size, for all ops that label pixels.
#pragma once

#include <cstdint>

#include "../../kernels/common/params.h"
#include "../../kernels/cuda/coarse_args.h"

namespace c2f::cuda {

// Largest width and height of a tile, for a launch over so many pixels.
int32_t tile_width(int64_t pixels);
int32_t tile_height(int64_t pixels);

// Tiles are halved along y, at most down to this height, until they need at most kTallBytes of
// shared memory.
constexpr int32_t kLowTileY = kMaxTileY / 4;
constexpr uint32_t kTallBytes = 32 << 10;

// The arguments that do not depend on tiles.
CoarseArgs coarse_args(const Seg& seg, int64_t H, int64_t W, uint8_t* labels);

// Reserves shared memory at *at, in multiples of 16 bytes; returns where it starts.
inline uint32_t reserve(uint32_t* at, int64_t bytes) {
  const uint32_t start = *at;
  *at += static_cast<uint32_t>((bytes + 15) / 16 * 16);
  return start;
}

// Sets how threads share out rows of tile_x pixels.
void set_width(CoarseArgs* args, int32_t tile_x);

// The same, and lays out, from *at on, the shared memory of a tile of tile_y x tile_x pixels that
// is upsampled.
void lay_out_cells(CoarseArgs* args, int32_t tile_y, int32_t tile_x, uint32_t* at);

}  // namespace c2f::cuda
