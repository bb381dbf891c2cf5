// C2F_HD marks functions that CPU and CUDA builds share: one formula, compiled for both.
#pragma once

#if defined(__CUDACC__)
#define C2F_HD __host__ __device__ __forceinline__
#else
#define C2F_HD inline
#endif
