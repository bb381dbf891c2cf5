#include "../../kernels/cuda/windows.cuh"
#include "define_kernels.h"
#include "windows_kernels.h"

C2F_KERNEL_TABLE(windows, C2F_WINDOWS_KERNELS)
