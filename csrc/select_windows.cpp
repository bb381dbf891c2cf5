#include "../kernels/cpu/select_windows.h"

#include "fast_call.h"
#include "grid_args.h"
#include "ops.h"
#include "outputs.h"

namespace py = pybind11;

namespace c2f {
namespace {

py::object run_select_windows(py::handle seg, py::handle ids, int64_t window, int64_t stride,
                              int64_t H, int64_t W, const std::string& edge, int64_t n,
                              const std::string& strategy, int64_t min_pixels, bool return_labels) {
  const char* op = "select_windows";
  const int64_t B = view_tensor(seg, op, "seg").shape[0];
  py::object origins = new_tensor(seg, DType::kI32, {B, n, 2}).tensor;
  py::object counts = new_tensor(seg, DType::kI32, {B, n}).tensor;
  py::object num = new_tensor(seg, DType::kI32, {B}).tensor;
  py::object labels = return_labels ? new_tensor(seg, DType::kU8, {B, H, W}).tensor : py::none();
  const IdTable table(ids);
  const SelectWindowsParams params =
      select_windows_params(seg, table.bytes(), H, W, window, stride, edge == "flush", n, strategy,
                            min_pixels, origins, counts, num, labels);
  const int threads = threads_for(B * H * W);
  {
    py::gil_scoped_release unlocked;
    cpu::select_windows(params, threads);
  }
  return py::make_tuple(std::move(origins), std::move(counts), std::move(num), std::move(labels));
}

}  // namespace

void bind_select_windows(py::module_& m) {
  def_fast<FastCall<&run_select_windows>>(m, "select_windows");
}

}  // namespace c2f
