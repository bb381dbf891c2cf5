#include "../../kernels/cuda/extract_patches_backward.cuh"
#include "define_kernels.h"
#include "extract_patches_kernels.h"

C2F_KERNEL_TABLE(extract_patches_backward, C2F_EXTRACT_PATCHES_BACKWARD_KERNELS)
