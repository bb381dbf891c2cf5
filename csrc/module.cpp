// The CPU module, built from the same sources once per instruction set (C2F_ISA names it). Separate
// libraries cannot pick up each other's inline functions, so the portable one is safe on any
// processor of its architecture.
#include <pybind11/pybind11.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "../kernels/cpu/parallel.h"
#include "ops.h"

namespace py = pybind11;

namespace {

// Whether this processor has the extensions that CMakeLists.txt compiles "avx2" for.
bool cpu_has_avx2() {
#if defined(__x86_64__)
  // F16C is read from CPUID: not every Clang's __builtin_cpu_supports knows it (16 does not).
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool f16c = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
  return f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

}  // namespace

PYBIND11_MODULE(C2F_MODULE, m) {
  m.doc() = "c2fcore's CPU kernels";
  m.attr("isa") = C2F_ISA;
  m.def("cpu_has_avx2", &cpu_has_avx2);
  m.def("after_fork", [] { c2f::cpu::forked = true; });
  c2f::bind_count_windows(m);
  c2f::bind_select_windows(m);
  c2f::bind_extract_patches(m);
  c2f::bind_aggregate(m);
  c2f::bind_call_key(m);
}
