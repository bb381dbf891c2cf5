#include "cell_plan.h"

#include <algorithm>
#include <string>

#include "../../kernels/common/bilinear.h"
#include "../tensor.h"

namespace py = pybind11;

namespace c2f::cuda {
namespace {

constexpr int64_t kInt32Max = 0x7fffffff;

// Pixels of a tile along x. Wider tiles read fewer source pixels twice, narrower ones give small
// images enough blocks to fill a GPU: at 512 x 512 there are 256 of 32 x 32.
int32_t tile_width(int64_t pixels) {
  return pixels >= int64_t{1} << 21 ? 128 : pixels >= int64_t{1} << 19 ? 64 : 32;
}

// Source rows (or columns) of the cells that tile_px pixels have, at most: they span
// (tile_px - 1) * scale, which meets one more source than it has steps, and rounding may add one.
int32_t most_cells(int32_t tile_px, float scale) {
  return static_cast<int32_t>(static_cast<float>(tile_px - 1) * scale) + 3;
}

TileLayout layout_of(const CellCountsArgs& args, bool upsampled) {
  TileLayout layout{};
  uint32_t at = 0;
  const auto reserve = [&at](int64_t bytes) {
    const uint32_t start = at;
    at += static_cast<uint32_t>((bytes + 15) / 16 * 16);
    return start;
  };
  reserve(int64_t{4} * args.y.tile_bins * args.x.tile_bins);
  layout.column_bin = reserve(2 * args.x.tile_px);
  layout.row_bin = reserve(2 * args.y.tile_px);
  if (upsampled) {
    const int32_t rows = most_cells(args.y.tile_px, args.scale_y);
    const int32_t columns = most_cells(args.x.tile_px, args.scale_x);
    layout.column_tap = reserve(2 * args.x.tile_px);
    layout.row_first = reserve(2 * (rows + 1));
    layout.points = reserve(2 * (rows + 1) * (columns + 1));
    layout.entries = reserve(2 * rows * args.x.tile_px);
  }
  layout.bytes = at;
  return layout;
}

// Whether a pixel's classes can be loaded 16 bytes at a time.
bool packed(const Seg& seg) {
  const int64_t elems = 16 / dtype_bytes(seg.dtype);
  return seg.stride_n == 1 && seg.N % elems == 0 && seg.stride_b % elems == 0 &&
         seg.stride_y % elems == 0 && seg.stride_x % elems == 0 &&
         reinterpret_cast<uintptr_t>(seg.data) % 16 == 0;
}

}  // namespace

CellPlan plan_cells(const Seg& seg, const ClassTable& classes, int64_t H, int64_t W,
                    int64_t window_px, int64_t stride_px, bool flush, uint8_t* labels,
                    Workspace& workspace, const char* op) {
  const CellKind kind = !seg.is_logits             ? CellKind::kLabels
                        : seg.h == H && seg.w == W ? CellKind::kOwnSize
                                                   : CellKind::kUpsampled;
  CellPlan plan{};
  CellCountsArgs& args = plan.args;
  args.seg = seg;
  args.small = class_bits(classes);
  args.y = make_bin_axis(H, window_px, stride_px, flush, kMaxTileY);
  args.x = make_bin_axis(W, window_px, stride_px, flush, tile_width(seg.B * H * W));
  const int64_t windows = int64_t{args.y.windows} * args.x.windows;
  const int64_t tiles = int64_t{args.y.tiles} * args.x.tiles;
  // Kernels number the windows and the tiles of an image in 32 bits, and the launch all tiles.
  if (windows > kInt32Max || seg.B * tiles > kInt32Max) {
    PyErr_SetString(PyExc_NotImplementedError,
                    (std::string(op) +
                     ": backend 'cuda' takes fewer than 2^31 windows per image, "
                     "got " +
                     std::to_string(windows) + "; 'reference' can run this")
                        .c_str());
    throw py::error_already_set();
  }
  args.scale_y = resize_scale(seg.h, H);
  args.scale_x = resize_scale(seg.w, W);
  args.packed = seg.is_logits && packed(seg);
  args.layout = layout_of(args, kind == CellKind::kUpsampled);
  args.labels = labels;
  args.bins = workspace.scratch<int32_t>("bins", seg.B * args.y.bins * args.x.bins);
  args.tickets = workspace.tickets(seg.B);
  constexpr int64_t kCompiledIn[] = {2, 6, 7, 16};
  const bool hot = seg.is_logits && std::find(std::begin(kCompiledIn), std::end(kCompiledIn),
                                              seg.N) != std::end(kCompiledIn);
  plan.key = cell_key(seg.dtype, kind, hot ? seg.N : 0);
  plan.blocks = seg.B * tiles;
  plan.shared_bytes = args.layout.bytes;
  return plan;
}

}  // namespace c2f::cuda
