#include "coarse_plan.h"

#include <algorithm>

#include "../../kernels/common/bilinear.h"
#include "../../kernels/cuda/window_bins.h"
#include "logits.h"

// The tests' emulator lowers this, so that small images, too, get tiles of every size.
#if !defined(C2F_WIDE_PIXELS)
#define C2F_WIDE_PIXELS (1 << 21)
#endif

namespace c2f::cuda {
namespace {

// Most source rows (or columns) under tile_px pixels: their positions span (tile_px - 1) * scale,
// which meets one more source than it has steps, and rounding may add one.
int32_t most_cells(int32_t tile_px, float scale) {
  return static_cast<int32_t>(static_cast<float>(tile_px - 1) * scale) + 3;
}

}  // namespace

// Larger tiles read fewer source pixels twice and share a block's setup among more pixels; smaller
// ones give small images enough blocks to fill a GPU: 512 x 512 has 256 of 32 x 32.
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
  // The first quad may begin up to 3 columns before the first cell, and the last cell's right
  // corners are one column on.
  const int32_t columns = kQuad - 1 + most_cells(tile_x, args->scale_x) + 1;
  args->pitch = (columns + kQuad - 1) / kQuad * kQuad;
  args->by_pitch = make_divider(args->pitch);
  // Rows of cells are shared out among rows of threads, of which each takes pairs of columns; a
  // thread keeps a bit per row of what it has found.
  args->compared_rows =
      std::min(parts_of(rows, kCellThreads / (args->pitch / 2)), kMostComparedRows);
  set_width(args, tile_x);
  args->stored_rows = parts_of(rows, kCellThreads / args->quads_across);
  CellLayout& layout = args->layout;
  layout.y = {0, reserve(at, 2 * (rows + 1)), reserve(at, 4 * tile_y)};
  layout.x = {reserve(at, 2 * tile_x), reserve(at, 2 * (args->pitch + 1)), reserve(at, 4 * tile_x)};
  layout.points = reserve(at, 2 * ((rows + 1) * args->pitch + 2));
  layout.entries = reserve(at, 2 * rows * args->pitch);
  // With fewer source pixels than threads, one pixel per thread puts more loads in flight.
  args->fours =
      args->seg.stride_x == 1 && args->seg.w >= kQuad && args->pitch * rows > kCellThreads;
  args->quads = args->fours && quads(args->seg);
}

}  // namespace c2f::cuda
