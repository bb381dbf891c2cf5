#include "../kernels/cpu/select_windows.h"

#include "grid_args.h"
#include "ops.h"

namespace py = pybind11;

namespace c2f {
namespace {

void run_select_windows(py::handle seg, std::string_view table, int64_t H, int64_t W,
                        int64_t window, int64_t stride, bool flush, int64_t n,
                        const std::string& strategy, int64_t min_pixels, py::handle origins,
                        py::handle counts, py::handle num, py::handle labels, int threads) {
  const SelectWindowsParams params =
      select_windows_params(seg, table, H, W, window, stride, flush, n, strategy, min_pixels,
                            origins, counts, num, labels);
  require_threads(threads, "select_windows");
  py::gil_scoped_release unlocked;
  cpu::select_windows(params, worthwhile_threads(params.seg.B * H * W, threads));
}

}  // namespace

void bind_select_windows(py::module_& m) { m.def("select_windows", &run_select_windows); }

}  // namespace c2f
