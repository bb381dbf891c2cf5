#include "../../kernels/cuda/aggregate.cuh"
#include "aggregate_kernels.h"
#include "define_kernels.h"

C2F_KERNEL_TABLE(aggregate, C2F_AGGREGATE_KERNELS)
