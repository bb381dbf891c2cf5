#include "windows_plan.h"

#include <algorithm>
#include <string>

#include "../../kernels/cuda/windows_args.h"
#include "coarse_plan.h"
#include "logits.h"
#include "supported.h"
#include "windows_kernels.h"

// The tests' emulator lowers these, so that small images take every path.
#if !defined(C2F_ONE_BAND_TILES)
#define C2F_ONE_BAND_TILES 512
#endif
#if !defined(C2F_SELECT_SHARED_BYTES)
#define C2F_SELECT_SHARED_BYTES (16 << 10)
#endif

namespace c2f::cuda {

extern const KernelTable windows_kernels;

namespace {

// Most windows of an image and bins of an axis: kernels number them in 32 bits, and their loops
// step past the last one by up to a block of threads, or to the end of a band.
constexpr int64_t kMostNumbered = (int64_t{1} << 31) - (1 << 12);

// Lays out the shared memory of counting and sets the arguments that depend on it; returns its size
// in bytes.
uint32_t lay_out(CellCountsArgs* args, bool upsampled) {
  const BinAxis &y = args->y, &x = args->x;
  uint32_t bytes = 0;
  reserve(&bytes, int64_t{4} * y.tile_bins * x.tile_bins);
  args->row_bins = reserve(&bytes, 2 * y.tile_px);
  args->column_bins = reserve(&bytes, 2 * x.tile_px);
  if (upsampled) {
    lay_out_cells(&args->coarse, y.tile_px, x.tile_px, &bytes);
  } else {
    set_width(&args->coarse, x.tile_px);
  }
  return bytes;
}

bool flushed(const BinAxis& axis) { return axis.flush_px != kNoFlush; }

// Refuses what kernels could not number in 32 bits: windows, bins, tiles of the launch.
void require_numbers(const BinAxis& y, const BinAxis& x, int64_t B, const char* op) {
  const int64_t windows = int64_t{y.windows} * x.windows;
  require_supported(windows <= kMostNumbered, op, "at most ", kMostNumbered,
                    " windows per image, got ", windows);
  const int64_t bins = std::max(y.bins, x.bins);
  require_supported(bins <= kMostNumbered, op, "sizes of at most ", kMostNumbered,
                    " bins (starts and ends of windows) per axis, got ", bins);
  const int64_t tiles = B * y.tiles * x.tiles;
  require_supported(tiles <= kInt32Max, op, "fewer than 2^31 tiles, got ", tiles);
}

struct WindowsPlan {
  WindowsArgs args;
  Launch launch;
};

// The part of the plan that both ops share; Params is either op's.
template <class Params>
WindowsPlan plan_windows(const Params& p, int64_t stride_px, Workspace& workspace, const char* op) {
  const Seg& seg = p.seg;
  const CellKind kind = !seg.is_logits                 ? CellKind::kLabels
                        : seg.h == p.H && seg.w == p.W ? CellKind::kOwnSize
                                                       : CellKind::kUpsampled;
  WindowsArgs args{};
  CellCountsArgs& cells = args.cells;
  cells.coarse = coarse_args(seg, p.H, p.W, p.labels);
  cells.small = class_bits(p.classes);
  const int64_t pixels = seg.B * p.H * p.W;
  cells.x = make_bin_axis(p.W, p.window_px, stride_px, p.flush, tile_width(pixels));
  uint32_t bytes = 0;
  for (int32_t rows = tile_height(pixels);; rows /= 2) {
    cells.y = make_bin_axis(p.H, p.window_px, stride_px, p.flush, rows);
    bytes = lay_out(&cells, kind == CellKind::kUpsampled);
    if (bytes <= kTallBytes || rows <= kLowTileY) break;
  }
  require_numbers(cells.y, cells.x, seg.B, op);
  const int64_t tiles = int64_t{cells.y.tiles} * cells.x.tiles;
  cells.bins = workspace.scratch<int32_t>("bins", seg.B * cells.y.bins * cells.x.bins);
  WindowSums& sums = args.sums;
  sums.band_tiles = tiles <= C2F_ONE_BAND_TILES ? cells.y.tiles : 1;
  sums.bands = parts_of(cells.y.tiles, sums.band_tiles);
  sums.across = workspace.scratch<int32_t>("across", seg.B * cells.y.bins * cells.x.windows);
  sums.tickets = workspace.tickets(seg.B * (int64_t{sums.bands} + cells.y.windows + 1));
  const int64_t classes = seg.is_logits ? compiled_in(seg.N) : 0;
  const Launch launch{windows_kernels, cell_key(seg.dtype, kind, classes),
                      seg.B * tiles,   kCellThreads,
                      bytes,           true};
  return {args, launch};
}

// Most windows of an axis that overlap one (itself included), and most bins of a window: with a
// flush window these are its own, or one more than usual where its start cuts a bin of another
// window.
int64_t most_beside(const BinAxis& axis) {
  return std::min<int64_t>(axis.windows, 2 * int64_t{axis.beside} + (flushed(axis) ? 2 : 1));
}
int64_t most_span(const BinAxis& axis) {
  if (!flushed(axis)) return axis.span_bins;
  return std::max(int64_t{axis.span_bins} + 1, int64_t{axis.bins} - axis.flush_bin);
}

// The layout of a selection by one warp, or one with places = 0 if a whole block must select, which
// has no limits. One warp can if keys fit 32 bits, if it reads them in a few turns, and if "cover"
// meets no more windows and bins around a choice than its lanes hold.
WarpLayout warp_layout(const CellCountsArgs& cells, Strategy strategy, uint32_t* bytes) {
  const BinAxis &y = cells.y, &x = cells.x;
  WarpLayout layout{};
  while (int64_t{1} << layout.column_bits < x.windows) ++layout.column_bits;
  const int64_t places = int64_t{y.windows} << layout.column_bits;
  const int64_t most = int64_t{y.window_px} * x.window_px;
  const int64_t beside = std::max(most_beside(y), most_beside(x));
  const int64_t span = std::max(most_span(y), most_span(x));
  const bool reached = beside <= kMostBeside && span <= kMostSpan;
  if (strategy == Strategy::kAll || (strategy == Strategy::kCover && !reached) ||
      places > kPlaces || most >> (32 - kPlaceBits) != 0) {
    return layout;
  }
  const int64_t turns = (places + kPlacesPerTurn - 1) / kPlacesPerTurn;
  layout.span = static_cast<int32_t>(span <= 4 ? 4 : kMostSpan);
  int64_t at = 4 * turns * kPlacesPerTurn;
  const auto reserve = [&at](int64_t size) {
    const int64_t start = at;
    at += (size + 15) / 16 * 16;
    return static_cast<uint32_t>(start);
  };
  layout.rows = reserve(int64_t{8} * 4 * y.windows);     // a Reach for each of 4 lanes
  layout.columns = reserve(int64_t{8} * 8 * x.windows);  // and of 8
  // With room behind it, as lanes read past a window's last bin and ignore what they find there.
  layout.bins = reserve(4 * (int64_t{y.bins + layout.span - 1} * x.bins + layout.span));
  layout.across = reserve(4 * int64_t{y.bins} * x.windows);
  if (at > C2F_SELECT_SHARED_BYTES) return layout;
  layout.places = static_cast<int32_t>(turns * kPlacesPerTurn);
  *bytes = static_cast<uint32_t>(at);
  return layout;
}

}  // namespace

void launch_count_windows(const CountWindowsParams& params, Workspace& workspace,
                          const Queue& queue) {
  WindowsPlan plan = plan_windows(params, params.stride_px, workspace, "count_windows");
  plan.args.sums.counts = params.counts;
  launch(plan.launch, plan.args, queue);
}

void launch_select_windows(const SelectWindowsParams& params, Workspace& workspace,
                           const Queue& queue) {
  const bool all = params.strategy == Strategy::kAll;
  WindowsPlan plan =
      plan_windows(params, all ? params.window_px : params.stride_px, workspace, "select_windows");
  const BinAxis &y = plan.args.cells.y, &x = plan.args.cells.x;
  const int64_t windows = int64_t{y.windows} * x.windows;
  const int64_t B = params.seg.B;
  SelectArgs& select = plan.args.select;
  select.wanted = true;
  select.strategy = params.strategy;
  select.n = params.n;
  select.min_pixels = static_cast<int32_t>(std::min(params.min_pixels, kInt32Max));
  select.origins = params.origins;
  select.counts = params.counts;
  select.num = params.num;
  const bool one_band = plan.args.sums.bands == 1;
  uint32_t bytes = 0;
  if (one_band) select.warp = warp_layout(plan.args.cells, params.strategy, &bytes);
  if (select.warp.places == 0) {
    const int64_t best = int64_t{8} * y.windows;
    const int64_t whole =
        best + 4 * (int64_t{y.bins} * x.bins + int64_t{y.bins} * x.windows + windows);
    const int64_t rounds = best + 4 * most_span(y) * most_beside(x);
    select.in_shared = one_band && whole <= C2F_SELECT_SHARED_BYTES;
    select.rounds_in_shared = !select.in_shared && rounds <= C2F_SELECT_SHARED_BYTES;
    bytes = static_cast<uint32_t>(select.in_shared ? whole : select.rounds_in_shared ? rounds : 0);
    if (!select.in_shared) {
      plan.args.sums.counts = workspace.scratch<int32_t>("gains", B * windows);
      select.row_best = workspace.scratch<int32_t>("row best", 2 * B * y.windows);
    }
  }
  plan.launch.dynamic_shared = std::max(plan.launch.dynamic_shared, bytes);
  launch(plan.launch, plan.args, queue);
}

}  // namespace c2f::cuda
