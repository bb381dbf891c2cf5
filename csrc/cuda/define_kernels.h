// Defines the table of an op's kernels from the list in <op>_kernels.h, which has K(key, kernel)
// for each.
#pragma once

#include <algorithm>
#include <iterator>

#include "kernel_table.h"

#if defined(C2F_JIT)
#define C2F_KERNEL(key, ...) ::c2f::cuda::Kernel{key, #__VA_ARGS__, nullptr},
#elif defined(C2F_ON_HOST)
#define C2F_KERNEL(key, ...) \
  ::c2f::cuda::Kernel{key, #__VA_ARGS__, ::c2f::cuda::host::callable<&__VA_ARGS__>()},
#else
#define C2F_KERNEL(key, ...) \
  ::c2f::cuda::Kernel{key, #__VA_ARGS__, reinterpret_cast<const void*>(&__VA_ARGS__)},
#endif

// __CUDA_ARCH_LIST__ is what nvcc was told to compile for; 800 means compute capability 8.0.
#if defined(__CUDA_ARCH_LIST__)
#define C2F_OLDEST_ARCHITECTURE (std::min({__CUDA_ARCH_LIST__}) / 10)
#else
#define C2F_OLDEST_ARCHITECTURE 0
#endif

#define C2F_KERNEL_TABLE(op, LIST)                                                               \
  namespace c2f::cuda {                                                                          \
  static const Kernel op##_list[] = {LIST(C2F_KERNEL)};                                          \
  extern const KernelTable op##_kernels;                                                         \
  const KernelTable op##_kernels{#op, op##_list, std::size(op##_list), C2F_OLDEST_ARCHITECTURE}; \
  }
