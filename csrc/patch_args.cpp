#include "patch_args.h"

#include "views.h"

namespace py = pybind11;

namespace c2f {
namespace {

Resample resample_of(const std::string& mode, const char* op) {
  if (mode == "nearest") return Resample::kNearest;
  if (mode == "bilinear") return Resample::kBilinear;
  require(mode == "bicubic", op, "mode must be \"nearest\", \"bilinear\" or \"bicubic\", got \"",
          mode, "\"");
  return Resample::kBicubic;
}

void require_channels(const Channels& values, int64_t channels, const char* op, const char* name) {
  if (!values) return;
  require(static_cast<int64_t>(values->size()) == channels, op, name,
          " must have one value per channel (", channels, "), got ", values->size());
}

// (v * scale - mean) / std as v * gain + bias, computed in double.
std::vector<float> gains(double scale, const Channels& std, int64_t channels) {
  std::vector<float> gain;
  gain.reserve(static_cast<size_t>(channels));
  for (size_t c = 0; c < static_cast<size_t>(channels); ++c) {
    gain.push_back(static_cast<float>(scale / (std ? (*std)[c] : 1.0)));
  }
  return gain;
}

std::vector<float> biases(const Channels& mean, const Channels& std, int64_t channels) {
  std::vector<float> bias;
  bias.reserve(static_cast<size_t>(channels));
  for (size_t c = 0; c < static_cast<size_t>(channels); ++c) {
    bias.push_back(mean ? static_cast<float>(-(*mean)[c] / (std ? (*std)[c] : 1.0)) : 0.0f);
  }
  return bias;
}

void require_window(int64_t window, const char* op) {
  require(window >= 1, op, "window must be at least 1, got ", window);
}

}  // namespace

PatchesCall patches_call(const TensorView& image, const TensorView& origins, const TensorView& num,
                         int64_t window, const TensorView& out, const std::string& mode,
                         double scale, const Channels& mean, const Channels& std) {
  const char* op = "extract_patches";
  PatchesCall call;
  ExtractPatchesParams& params = call.params;
  params.image = image_of(image, op, "image");
  const Image& view = params.image;
  if (view.dtype == DType::kI32 || view.dtype == DType::kI64) {
    throw py::type_error(
        "extract_patches: image must be uint8/uint16/int16/float16/bfloat16/float32, got " +
        torch_name(view.dtype));
  }
  require_window(window, op);
  params.windows = windows_of(origins, num, view.B, window, view.H, view.W, op);
  params.mode = resample_of(mode, op);
  require_channels(mean, view.C, op, "mean");
  require_channels(std, view.C, op, "std");
  call.gain = gains(scale, std, view.C);
  call.bias = biases(mean, std, view.C);
  params.gain = call.gain.data();
  params.bias = call.bias.data();
  const Image patches = image_of(out, op, "out");
  if (!is_float(patches.dtype)) {
    throw py::type_error("extract_patches: out must be float16/bfloat16/float32, got " +
                         torch_name(patches.dtype));
  }
  require(patches.B == view.B * params.windows.n && patches.C == view.C && patches.H == patches.W &&
              patches.W >= 1,
          op, "out must be of shape [B*n, C, p, p], got [", patches.B, ", ", patches.C, ", ",
          patches.H, ", ", patches.W, "]");
  params.out = const_cast<void*>(patches.data);
  params.out_dtype = patches.dtype;
  params.p = patches.W;
  params.out_stride_patch = patches.stride_b;
  params.out_stride_c = patches.stride_c;
  params.out_stride_y = patches.stride_y;
  params.out_stride_x = patches.stride_x;
  return call;
}

PatchesBackwardCall patches_backward_call(const TensorView& grad, const TensorView& origins,
                                          const TensorView& num, int64_t window,
                                          const TensorView& image, const std::string& mode,
                                          double scale, const Channels& std) {
  const char* op = "extract_patches_backward";
  PatchesBackwardCall call;
  ExtractPatchesBackwardParams& params = call.params;
  params.grad_patches = image_of(grad, op, "grad_patches");
  const Image& patches = params.grad_patches;
  if (!is_float(patches.dtype)) {
    throw py::type_error(
        "extract_patches_backward: grad_patches must be float16/bfloat16/float32, got " +
        torch_name(patches.dtype));
  }
  require_contiguous(image, DType::kF32, 4, op, "grad_image");
  params.grad_image = static_cast<float*>(image.data);
  params.B = image.shape[0];
  params.C = image.shape[1];
  params.H = image.shape[2];
  params.W = image.shape[3];
  require_window(window, op);
  params.windows = windows_of(origins, num, params.B, window, params.H, params.W, op);
  require(patches.B == params.B * params.windows.n && patches.C == params.C &&
              patches.H == patches.W && patches.W >= 1,
          op, "grad_patches must be of shape [B*n, C, p, p], got [", patches.B, ", ", patches.C,
          ", ", patches.H, ", ", patches.W, "]");
  params.mode = resample_of(mode, op);
  require_channels(std, params.C, op, "std");
  call.gain = gains(scale, std, params.C);
  params.gain = call.gain.data();
  return call;
}

ExtractTargetsParams targets_params(const TensorView& labels, const TensorView& origins,
                                    const TensorView& num, int64_t window, std::string_view table,
                                    int64_t ignore_index, const TensorView& out) {
  const char* op = "extract_targets";
  ExtractTargetsParams params{};
  params.labels = seg_of(labels, op, "labels");
  const Seg& map = params.labels;
  if (map.is_logits) {
    throw py::type_error("extract_targets: labels must be uint8/int16/int32/int64, got " +
                         torch_name(map.dtype));
  }
  require_window(window, op);
  params.windows = windows_of(origins, num, map.B, window, map.h, map.w, op);
  params.classes = class_table_of(table, op);
  require(ignore_index >= 0 && ignore_index <= 255, op, "ignore_index must be in 0..255, got ",
          ignore_index);
  params.ignore_index = ignore_index;
  require_contiguous(out, DType::kU8, 3, op, "out");
  require_shape(out, {map.B * params.windows.n, window, window}, op, "out");
  params.out = static_cast<uint8_t*>(out.data);
  return params;
}

}  // namespace c2f
