#include "../kernels/cpu/count_windows.h"

#include "grid_args.h"
#include "ops.h"

namespace py = pybind11;

namespace c2f {
namespace {

void run_count_windows(py::handle seg, std::string_view table, int64_t H, int64_t W, int64_t window,
                       int64_t stride, bool flush, py::handle counts, py::handle labels,
                       int threads) {
  const CountWindowsParams params =
      count_windows_params(seg, table, H, W, window, stride, flush, counts, labels);
  require_threads(threads, "count_windows");
  py::gil_scoped_release unlocked;
  cpu::count_windows(params, worthwhile_threads(params.seg.B * H * W, threads));
}

}  // namespace

void bind_count_windows(py::module_& m) { m.def("count_windows", &run_count_windows); }

}  // namespace c2f
