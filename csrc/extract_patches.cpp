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

// Number of windows of a batch, used or not.
int64_t slots(py::handle origins, const char* op) {
  const TensorView view = view_tensor(origins, op, "windows.origins");
  return view.shape[0] * view.shape[1];
}

py::object new_patches(py::handle image, int64_t count, int64_t side, py::handle dtype,
                       bool channels_last, const char* op) {
  const int64_t C = view_tensor(image, op, "image").shape[1];
  if (!channels_last) return new_tensor(image, float_dtype(dtype, op), {count, C, side, side});
  const py::module_ torch = py::module_::import("torch");
  return torch.attr("empty")(py::make_tuple(count, C, side, side), py::arg("dtype") = dtype,
                             py::arg("device") = "cpu",
                             py::arg("memory_format") = torch.attr("channels_last"));
}

py::object run_extract_patches(py::handle image, py::handle origins, py::handle num, int64_t window,
                               int64_t side, const std::string& mode, double scale,
                               const Channels& mean, const Channels& std, py::handle dtype,
                               bool channels_last) {
  const char* op = "extract_patches";
  const int64_t count = slots(origins, op);
  py::object out = new_patches(image, count, side, dtype, channels_last, op);
  const py::object ys_xs = contiguous(origins), used = contiguous(num);
  const PatchesCall call = patches_call(image, ys_xs, used, window, out, mode, scale, mean, std);
  const int64_t elements = count * call.params.image.C * side * side;
  const int threads = threads_for(elements);
  {
    py::gil_scoped_release unlocked;
    cpu::extract_patches(call.params, threads);
  }
  return out;
}

py::object run_extract_patches_backward(py::handle grad, py::handle image, py::handle origins,
                                        py::handle num, int64_t window, const std::string& mode,
                                        double scale, const Channels& std) {
  const char* op = "extract_patches_backward";
  const TensorView view = view_tensor(image, op, "image");
  const int64_t *size = view.shape, elements = size[0] * size[1] * size[2] * size[3];
  py::object out = new_tensor(image, DType::kF32, {size[0], size[1], size[2], size[3]});
  const py::object ys_xs = contiguous(origins), used = contiguous(num);
  const PatchesBackwardCall call =
      patches_backward_call(grad, ys_xs, used, window, out, mode, scale, std);
  const int threads = threads_for(elements);
  {
    py::gil_scoped_release unlocked;
    cpu::extract_patches_backward(call.params, threads);
  }
  return out.attr("to")(image.attr("dtype"));
}

py::object run_extract_targets(py::handle labels, py::handle origins, py::handle num,
                               int64_t window, py::handle ids, int64_t ignore_index) {
  const char* op = "extract_targets";
  const int64_t count = slots(origins, op);
  py::object out = new_tensor(labels, DType::kU8, {count, window, window});
  const IdTable table(ids);
  const py::object ys_xs = contiguous(origins), used = contiguous(num);
  const ExtractTargetsParams params =
      targets_params(labels, ys_xs, used, window, table.bytes(), ignore_index, out);
  const int threads = threads_for(count * window * window);
  {
    py::gil_scoped_release unlocked;
    cpu::extract_targets(params, threads);
  }
  return out;
}

}  // namespace

void bind_extract_patches(py::module_& m) {
  def_fast<FastCall<&run_extract_patches>>(m, "extract_patches");
  def_fast<FastCall<&run_extract_patches_backward>>(m, "extract_patches_backward");
  def_fast<FastCall<&run_extract_targets>>(m, "extract_targets");
}

}  // namespace c2f
