#include "coarse_plan.h"

#include <algorithm>

#include "../../kernels/common/bilinear.h"
#include "../../kernels/cuda/window_bins.h"
#include "logits.h"

// The emulator of the tests sets this lower, so that small images have tiles of all sizes.
#if !defined(C2F_WIDE_PIXELS)
#define C2F_WIDE_PIXELS (1 << 21)
#endif

namespace c2f::cuda {
namespace {

// Source rows (or columns) of the cells that tile_px pixels have, at most: they span
// (tile_px - 1) * scale, which meets one more source than it has steps, and rounding may add one.
int32_t most_cells(int32_t tile_px, float scale) {
  return static_cast<int32_t>(static_cast<float>(tile_px - 1) * scale) + 3;
}

}  // namespace

// Larger tiles read fewer source pixels twice, and share what a block computes before its first
// pixel; smaller ones give small images enough blocks to fill a GPU: at 512 x 512 there are 256 of
// 32 x 32.
int32_t tile_width(int64_t pixels) {
  return pixels >= int64_t{8} * C2F_WIDE_PIXELS ? kMaxTileX
         : pixels >= C2F_WIDE_PIXELS            ? kMaxTileX / 2
         : pixels >= C2F_WIDE_PIXELS / 4        ? kMaxTileX / 4
                                                : kMaxTileX / 8;
}
int32_t tile_height(int64_t pixels) {
  return pixels >= int64_t{16} * C2F_WIDE_PIXELS  ? kMaxTileY
         : pixels >= int64_t{4} * C2F_WIDE_PIXELS ? kMaxTileY / 2
                                                  : kMaxTileY / 4;
}

CoarseArgs coarse_args(const Seg& seg, int64_t H, int64_t W, uint8_t* labels) {
  CoarseArgs args{};
  args.seg = seg;
  args.H = H;
  args.W = W;
  args.scale_y = resize_scale(seg.h, H);
  args.scale_x = resize_scale(seg.w, W);
  args.packed = seg.is_logits && packed(seg);
  args.quads = seg.is_logits && quads(seg);
  args.labels = labels;
  return args;
}

void set_width(CoarseArgs* args, int32_t tile_x) {
  args->quads_across = parts_of(tile_x, kQuad);
  args->by_quads = make_divider(args->quads_across);
}

void lay_out_cells(CoarseArgs* args, int32_t tile_y, int32_t tile_x, uint32_t* at) {
  const int32_t rows = most_cells(tile_y, args->scale_y);
  // A quad may begin before the first cell, and a cell has a point behind it.
  const int32_t columns = kQuad - 1 + most_cells(tile_x, args->scale_x) + 1;
  args->pitch = (columns + kQuad - 1) / kQuad * kQuad;
  args->by_pitch = make_divider(args->pitch);
  // Whole rows of threads share the rows of cells out; what they have found in pairs is bits.
  args->compared_rows =
      std::min(parts_of(rows, kCellThreads / (args->pitch / 2)), kMostComparedRows);
  set_width(args, tile_x);
  args->stored_rows = parts_of(rows, kCellThreads / args->quads_across);
  CellLayout& layout = args->layout;
  layout.y = {0, reserve(at, 2 * (rows + 1)), reserve(at, 4 * tile_y)};
  layout.x = {reserve(at, 2 * tile_x), reserve(at, 2 * (args->pitch + 1)), reserve(at, 4 * tile_x)};
  layout.points = reserve(at, 2 * ((rows + 1) * args->pitch + 2));
  layout.entries = reserve(at, 2 * rows * args->pitch);
  // Where there are fewer source pixels than threads, one of them each asks for more at once.
  args->fours =
      args->seg.stride_x == 1 && args->seg.w >= kQuad && args->pitch * rows > kCellThreads;
  args->quads = args->fours && quads(args->seg);
}

}  // namespace c2f::cuda
