#include "../kernels/cpu/extract_patches.h"

#include "../kernels/cpu/extract_patches_backward.h"
#include "../kernels/cpu/extract_targets.h"
#include "fast_call.h"
#include "ops.h"
#include "outputs.h"
#include "patch_args.h"
#include "tensor.h"

namespace py = pybind11;

namespace c2f {
namespace {

// The windows of a batch.
struct Slots {
  Slots(py::handle origins_given, py::handle num_given, const char* op)
      : origins(contiguous(origins_given, op, "windows.origins")),
        num(contiguous(num_given, op, "windows.num")) {}
  int64_t count() const { return origins.view.shape[0] * origins.view.shape[1]; }  // used or not
  Viewed origins, num;
};

py::object run_extract_patches(py::handle image, py::handle origins, py::handle num, int64_t window,
                               int64_t side, const std::string& mode, double scale,
                               const Channels& mean, const Channels& std, py::handle dtype,
                               bool channels_last) {
  const char* op = "extract_patches";
  const TensorView pixels = view_tensor(image, op, "image");
  const Slots slots(origins, num, op);
  const int64_t count = slots.count(), C = pixels.shape[1];
  Viewed out = new_tensor(image, float_dtype(dtype, op), {count, C, side, side}, channels_last);
  const PatchesCall call = patches_call(pixels, slots.origins.view, slots.num.view, window,
                                        out.view, mode, scale, mean, std);
  run_unlocked(&cpu::extract_patches, call.params, count * C * side * side);
  return std::move(out.tensor);
}

py::object run_extract_patches_backward(py::handle grad, py::handle image, py::handle origins,
                                        py::handle num, int64_t window, const std::string& mode,
                                        double scale, const Channels& std) {
  const char* op = "extract_patches_backward";
  const TensorView view = view_tensor(image, op, "image");
  const int64_t *size = view.shape, elements = size[0] * size[1] * size[2] * size[3];
  const Viewed out = new_tensor(image, DType::kF32, {size[0], size[1], size[2], size[3]});
  const Slots slots(origins, num, op);
  const PatchesBackwardCall call =
      patches_backward_call(view_tensor(grad, op, "grad_patches"), slots.origins.view,
                            slots.num.view, window, out.view, mode, scale, std);
  run_unlocked(&cpu::extract_patches_backward, call.params, elements);
  return out.tensor.attr("to")(image.attr("dtype"));
}

py::object run_extract_targets(py::handle labels, py::handle origins, py::handle num,
                               int64_t window, py::handle ids, int64_t ignore_index) {
  const char* op = "extract_targets";
  const TensorView map = view_tensor(labels, op, "labels");
  const Slots slots(origins, num, op);
  const int64_t count = slots.count();
  Viewed out = new_tensor(labels, DType::kU8, {count, window, window});
  const IdTable table(ids);
  const ExtractTargetsParams params = targets_params(map, slots.origins.view, slots.num.view,
                                                     window, table.bytes(), ignore_index, out.view);
  run_unlocked(&cpu::extract_targets, params, count * window * window);
  return std::move(out.tensor);
}

}  // namespace

void bind_extract_patches(py::module_& m) {
  def_fast<FastCall<&run_extract_patches>>(m, "extract_patches");
  def_fast<FastCall<&run_extract_patches_backward>>(m, "extract_patches_backward");
  def_fast<FastCall<&run_extract_targets>>(m, "extract_targets");
}

}  // namespace c2f
