#include "../kernels/cpu/count_windows.h"

#include <string_view>

#include "grid_args.h"
#include "ops.h"
#include "views.h"

namespace py = pybind11;

namespace c2f {
namespace {

void run_count_windows(py::handle seg, std::string_view table, int64_t H, int64_t W, int64_t window,
                       int64_t stride, bool flush, py::handle counts, py::handle labels,
                       int threads) {
  const char* op = "count_windows";
  CountWindowsParams params{};
  params.seg = seg_of(seg, op, "seg");
  params.classes = class_table_of(table, op);
  require_grid(params.seg, H, W, window, stride, op);
  require_threads(threads, op);
  const TensorView out = view_contiguous(counts, DType::kI32, 3, op, "counts");
  const int64_t R = WindowAxis{H, window, stride, flush}.count();
  const int64_t S = WindowAxis{W, window, stride, flush}.count();
  require_shape(out, {params.seg.B, R, S}, op, "counts");
  params.H = H;
  params.W = W;
  params.window_px = window;
  params.stride_px = stride;
  params.flush = flush;
  params.counts = static_cast<int32_t*>(out.data);
  params.labels = labels_out(labels, params.seg.B, H, W, op);
  py::gil_scoped_release unlocked;
  cpu::count_windows(params, worthwhile_threads(params.seg.B * H * W, threads));
}

}  // namespace

void bind_count_windows(py::module_& m) { m.def("count_windows", &run_count_windows); }

}  // namespace c2f
