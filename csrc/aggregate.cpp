#include "../kernels/cpu/aggregate.h"

#include "merge_args.h"
#include "ops.h"
#include "views.h"

namespace py = pybind11;

namespace c2f {
namespace {

void run_aggregate(py::handle coarse, py::handle fine, py::handle origins, py::handle num,
                   int64_t window, std::string_view table, int64_t H, int64_t W,
                   const std::string& rule, py::handle out, bool labels_given, int threads) {
  require_threads(threads, "aggregate");
  const AggregateParams params =
      aggregate_params(coarse, fine, origins, num, window, table, H, W, rule, out, labels_given);
  py::gil_scoped_release release;
  cpu::aggregate(params, worthwhile_threads(params.coarse.B * H * W, threads));
}

}  // namespace

void bind_aggregate(py::module_& m) { m.def("aggregate", &run_aggregate); }

}  // namespace c2f
