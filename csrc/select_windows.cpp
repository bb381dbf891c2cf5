#include "../kernels/cpu/select_windows.h"

#include <string>
#include <string_view>

#include "grid_args.h"
#include "ops.h"
#include "views.h"

namespace py = pybind11;

namespace c2f {
namespace {

Strategy strategy_of(const std::string& name, const char* op) {
  if (name == "top") return Strategy::kTop;
  if (name == "cover") return Strategy::kCover;
  require(name == "all", op, "strategy must be \"top\", \"cover\" or \"all\", got \"", name, "\"");
  return Strategy::kAll;
}

void run_select_windows(py::handle seg, std::string_view table, int64_t H, int64_t W,
                        int64_t window, int64_t stride, bool flush, int64_t n,
                        const std::string& strategy, int64_t min_pixels, py::handle origins,
                        py::handle counts, py::handle num, py::handle labels, int threads) {
  const char* op = "select_windows";
  SelectWindowsParams params{};
  params.seg = seg_of(seg, op, "seg");
  params.classes = class_table_of(table, op);
  require_grid(params.seg, H, W, window, stride, op);
  require_threads(threads, op);
  require(n >= 1, op, "n must be at least 1, got ", n);
  require(min_pixels >= 1, op, "min_pixels must be at least 1, got ", min_pixels);
  const int64_t B = params.seg.B;
  const TensorView origins_view = view_contiguous(origins, DType::kI32, 3, op, "origins");
  const TensorView counts_view = view_contiguous(counts, DType::kI32, 2, op, "counts");
  const TensorView num_view = view_contiguous(num, DType::kI32, 1, op, "num");
  require_shape(origins_view, {B, n, 2}, op, "origins");
  require_shape(counts_view, {B, n}, op, "counts");
  require_shape(num_view, {B}, op, "num");
  params.H = H;
  params.W = W;
  params.window_px = window;
  params.stride_px = stride;
  params.flush = flush;
  params.strategy = strategy_of(strategy, op);
  params.n = n;
  params.min_pixels = min_pixels;
  params.origins = static_cast<int32_t*>(origins_view.data);
  params.counts = static_cast<int32_t*>(counts_view.data);
  params.num = static_cast<int32_t*>(num_view.data);
  params.labels = labels_out(labels, B, H, W, op);
  py::gil_scoped_release unlocked;
  cpu::select_windows(params, worthwhile_threads(params.seg.B * H * W, threads));
}

}  // namespace

void bind_select_windows(py::module_& m) { m.def("select_windows", &run_select_windows); }

}  // namespace c2f
