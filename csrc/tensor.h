// Tensors at the Python border, without any torch header: through the DLPack C exchange API where
// the tensor's type offers it (about 50 ns), through data_ptr() / shape / stride() / dtype
// otherwise.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "../kernels/common/dtype.h"

namespace c2f {

constexpr int kMaxDims = 8;

struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int ndim = 0;
  int64_t shape[kMaxDims] = {};
  int64_t strides[kMaxDims] = {};  // elements

  int64_t size(int dim) const { return shape[dim]; }
  bool contiguous() const;
};

// Views a CPU tensor. `op` and `name` begin the error text: "<op>: <name> must be ..., got ...".
TensorView view_cpu_tensor(pybind11::handle tensor, const char* op, const char* name);

// Guards of memory every launch repeats after the Python checks.
void require(bool holds, const char* op, const std::string& rule);
TensorView view_contiguous(pybind11::handle tensor, DType dtype, int ndim, const char* op,
                           const char* name);

}  // namespace c2f
