#include <algorithm>
#include <string>
#include <string_view>

#include "../../kernels/common/bilinear.h"
#include "../../kernels/common/source_position.h"
#include "../../kernels/cuda/aggregate_args.h"
#include "../merge_args.h"
#include "../views.h"
#include "aggregate_kernels.h"
#include "coarse_plan.h"
#include "launch.h"
#include "logits.h"
#include "ops.h"
#include "supported.h"

namespace py = pybind11;

namespace c2f::cuda {

extern const KernelTable aggregate_kernels;

namespace {

// Largest tile, in pixels, that its block merges entirely by itself.
constexpr int32_t kMergedHere = 2 * kTilePixels;

// Source rows and columns, and pixels of a tile, are numbered in 32 bits.
void require_sizes(const AggregateParams& p, const char* op) {
  require_supported(p.H <= kInt32Max && p.W <= kInt32Max, op, "sizes below 2^31, got ",
                    Sides{p.H, p.W});
  const bool long_y = p.H != p.coarse.h && p.H > kMaxResizedAxis;
  const bool long_x = p.W != p.coarse.w && p.W > kMaxResizedAxis;
  require_supported(!long_y && !long_x, op, "at most ", kMaxResizedAxis,
                    " pixels per interpolated axis, got ", Sides{p.H, p.W});
  const int64_t fine = std::max({p.fine.H, p.fine.W, p.windows.window_px});
  require_supported(fine <= kMaxResizedAxis, op, "windows and patches of at most ", kMaxResizedAxis,
                    " pixels a side, got ", fine);
}

void set_tile(MergeArgs* args, int32_t tile_y, int32_t tile_x, int32_t x_log2) {
  args->tile_y = tile_y;
  args->tile_x = tile_x;
  args->tile_x_log2 = x_log2;
}

// Wide tiles read fewer source pixels twice; narrow ones always fit, and give small images enough
// blocks to fill a GPU. Where rows of pixels share rows of logits a thread makes several.
Launch plan_scores(const AggregateParams& p, MergeArgs* args) {
  const int64_t classes = compiled_in(p.coarse.N);
  const bool shared = classes != 0 && resize_scale(p.coarse.h, p.H) <= 0.5f &&
                      resize_scale(p.coarse.w, p.W) <= 0.5f;
  const int64_t wide = p.coarse.B * ceil_div(p.H, kWideTileY) * ceil_div(p.W, kWideTileX);
  if (shared && wide >= 2 * kMultiprocessors) {
    set_tile(args, kWideTileY, kWideTileX, kWideTileLog2);
  } else {
    set_tile(args, kNarrowTileY, kNarrowTileX, kNarrowTileLog2);
  }
  args->thread_rows = shared ? kRowsOfThread : 1;
  const int32_t threads = args->tile_y * args->tile_x / args->thread_rows;
  const uint32_t bytes = classes != 0 ? sizeof(float) * args->thread_rows * threads : 0;
  return {aggregate_kernels, probs_key(classes), 0, static_cast<uint32_t>(threads), bytes};
}

// Most parts (of `part` pixels each; the axis has `all`) that a window can reach along an axis.
int64_t most_parts(int64_t window, int64_t part, int64_t all) {
  return std::min(ceil_div(window - 1, part) + 1, all);
}

// Tiles of an image whose logits are upsampled. Where tiles are large, the parts that windows reach
// get blocks of their own, unless these could outnumber the parts of the images.
uint32_t plan_tiles(const AggregateParams& p, MergeArgs* args) {
  const int64_t pixels = p.coarse.B * p.H * p.W;
  const int64_t parts_y = ceil_div(p.H, kWideTileY), parts_x = ceil_div(p.W, kWideTileX);
  const int64_t of_window_y = most_parts(p.windows.window_px, kWideTileY, parts_y);
  const int64_t of_window_x = most_parts(p.windows.window_px, kWideTileX, parts_x);
  const int64_t blocks = p.coarse.B * p.windows.n * of_window_y * of_window_x;
  int32_t width = tile_width(pixels), height = tile_height(pixels);
  if (width * height > kMergedHere) {
    if (blocks <= p.coarse.B * parts_y * parts_x) {
      args->window_blocks = static_cast<int32_t>(blocks);
      args->window_parts_y = static_cast<int32_t>(of_window_y);
      args->window_parts_x = static_cast<int32_t>(of_window_x);
      args->by_window_parts_y = make_divider(of_window_y);
      args->by_window_parts_x = make_divider(of_window_x);
    } else {
      width = kWideTileX;
      height = kMergedHere / kWideTileX;
    }
  }
  for (;; height /= 2) {
    uint32_t bytes = 0;
    lay_out_cells(&args->coarse, height, width, &bytes);
    if (bytes > kTallBytes && height > kLowTileY) continue;
    set_tile(args, height, width, width < kWideTileX ? kNarrowTileLog2 : kWideTileLog2);
    return bytes;
  }
}

Launch plan_labels(const AggregateParams& p, MergeArgs* args) {
  const bool own_size = p.coarse.h == p.H && p.coarse.w == p.W;
  const LabelKind kind = p.labels_given ? LabelKind::kGiven
                         : own_size     ? LabelKind::kOwnSize
                                        : LabelKind::kUpsampled;
  uint32_t bytes = kLabelTileBytes;
  if (kind == LabelKind::kUpsampled) {
    // Merging reuses the shared memory that labelling used.
    bytes = std::max(bytes, plan_tiles(p, args));
  } else {
    set_tile(args, kWideTileY, kWideTileX, kWideTileLog2);
    set_width(&args->coarse, kWideTileX);
  }
  return {aggregate_kernels, labels_key(p.coarse.dtype, kind, compiled_in(p.coarse.N)), 0,
          kMergeThreads, bytes};
}

void run_aggregate(py::handle coarse, py::handle fine, py::handle origins, py::handle num,
                   int64_t window, std::string_view table, int64_t H, int64_t W,
                   const std::string& rule, py::handle out, bool labels_given, py::handle) {
  const char* op = "aggregate";
  const TensorView seg = view_tensor(coarse, op, "coarse"), patches = view_tensor(fine, op, "fine"),
                   ys_xs = view_tensor(origins, op, "windows.origins"),
                   used = view_tensor(num, op, "windows.num"), merged = view_tensor(out, op, "out");
  const AggregateParams p =
      aggregate_params(seg, patches, ys_xs, used, window, table, H, W, rule, merged, labels_given);
  require_sizes(p, op);
  MergeArgs args{};
  args.coarse = coarse_args(p.coarse, H, W, p.labels);
  args.fine = p.fine;
  args.fine_scale_y = resize_scale(p.fine.H, window);
  args.fine_scale_x = resize_scale(p.fine.W, window);
  args.windows = p.windows;
  args.last_y = static_cast<int32_t>(H - window);
  args.last_x = static_cast<int32_t>(W - window);
  args.small = class_bits(p.classes);
  args.rule = p.rule;
  args.probs = p.probs;
  const bool per_window = p.labels_given;
  Launch start = p.labels != nullptr ? plan_labels(p, &args) : plan_scores(p, &args);
  const int64_t tiles_y = ceil_div(per_window ? window : H, args.tile_y);
  const int64_t tiles_x = ceil_div(per_window ? window : W, args.tile_x);
  start.blocks =
      args.window_blocks + p.coarse.B * (per_window ? p.windows.n : 1) * tiles_y * tiles_x;
  require_supported(start.blocks <= kInt32Max, op, "fewer than 2^31 tiles, got ", start.blocks);
  if (start.blocks == 0) return;
  args.by_slots = make_divider(p.windows.n);
  args.tiles_y = static_cast<int32_t>(tiles_y);
  args.tiles_x = static_cast<int32_t>(tiles_x);
  args.by_tiles_y = make_divider(args.tiles_y);
  args.by_tiles_x = make_divider(args.tiles_x);
  const Queue queue(coarse);
  launch(start, args, queue);
}

}  // namespace

void bind_aggregate(py::module_& m) { m.def("aggregate", &run_aggregate); }

}  // namespace c2f::cuda
