#include "../kernels/cpu/aggregate.h"

#include "fast_call.h"
#include "grid_args.h"
#include "merge_args.h"
#include "ops.h"
#include "outputs.h"
#include "tensor.h"

namespace py = pybind11;

namespace c2f {
namespace {

// `labels`, unless None, are edited in place.
py::object run_aggregate(py::handle coarse, py::handle fine, py::handle origins, py::handle num,
                         int64_t window, py::handle ids, int64_t H, int64_t W,
                         const std::string& rule, const std::string& output, py::handle labels) {
  const char* op = "aggregate";
  const TensorView seg = view_tensor(coarse, op, "coarse");
  const int64_t B = seg.shape[0], N = seg.shape[1];
  const bool given = !labels.is_none();
  Viewed out =
      given ? Viewed{py::reinterpret_borrow<py::object>(labels), view_tensor(labels, op, "out")}
      : output == "labels" ? new_tensor(coarse, DType::kU8, {B, H, W})
                           : new_tensor(coarse, DType::kF32, {B, N, H, W});
  const IdTable table(ids);
  const Viewed ys_xs = contiguous(origins, op, "windows.origins");
  const Viewed used = contiguous(num, op, "windows.num");
  const AggregateParams params =
      aggregate_params(seg, view_tensor(fine, op, "fine"), ys_xs.view, used.view, window,
                       table.bytes(), H, W, rule, out.view, given);
  require_axes(params.coarse, H, W, op);
  run_unlocked(&cpu::aggregate, params, B * H * W);
  return std::move(out.tensor);
}

}  // namespace

void bind_aggregate(py::module_& m) { def_fast<FastCall<&run_aggregate>>(m, "aggregate"); }

}  // namespace c2f
