// Tensors from Python without any torch header: by the DLPack C exchange API if the tensor's type
// offers it (about 50 ns), else by data_ptr(), shape, stride() and dtype.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <sstream>
#include <string>

#include "../kernels/common/dtype.h"

namespace c2f {

constexpr int kMaxDims = 8;

struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int device = 0;  // index, of GPU tensors
  int ndim = 0;
  int64_t shape[kMaxDims] = {};
  int64_t strides[kMaxDims] = {};  // elements

  int64_t size(int dim) const { return shape[dim]; }
  bool contiguous() const;
};

// Views a tensor, which must be on the module's kind of device. It costs some 100 ns, so a call
// does it once per tensor. `op` and `name` begin the error text: "<op>: <name> must be ..., got
// ...".
TensorView view_tensor(pybind11::handle tensor, const char* op, const char* name);

[[noreturn]] void refuse(const char* op, const std::string& rule);

// Checks that guard memory, which every launch repeats after the Python checks. The text is put
// together only when it is needed, since a call makes some twenty of these checks.
template <class... Parts>
void require(bool holds, const char* op, const Parts&... parts) {
  if (holds) return;
  std::ostringstream rule;
  (rule << ... << parts);
  refuse(op, rule.str());
}

// "[2, 3]" in an error text.
struct Sizes {
  const int64_t* sizes;
  int ndim;
};
std::ostream& operator<<(std::ostream& out, const Sizes& sizes);

// "480 x 640" in an error text.
struct Sides {
  int64_t height, width;
};
std::ostream& operator<<(std::ostream& out, const Sides& sides);

void require_shape(const TensorView& view, std::initializer_list<int64_t> shape, const char* op,
                   const char* name);
void require_contiguous(const TensorView& view, DType dtype, int ndim, const char* op,
                        const char* name);
// view_tensor and require_contiguous.
TensorView view_contiguous(pybind11::handle tensor, DType dtype, int ndim, const char* op,
                           const char* name);

// "torch.uint8" for an error text.
std::string torch_name(DType dtype);

// Index of the GPU a tensor is on, and the caller's current stream there.
int device_of(pybind11::handle tensor);
void* current_stream(pybind11::handle tensor, int device);

}  // namespace c2f
