#include "../kernels/cpu/extract_patches.h"

#include "../kernels/cpu/extract_patches_backward.h"
#include "../kernels/cpu/extract_targets.h"
#include "ops.h"
#include "patch_args.h"
#include "views.h"

namespace py = pybind11;

namespace c2f {
namespace {

void run_extract_patches(py::handle image, py::handle origins, py::handle num, int64_t window,
                         py::handle out, const std::string& mode, double scale,
                         const Channels& mean, const Channels& std, int threads) {
  require_threads(threads, "extract_patches");
  const PatchesCall call = patches_call(image, origins, num, window, out, mode, scale, mean, std);
  const Image& view = call.params.image;
  const int64_t patches = view.B * call.params.windows.n, side = call.params.p;
  py::gil_scoped_release release;
  cpu::extract_patches(call.params, worthwhile_threads(patches * view.C * side * side, threads));
}

void run_extract_patches_backward(py::handle grad, py::handle origins, py::handle num,
                                  int64_t window, py::handle out, const std::string& mode,
                                  double scale, const Channels& std, int threads) {
  require_threads(threads, "extract_patches_backward");
  const PatchesBackwardCall call =
      patches_backward_call(grad, origins, num, window, out, mode, scale, std);
  const ExtractPatchesBackwardParams& params = call.params;
  py::gil_scoped_release release;
  cpu::extract_patches_backward(
      params, worthwhile_threads(params.B * params.C * params.H * params.W, threads));
}

void run_extract_targets(py::handle labels, py::handle origins, py::handle num, int64_t window,
                         std::string_view table, int64_t ignore_index, py::handle out,
                         int threads) {
  require_threads(threads, "extract_targets");
  const ExtractTargetsParams params =
      targets_params(labels, origins, num, window, table, ignore_index, out);
  const int64_t patches = params.windows.B * params.windows.n;
  py::gil_scoped_release release;
  cpu::extract_targets(params, worthwhile_threads(patches * window * window, threads));
}

}  // namespace

void bind_extract_patches(py::module_& m) {
  m.def("extract_patches", &run_extract_patches);
  m.def("extract_patches_backward", &run_extract_patches_backward);
  m.def("extract_targets", &run_extract_targets);
}

}  // namespace c2f
