// The kernels of an op, as launchers know them. Free of Python's headers, since .cu files include
// it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace c2f::cuda {

// One instantiation of a kernel. `function` is what the launcher runs; null if the kernel is
// compiled at run time, by its name.
struct Kernel {
  uint32_t key;
  const char* name;
  const void* function;
};

// The kernels of an op, each under its own key.
struct KernelTable {
  const char* op;
  const Kernel* kernels;
  size_t count;
  int oldest_architecture;  // compute capability times 10; 0 if nvcc did not compile these

  // The index of a key. Throws std::logic_error for an unknown one: a bug of ours.
  size_t find(uint32_t key) const;
};

}  // namespace c2f::cuda
