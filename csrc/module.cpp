// The CPU module. Built from the same sources once per instruction set (C2F_ISA names it): separate
// libraries cannot mix their inline functions, so the portable one is safe on any processor of its
// kind.
#include <pybind11/pybind11.h>

#include "../kernels/cpu/parallel.h"
#include "ops.h"

namespace py = pybind11;

PYBIND11_MODULE(C2F_MODULE, m) {
  m.doc() = "c2fcore's CPU kernels";
  m.attr("isa") = C2F_ISA;
  m.def("cpu_has_avx2", [] {
#if defined(__x86_64__) || defined(_M_X64)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
#else
    return false;
#endif
  });
  m.def("after_fork", [] { c2f::cpu::forked = true; });
  c2f::bind_count_windows(m);
  c2f::bind_select_windows(m);
  c2f::bind_extract_patches(m);
  c2f::bind_aggregate(m);
  c2f::bind_call_key(m);
}
