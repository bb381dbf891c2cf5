#include "../grid_args.h"
#include "ops.h"
#include "windows_plan.h"

namespace py = pybind11;

namespace c2f::cuda {
namespace {

void run_count_windows(py::handle seg, std::string_view table, int64_t H, int64_t W, int64_t window,
                       int64_t stride, bool flush, py::handle counts, py::handle labels,
                       py::handle workspace) {
  const char* op = "count_windows";
  const TensorView map = view_tensor(seg, op, "seg"), out = view_tensor(counts, op, "counts");
  const CountWindowsParams params = count_windows_params(map, table, H, W, window, stride, flush,
                                                         out, view_optional(labels, op, "labels"));
  if (params.seg.B == 0) return;
  const Queue queue(seg);
  Workspace scratch(workspace);
  launch_count_windows(params, scratch, queue);
}

}  // namespace

void bind_count_windows(py::module_& m) { m.def("count_windows", &run_count_windows); }

}  // namespace c2f::cuda
