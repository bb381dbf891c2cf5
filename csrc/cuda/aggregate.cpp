#include <algorithm>
#include <string>
#include <string_view>

#include "../../kernels/common/bilinear.h"
#include "../../kernels/common/source_position.h"
#include "../../kernels/cuda/aggregate_args.h"
#include "../merge_args.h"
#include "../views.h"
#include "aggregate_kernels.h"
#include "launch.h"
#include "logits.h"
#include "ops.h"
#include "supported.h"

namespace py = pybind11;

namespace c2f::cuda {

extern const KernelTable aggregate_kernels;

namespace {

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

// Wide tiles read fewer source pixels twice; narrow ones always fit, and give small images enough
// blocks to fill a GPU.
bool wide_scores(const AggregateParams& p, bool in_registers) {
  const bool enlarged = resize_scale(p.coarse.h, p.H) <= 0.5f &&  //
                        resize_scale(p.coarse.w, p.W) <= 0.5f;
  const int64_t blocks = p.coarse.B * ceil_div(p.H, kWideTileY) * ceil_div(p.W, kWideTileX);
  return in_registers && enlarged && blocks >= 2 * kMultiprocessors;
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
  const int64_t classes = compiled_in(p.coarse.N);
  const bool wide = p.labels != nullptr || wide_scores(p, classes != 0);
  MergeArgs args{};
  args.coarse = p.coarse;
  args.fine = p.fine;
  args.windows = p.windows;
  args.small = class_bits(p.classes);
  args.H = H;
  args.W = W;
  args.rule = p.rule;
  args.tile_y = wide ? kWideTileY : kNarrowTileY;
  args.tile_x = wide ? kWideTileX : kNarrowTileX;
  args.tile_x_log2 = wide ? kWideTileLog2 : kNarrowTileLog2;
  const bool per_window = p.labels_given;
  const int64_t tiles_y = ceil_div(per_window ? window : H, args.tile_y);
  const int64_t tiles_x = ceil_div(per_window ? window : W, args.tile_x);
  const int64_t blocks = p.coarse.B * (per_window ? p.windows.n : 1) * tiles_y * tiles_x;
  require_supported(blocks <= kInt32Max, op, "fewer than 2^31 tiles, got ", blocks);
  if (blocks == 0) return;
  args.tiles_y = static_cast<int32_t>(tiles_y);
  args.tiles_x = static_cast<int32_t>(tiles_x);
  args.packed = packed(p.coarse);
  args.labels_given = p.labels_given;
  args.labels = p.labels;
  args.probs = p.probs;
  const uint32_t key =
      p.labels != nullptr ? labels_key(p.coarse.dtype, classes) : probs_key(classes);
  const Queue queue(coarse);
  launch({aggregate_kernels, key, blocks, kMergeThreads}, args, queue);
}

}  // namespace

void bind_aggregate(py::module_& m) { m.def("aggregate", &run_aggregate); }

}  // namespace c2f::cuda
