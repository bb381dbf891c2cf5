// The CUDA module: arguments, checks and launch geometry. Built with kernels compiled by nvcc
// (_cuda_prebuilt), without kernels (_cuda_jit) and, for tests, with kernels that run on the CPU.
#include <pybind11/pybind11.h>

#include "launch.h"
#include "ops.h"

PYBIND11_MODULE(C2F_MODULE, m) {
  m.doc() = "c2fcore's CUDA kernels";
  m.def("missing", &c2f::cuda::missing);
  c2f::cuda::bind_launcher(m);
  c2f::cuda::bind_count_windows(m);
  c2f::cuda::bind_select_windows(m);
  c2f::cuda::bind_extract_patches(m);
  c2f::cuda::bind_aggregate(m);
}
