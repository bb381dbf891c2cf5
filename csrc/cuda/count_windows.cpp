#include <string_view>

#include "../../kernels/common/windows.h"
#include "../../kernels/cuda/count_windows_args.h"
#include "../grid_args.h"
#include "../views.h"
#include "cell_plan.h"
#include "ops.h"

namespace py = pybind11;

namespace c2f::cuda {

extern const KernelTable count_windows_kernels;

namespace {

void run_count_windows(py::handle seg, std::string_view table, int64_t H, int64_t W, int64_t window,
                       int64_t stride, bool flush, py::handle counts, py::handle labels,
                       py::handle workspace) {
  const char* op = "count_windows";
  const Seg view = seg_of(seg, op, "seg");
  require_grid(view, H, W, window, stride, op);
  const TensorView out = view_contiguous(counts, DType::kI32, 3, op, "counts");
  require_shape(out,
                {view.B, WindowAxis{H, window, stride, flush}.count(),
                 WindowAxis{W, window, stride, flush}.count()},
                op, "counts");
  if (view.B == 0) return;
  const Queue queue(seg);
  Workspace scratch(workspace);
  const CellPlan plan = plan_cells(view, class_table_of(table, op), H, W, window, stride, flush,
                                   labels_out(labels, view.B, H, W, op), scratch, op);
  CountWindowsArgs args{};
  args.cells = plan.args;
  args.across =
      scratch.scratch<int32_t>("across", view.B * args.cells.y.bins * args.cells.x.windows);
  args.counts = static_cast<int32_t*>(out.data);
  launch({count_windows_kernels, plan.key, plan.blocks, kCellThreads, plan.shared_bytes, true},
         args, queue);
}

}  // namespace

void bind_count_windows(py::module_& m) { m.def("count_windows", &run_count_windows); }

}  // namespace c2f::cuda
