// Launch geometry of the kernel behind count_windows and select_windows.
#pragma once

#include "../../kernels/common/params.h"
#include "launch.h"

namespace c2f::cuda {

// B >= 1; parameters as checked by grid_args.h.
void launch_count_windows(const CountWindowsParams& params, Workspace& workspace,
                          const Queue& queue);
void launch_select_windows(const SelectWindowsParams& params, Workspace& workspace,
                           const Queue& queue);

}  // namespace c2f::cuda
