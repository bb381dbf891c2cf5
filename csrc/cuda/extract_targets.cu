#include "../../kernels/cuda/extract_targets.cuh"
#include "define_kernels.h"
#include "extract_targets_kernels.h"

C2F_KERNEL_TABLE(extract_targets, C2F_EXTRACT_TARGETS_KERNELS)
