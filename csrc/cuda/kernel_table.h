// The kernels of an op, as launchers know them. No header of Python's: .cu files include this.
#pragma once

#include <cstddef>
#include <cstdint>

namespace c2f::cuda {

// One instantiation of a kernel. `function` is what the launcher needs to run it; null where it is
// compiled at run time, from its name.
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
  int oldest_architecture;  // compute capability times 10; 0 where that is not nvcc's choice

  // The index of a key; an unknown one is a mistake of ours.
  size_t find(uint32_t key) const;
};

}  // namespace c2f::cuda
