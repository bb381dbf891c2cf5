#pragma once

#include "cell_kernels.h"

#define C2F_WINDOWS_KERNEL(K, T, N, dtype, kind) \
  K(cell_key(DType::dtype, CellKind::kind, N), windows_kernel<T, N, CellKind::kind>)
#define C2F_WINDOWS_KERNELS(K) C2F_CELL_KERNELS(C2F_WINDOWS_KERNEL, K)
