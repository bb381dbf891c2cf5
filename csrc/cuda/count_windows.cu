#include "../../kernels/cuda/count_windows.cuh"
#include "count_windows_kernels.h"
#include "define_kernels.h"

C2F_KERNEL_TABLE(count_windows, C2F_COUNT_WINDOWS_KERNELS)
