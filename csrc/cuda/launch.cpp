// What every launcher shares.
#include "launch.h"

#include <stdexcept>

#include "../tensor.h"

namespace py = pybind11;

namespace c2f::cuda {

size_t KernelTable::find(uint32_t key) const {
  for (size_t i = 0; i < count; ++i) {
    if (kernels[i].key == key) return i;
  }
  throw std::logic_error(std::string(op) + ": no kernel with key " + std::to_string(key));
}

void lacking(const char* op, const std::string& what) {
  const std::string text =
      std::string(op) + ": backend 'cuda' " + what + "; 'reference' can run this";
  PyErr_SetString(PyExc_NotImplementedError, text.c_str());
  throw py::error_already_set();
}

void require_blocks(const Launch& launch) {
  if (launch.blocks <= kInt32Max) return;
  lacking(launch.table.op,
          "takes fewer than 2^31 blocks of threads, got " + std::to_string(launch.blocks));
}

void* Workspace::bytes(const char* name, int64_t count) {
  const py::object held = python_.attr("scratch")(name, count);
  held_.append(held);
  const TensorView view = view_contiguous(held, DType::kU8, 1, "workspace", name);
  require(view.size(0) >= count, "workspace", std::string(name) + " is too small");
  return view.data;
}

uint32_t* Workspace::tickets(int64_t count) {
  const py::object held = python_.attr("tickets")(count);
  held_.append(held);
  const TensorView view = view_contiguous(held, DType::kI32, 1, "workspace", "tickets");
  require(view.size(0) >= count, "workspace", "there are too few tickets");
  return static_cast<uint32_t*>(view.data);
}

}  // namespace c2f::cuda
