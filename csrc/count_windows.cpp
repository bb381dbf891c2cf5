#include "../kernels/cpu/count_windows.h"

#include "fast_call.h"
#include "grid_args.h"
#include "ops.h"
#include "outputs.h"

namespace py = pybind11;

namespace c2f {
namespace {

py::object run_count_windows(py::handle seg, py::handle ids, int64_t window, int64_t stride,
                             int64_t H, int64_t W, const std::string& edge) {
  const char* op = "count_windows";
  require(stride >= 1, op, "stride must be at least 1, got ", stride);
  const bool flush = edge == "flush";
  const TensorView map = view_tensor(seg, op, "seg");
  const int64_t B = map.shape[0];
  const int64_t R = WindowAxis{H, window, stride, flush}.count();
  const int64_t S = WindowAxis{W, window, stride, flush}.count();
  Viewed counts = new_tensor(seg, DType::kI32, {B, R, S});
  const IdTable table(ids);
  const CountWindowsParams params =
      count_windows_params(map, table.bytes(), H, W, window, stride, flush, counts.view, {});
  run_unlocked(&cpu::count_windows, params, B * H * W);
  return std::move(counts.tensor);
}

}  // namespace

void bind_count_windows(py::module_& m) {
  def_fast<FastCall<&run_count_windows>>(m, "count_windows");
}

}  // namespace c2f
