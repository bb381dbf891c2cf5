#include "outputs.h"

#include <algorithm>
#include <string>
#include <vector>

#include "dlpack.h"
#include "tensor.h"

namespace py = pybind11;

namespace c2f {
namespace {

struct Named {
  DLDataType type;
  const char* name;
};

Named named(DType dtype) {
  switch (dtype) {
    case DType::kU8:
      return {{kDLUInt, 8, 1}, "uint8"};
    case DType::kU16:
      return {{kDLUInt, 16, 1}, "uint16"};
    case DType::kI16:
      return {{kDLInt, 16, 1}, "int16"};
    case DType::kI32:
      return {{kDLInt, 32, 1}, "int32"};
    case DType::kI64:
      return {{kDLInt, 64, 1}, "int64"};
    case DType::kF16:
      return {{kDLFloat, 16, 1}, "float16"};
    case DType::kBF16:
      return {{kDLBfloat, 16, 1}, "bfloat16"};
    case DType::kF32:
      break;
  }
  return {{kDLFloat, 32, 1}, "float32"};
}

void raise(void*, const char*, const char* message) {
  PyErr_SetString(PyExc_RuntimeError, message);
}

}  // namespace

py::object new_tensor(py::handle like, DType dtype, std::initializer_list<int64_t> shape) {
  const DLPackExchangeApi* api = exchange_api(Py_TYPE(like.ptr()));
  if (api == nullptr || api->managed_tensor_allocator == nullptr) {
    const py::module_ torch = py::module_::import("torch");
    const std::vector<int64_t> sizes(shape);
    return torch.attr("empty")(py::tuple(py::cast(sizes)),
                               py::arg("dtype") = torch.attr(named(dtype).name),
                               py::arg("device") = "cpu");
  }
  int64_t sizes[kMaxDims];
  std::copy(shape.begin(), shape.end(), sizes);
  const int32_t ndim = static_cast<int32_t>(shape.size());
  DLTensor prototype{nullptr, {kDLCPU, 0}, ndim, named(dtype).type, sizes, nullptr, 0};
  void *managed = nullptr, *tensor = nullptr;
  if (api->managed_tensor_allocator(&prototype, &managed, nullptr, &raise) != 0 ||
      api->managed_tensor_to_py_object_no_sync(managed, &tensor) != 0) {
    throw py::error_already_set();
  }
  return py::reinterpret_steal<py::object>(static_cast<PyObject*>(tensor));
}

// The dtype last asked for is remembered: it has to be told by its name.
DType float_dtype(py::handle dtype, const char* op) {
  static PyObject* known = nullptr;
  static DType found = DType::kF32;
  if (dtype.ptr() == known) return found;
  const std::string name = py::str(dtype);
  for (const DType each : {DType::kF16, DType::kBF16, DType::kF32}) {
    if (name != std::string("torch.") + named(each).name) continue;
    known = dtype.ptr();  // each torch.dtype is one object for good
    return found = each;
  }
  throw py::type_error(std::string(op) + ": out must be float16/bfloat16/float32, got " + name);
}

py::object contiguous(py::handle tensor) {
  if (view_tensor(tensor, "contiguous", "tensor").contiguous()) {
    return py::reinterpret_borrow<py::object>(tensor);
  }
  return tensor.attr("contiguous")();
}

int threads_for(int64_t output_elems) {
  constexpr int64_t kSmall = 1 << 14;  // a few microseconds of work
  if (output_elems < kSmall) return 1;
  return py::module_::import("torch").attr("get_num_threads")().cast<int>();
}

IdTable::IdTable(py::handle ids) {
  for (const py::handle id : py::reinterpret_borrow<py::sequence>(ids)) {
    const int64_t c = id.cast<int64_t>();
    if (c >= 0 && c < kMaxClasses) is_small_[c] = 1;
  }
}

}  // namespace c2f
