#include "../grid_args.h"
#include "ops.h"
#include "windows_plan.h"

namespace py = pybind11;

namespace c2f::cuda {
namespace {

void run_select_windows(py::handle seg, std::string_view table, int64_t H, int64_t W,
                        int64_t window, int64_t stride, bool flush, int64_t n,
                        const std::string& strategy, int64_t min_pixels, py::handle origins,
                        py::handle counts, py::handle num, py::handle labels,
                        py::handle workspace) {
  const char* op = "select_windows";
  const TensorView map = view_tensor(seg, op, "seg"), ys_xs = view_tensor(origins, op, "origins"),
                   pixels = view_tensor(counts, op, "counts"), used = view_tensor(num, op, "num");
  const SelectWindowsParams params =
      select_windows_params(map, table, H, W, window, stride, flush, n, strategy, min_pixels, ys_xs,
                            pixels, used, view_optional(labels, op, "labels"));
  if (params.seg.B == 0) return;
  const Queue queue(seg);
  Workspace scratch(workspace);
  launch_select_windows(params, scratch, queue);
}

}  // namespace

void bind_select_windows(py::module_& m) { m.def("select_windows", &run_select_windows); }

}  // namespace c2f::cuda
