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
  const TensorView map = view_tensor(seg, op, "seg");
  const int64_t B = map.shape[0];
  Viewed origins = new_tensor(seg, DType::kI32, {B, n, 2});
  Viewed counts = new_tensor(seg, DType::kI32, {B, n});
  Viewed num = new_tensor(seg, DType::kI32, {B});
  Viewed labels{py::none(), {}};
  if (return_labels) labels = new_tensor(seg, DType::kU8, {B, H, W});
  const IdTable table(ids);
  const SelectWindowsParams params = select_windows_params(
      map, table.bytes(), H, W, window, stride, edge == "flush", n, strategy, min_pixels,
      origins.view, counts.view, num.view, return_labels ? labels.view : OptionalView());
  // A window's key has 32 bits for its index (select_key.h).
  const int64_t windows = WindowAxis{H, window, stride, params.flush}.count() *
                          WindowAxis{W, window, stride, params.flush}.count();
  require(params.strategy != Strategy::kTop || windows <= int64_t{1} << 32, op,
          "strategy \"top\" takes at most 2^32 windows per image, got ", windows);
  run_unlocked(&cpu::select_windows, params, B * H * W);
  return py::make_tuple(std::move(origins.tensor), std::move(counts.tensor), std::move(num.tensor),
                        std::move(labels.tensor));
}

}  // namespace

void bind_select_windows(py::module_& m) {
  def_fast<FastCall<&run_select_windows>>(m, "select_windows");
}

}  // namespace c2f
