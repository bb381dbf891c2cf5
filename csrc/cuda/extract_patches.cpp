#include <algorithm>
#include <string>
#include <string_view>

#include "../../kernels/common/bilinear.h"
#include "../../kernels/common/resample_tap.h"
#include "../../kernels/cuda/extract_patches_args.h"
#include "../../kernels/cuda/extract_targets_args.h"
#include "../patch_args.h"
#include "../views.h"
#include "extract_patches_kernels.h"
#include "extract_targets_kernels.h"
#include "launch.h"
#include "ops.h"
#include "supported.h"

namespace py = pybind11;

namespace c2f::cuda {

extern const KernelTable extract_patches_kernels;
extern const KernelTable extract_patches_backward_kernels;
extern const KernelTable extract_targets_kernels;

namespace {

// So many blocks keep every multiprocessor busy; where there would be fewer, blocks are made
// smaller.
constexpr int64_t kEnoughParts = 2 * kMultiprocessors;

// The windows of a batch. Viewed member by member, not as arguments of one call, whose order of
// evaluation is open: an error names the first tensor that is wrong.
struct Slots {
  Slots(py::handle origins_given, py::handle num_given, const char* op)
      : origins(view_tensor(origins_given, op, "windows.origins")),
        num(view_tensor(num_given, op, "windows.num")) {}
  TensorView origins, num;
};

void require_sides(int64_t window, int64_t side, const char* op) {
  require_supported(window <= kPatchMaxSide && side <= kPatchMaxSide, op,
                    "windows and patches of at most ", kPatchMaxSide, " pixels a side, got ",
                    window, " and ", side);
}

// Whether every block's rows start at multiples of 16 bytes.
bool vector_stores(const ExtractPatchesParams& p, bool channels_last) {
  const int64_t elems = 16 / dtype_bytes(p.out_dtype);
  return reinterpret_cast<uintptr_t>(p.out) % 16 == 0 && p.out_stride_y % elems == 0 &&
         p.out_stride_patch % elems == 0 &&
         (channels_last || (p.out_stride_x == 1 && p.out_stride_c % elems == 0));
}

PatchArgs plan_patches(const ExtractPatchesParams& p, int64_t first_channel, int64_t channels,
                       int taps) {
  PatchArgs args{};
  args.image = p.image;
  args.windows = p.windows;
  args.mode = p.mode;
  args.out = p.out;
  args.out_dtype = p.out_dtype;
  args.out_stride_patch = p.out_stride_patch;
  args.out_stride_c = p.out_stride_c;
  args.out_stride_y = p.out_stride_y;
  args.side = static_cast<int32_t>(p.p);
  args.first_channel = static_cast<int32_t>(first_channel);
  const bool channels_last =
      p.out_stride_c == 1 && p.out_stride_x == p.image.C && p.image.C == channels;
  args.group = static_cast<int32_t>(channels_last ? channels : 1);
  args.groups = static_cast<int32_t>(channels / args.group);
  args.out_stride_elem = channels_last ? 1 : p.out_stride_x;
  args.row_elems = static_cast<int32_t>(p.p * args.group);
  args.vector_stores = vector_stores(p, channels_last);
  args.by_group = make_divider(args.group);
  args.resize = resize_scale(p.windows.window_px, p.p);
  const int64_t across = ceil_div(args.row_elems, kPatchWidth);
  args.part_width = static_cast<int32_t>(ceil_div(ceil_div(args.row_elems, across), 8) * 8);
  args.parts_x = static_cast<int32_t>(ceil_div(args.row_elems, args.part_width));
  const int64_t rows_of_parts = p.image.B * p.windows.n * args.groups * args.parts_x;
  int64_t rows = std::min<int64_t>(kPatchRows, p.p);
  while (rows > 4 && rows_of_parts * ceil_div(p.p, rows) < kEnoughParts) rows = (rows + 1) / 2;
  args.part_rows = static_cast<int32_t>(rows);
  args.parts_y = static_cast<int32_t>(ceil_div(p.p, rows));
  const int64_t tiles = ceil_div(rows, most_tile_rows(p.windows.window_px, p.p, taps));
  args.tile_rows = static_cast<int32_t>(ceil_div(rows, tiles));
  args.by_parts_y = make_divider(args.parts_y);
  args.by_parts_x = make_divider(args.parts_x);
  args.by_groups = make_divider(args.groups);
  args.by_slots = make_divider(p.windows.n);
  args.packs = args.part_width * static_cast<int32_t>(dtype_bytes(p.out_dtype)) / 16;
  args.bands = kPatchThreads / args.packs;  // at least 4: part_width <= 256
  args.by_packs = make_divider(args.packs);
  args.by_bands = make_divider(args.bands);
  std::copy_n(p.gain + first_channel, channels, args.gain);
  std::copy_n(p.bias + first_channel, channels, args.bias);
  return args;
}

void run_extract_patches(py::handle image, py::handle origins, py::handle num, int64_t window,
                         py::handle out, const std::string& mode, double scale,
                         const Channels& mean, const Channels& std, py::handle) {
  const char* op = "extract_patches";
  const TensorView pixels = view_tensor(image, op, "image");
  const Slots slots(origins, num, op);
  const PatchesCall call = patches_call(pixels, slots.origins, slots.num, window,
                                        view_tensor(out, op, "out"), mode, scale, mean, std);
  const ExtractPatchesParams& p = call.params;
  require_sides(window, p.p, op);
  const int64_t patches = p.image.B * p.windows.n;
  if (patches == 0) return;
  const int taps = resample_taps(p.mode, p.p != window);
  const Queue queue(image);
  // One launch, unless there are more channels than its arguments have room for.
  for (int64_t c = 0; c < p.image.C; c += kPatchChannels) {
    const int64_t channels = std::min<int64_t>(kPatchChannels, p.image.C - c);
    const PatchArgs args = plan_patches(p, c, channels, taps);
    const int64_t blocks = patches * args.groups * args.parts_y * args.parts_x;
    launch({extract_patches_kernels, patches_key(p.image.dtype, taps), blocks, kPatchThreads}, args,
           queue);
  }
}

PatchBackwardArgs plan_backward(const ExtractPatchesBackwardParams& p, int64_t first_channel,
                                int64_t channels) {
  PatchBackwardArgs args{};
  args.grad_patches = p.grad_patches;
  args.windows = p.windows;
  args.grad_image = p.grad_image;
  args.C = p.C;
  args.H = p.H;
  args.W = p.W;
  args.first_channel = static_cast<int32_t>(first_channel);
  args.channels = static_cast<int32_t>(channels);
  const int64_t tiles_x = ceil_div(p.W, kBackwardColumns);
  int64_t rows = kBandRows;
  while (rows > 4 && p.B * channels * tiles_x * ceil_div(p.H, rows * kBackwardBands) < kEnoughParts)
    rows /= 2;
  args.band_rows = static_cast<int32_t>(rows);
  args.tiles_y = static_cast<int32_t>(ceil_div(p.H, rows * kBackwardBands));
  args.tiles_x = static_cast<int32_t>(tiles_x);
  args.by_tiles_y = make_divider(args.tiles_y);
  args.by_tiles_x = make_divider(tiles_x);
  args.by_channels = make_divider(channels);
  args.scale = resize_scale(p.windows.window_px, p.grad_patches.W);
  args.per_source = resize_scale(p.grad_patches.W, p.windows.window_px);
  std::copy_n(p.gain + first_channel, channels, args.gain);
  return args;
}

void run_extract_patches_backward(py::handle grad, py::handle origins, py::handle num,
                                  int64_t window, py::handle out, const std::string& mode,
                                  double scale, const Channels& std, py::handle) {
  const char* op = "extract_patches_backward";
  const TensorView patches = view_tensor(grad, op, "grad_patches");
  const Slots slots(origins, num, op);
  const PatchesBackwardCall call =
      patches_backward_call(patches, slots.origins, slots.num, window,
                            view_tensor(out, op, "grad_image"), mode, scale, std);
  const ExtractPatchesBackwardParams& p = call.params;
  require_sides(window, p.grad_patches.W, op);
  if (p.B * p.C * p.H * p.W == 0) return;
  const int taps = resample_taps(p.mode, p.grad_patches.W != window);
  const Queue queue(grad);
  for (int64_t c = 0; c < p.C; c += kPatchChannels) {
    const int64_t channels = std::min<int64_t>(kPatchChannels, p.C - c);
    const PatchBackwardArgs args = plan_backward(p, c, channels);
    const int64_t blocks = p.B * channels * args.tiles_y * args.tiles_x;
    launch({extract_patches_backward_kernels, patches_key(p.grad_patches.dtype, taps), blocks,
            kPatchThreads},
           args, queue);
  }
}

void run_extract_targets(py::handle labels, py::handle origins, py::handle num, int64_t window,
                         std::string_view table, int64_t ignore_index, py::handle out, py::handle) {
  const char* op = "extract_targets";
  const TensorView map = view_tensor(labels, op, "labels");
  const Slots slots(origins, num, op);
  const ExtractTargetsParams p = targets_params(map, slots.origins, slots.num, window, table,
                                                ignore_index, view_tensor(out, op, "out"));
  require_sides(window, window, op);
  const int64_t patches = p.windows.B * p.windows.n;
  if (patches == 0) return;
  TargetArgs args{};
  args.labels = p.labels;
  args.windows = p.windows;
  args.classes = class_bits(p.classes);
  args.ignore_index = static_cast<int32_t>(ignore_index);
  args.out = p.out;
  args.row_parts = static_cast<int32_t>(ceil_div(window, kTargetPixels));
  args.by_row_parts = make_divider(args.row_parts);
  args.parts = window * args.row_parts;
  args.blocks = static_cast<int32_t>(ceil_div(args.parts, kTargetThreads));
  args.by_blocks = make_divider(args.blocks);
  args.by_slots = make_divider(p.windows.n);
  args.packed =
      window % kTargetPixels == 0 && reinterpret_cast<uintptr_t>(p.out) % kTargetPixels == 0;
  const Queue queue(labels);
  launch(
      {extract_targets_kernels, targets_key(p.labels.dtype), patches * args.blocks, kTargetThreads},
      args, queue);
}

}  // namespace

void bind_extract_patches(py::module_& m) {
  m.def("extract_patches", &run_extract_patches);
  m.def("extract_patches_backward", &run_extract_patches_backward);
  m.def("extract_targets", &run_extract_targets);
}

}  // namespace c2f::cuda
