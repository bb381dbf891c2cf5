#include "tensor.h"

#include <algorithm>
#include <string>
#include <utility>

#include "dlpack.h"

namespace py = pybind11;

namespace c2f {
namespace {

// The kind of device whose memory this module's kernels read; C2F_GPU is set for the CUDA modules.
#if defined(C2F_GPU)
constexpr int32_t kDevice = kDLCUDA;
constexpr const char *kDeviceType = "cuda", *kWhere = "on a GPU", *kBackend = "cuda";
#else
constexpr int32_t kDevice = kDLCPU;
constexpr const char *kDeviceType = "cpu", *kWhere = "on the CPU", *kBackend = "cpu";
#endif
bool dtype_of(DLDataType t, DType* out) {
  if (t.lanes != 1) return false;
  switch (t.code) {
    case kDLUInt:
      if (t.bits == 8) return *out = DType::kU8, true;
      if (t.bits == 16) return *out = DType::kU16, true;
      return false;
    case kDLInt:
      if (t.bits == 16) return *out = DType::kI16, true;
      if (t.bits == 32) return *out = DType::kI32, true;
      if (t.bits == 64) return *out = DType::kI64, true;
      return false;
    case kDLFloat:
      if (t.bits == 16) return *out = DType::kF16, true;
      if (t.bits == 32) return *out = DType::kF32, true;
      return false;
    case kDLBfloat:
      if (t.bits == 16) return *out = DType::kBF16, true;
      return false;
  }
  return false;
}

bool dtype_of(const std::string& name, DType* out) {
  for (const DType each : {DType::kU8, DType::kU16, DType::kI16, DType::kI32, DType::kI64,
                           DType::kF16, DType::kBF16, DType::kF32}) {
    if (name == torch_name(each)) return *out = each, true;
  }
  return false;
}

[[noreturn]] void refuse_dtype(py::handle tensor, const char* op, const char* name) {
  throw py::type_error(std::string(op) + ": " + name + " has a dtype the " + kBackend +
                       " backend cannot read, got " + std::string(py::str(tensor.attr("dtype"))));
}

TensorView view_by_attributes(py::handle tensor, const char* op, const char* name) {
  TensorView view;
  if (std::string(py::str(tensor.attr("device").attr("type"))) != kDeviceType) {
    throw py::value_error(std::string(op) + ": " + name + " must be " + kWhere + ", got " +
                          std::string(py::str(tensor.attr("device"))));
  }
  if (!dtype_of(std::string(py::str(tensor.attr("dtype"))), &view.dtype)) {
    refuse_dtype(tensor, op, name);
  }
  const py::tuple shape(tensor.attr("shape"));
  const py::tuple strides(tensor.attr("stride")());
  require(shape.size() <= kMaxDims, op, name, " has too many dimensions");
  view.ndim = static_cast<int>(shape.size());
  for (int i = 0; i < view.ndim; ++i) {
    view.shape[i] = shape[i].cast<int64_t>();
    view.strides[i] = strides[i].cast<int64_t>();
  }
  view.data = reinterpret_cast<void*>(tensor.attr("data_ptr")().cast<uintptr_t>());
  const py::object index = tensor.attr("device").attr("index");
  view.device = index.is_none() ? 0 : index.cast<int>();
  return view;
}

}  // namespace

const DLPackExchangeApi* exchange_api(PyTypeObject* type) {
  static PyTypeObject* known_type = nullptr;
  static const DLPackExchangeApi* known_api = nullptr;
  if (type == known_type) return known_api;
  const DLPackExchangeApi* api = nullptr;
  PyObject* capsule =
      PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__");
  if (capsule != nullptr && PyCapsule_CheckExact(capsule)) {
    api =
        static_cast<const DLPackExchangeApi*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
    if (api != nullptr && api->version.major != 1) api = nullptr;
  }
  PyErr_Clear();
  Py_XDECREF(capsule);
  Py_INCREF(type);  // kept alive while it is remembered, so that its address is not reused
  PyTypeObject* last = std::exchange(known_type, type);
  known_api = api;
  Py_XDECREF(reinterpret_cast<PyObject*>(last));
  return api;
}

bool TensorView::contiguous() const {
  if (std::find(shape, shape + ndim, 0) != shape + ndim) return true;
  int64_t expected = 1;
  for (int i = ndim - 1; i >= 0; --i) {
    if (shape[i] != 1 && strides[i] != expected) return false;
    expected *= shape[i];
  }
  return true;
}

std::string torch_name(DType dtype) {
  switch (dtype) {
    case DType::kU8:
      return "torch.uint8";
    case DType::kU16:
      return "torch.uint16";
    case DType::kI16:
      return "torch.int16";
    case DType::kI32:
      return "torch.int32";
    case DType::kI64:
      return "torch.int64";
    case DType::kF16:
      return "torch.float16";
    case DType::kBF16:
      return "torch.bfloat16";
    case DType::kF32:
      break;
  }
  return "torch.float32";
}

void refuse(const char* op, const std::string& rule) {
  throw py::value_error(std::string(op) + ": " + rule);
}

std::ostream& operator<<(std::ostream& out, const Sizes& sizes) {
  out << "[";
  for (int i = 0; i < sizes.ndim; ++i) out << (i == 0 ? "" : ", ") << sizes.sizes[i];
  return out << "]";
}

std::ostream& operator<<(std::ostream& out, const Sides& sides) {
  return out << sides.height << " x " << sides.width;
}

void require_shape(const TensorView& view, std::initializer_list<int64_t> shape, const char* op,
                   const char* name) {
  const Sizes wanted{shape.begin(), static_cast<int>(shape.size())};
  const Sizes got{view.shape, view.ndim};
  const bool same = wanted.ndim == got.ndim && std::equal(shape.begin(), shape.end(), view.shape);
  require(same, op, name, " must be of shape ", wanted, ", got ", got);
}

namespace {

TensorView find_view(py::handle tensor, const char* op, const char* name) {
  const DLPackExchangeApi* api = exchange_api(Py_TYPE(tensor.ptr()));
  if (api == nullptr) return view_by_attributes(tensor, op, name);
  DLTensor dl;
  if (api->dltensor_from_py_object_no_sync(tensor.ptr(), &dl) != 0) throw py::error_already_set();
  if (dl.device.device_type != kDevice) {
    throw py::value_error(std::string(op) + ": " + name + " must be " + kWhere + ", got " +
                          std::string(py::str(tensor.attr("device"))));
  }
  TensorView view;
  if (!dtype_of(dl.dtype, &view.dtype)) refuse_dtype(tensor, op, name);
  require(dl.ndim <= kMaxDims, op, name, " has too many dimensions");
  view.device = dl.device.device_id;
  view.ndim = dl.ndim;
  int64_t packed = 1;
  for (int i = dl.ndim - 1; i >= 0; --i) {
    view.shape[i] = dl.shape[i];
    view.strides[i] = dl.strides != nullptr ? dl.strides[i] : packed;
    packed *= dl.shape[i];
  }
  view.data = static_cast<char*>(dl.data) + dl.byte_offset;
  return view;
}

}  // namespace

#if defined(C2F_ON_HOST)
namespace cuda::host {
void allow(const TensorView& view);  // the emulator of the tests: kernels may touch this
}
#endif

TensorView view_tensor(py::handle tensor, const char* op, const char* name) {
  TensorView view = find_view(tensor, op, name);
  const bool empty = std::find(view.shape, view.shape + view.ndim, 0) != view.shape + view.ndim;
  require(view.data != nullptr || empty, op, name,
          " must hold its numbers in memory, got a tensor without: freed, or of a compiler");
#if defined(C2F_ON_HOST)
  cuda::host::allow(view);
#endif
  return view;
}

void require_contiguous(const TensorView& view, DType dtype, int ndim, const char* op,
                        const char* name) {
  require(view.ndim == ndim, op, name, " must have ", ndim, " dimensions, got ", view.ndim);
  require(view.dtype == dtype, op, name, " has the wrong dtype for the ", kBackend, " backend");
  require(view.contiguous(), op, name, " must be contiguous");
}

TensorView view_contiguous(py::handle tensor, DType dtype, int ndim, const char* op,
                           const char* name) {
  const TensorView view = view_tensor(tensor, op, name);
  require_contiguous(view, dtype, ndim, op, name);
  return view;
}

int device_of(py::handle tensor) { return view_tensor(tensor, "cuda", "tensor").device; }

void* current_stream(py::handle tensor, int device) {
  const DLPackExchangeApi* api = exchange_api(Py_TYPE(tensor.ptr()));
  if (api != nullptr && api->current_work_stream != nullptr) {
    void* stream = nullptr;
    if (api->current_work_stream(kDevice, device, &stream) != 0) throw py::error_already_set();
    return stream;
  }
  const py::object current = py::module_::import("torch.cuda").attr("current_stream")(device);
  return reinterpret_cast<void*>(current.attr("cuda_stream").cast<uintptr_t>());
}

}  // namespace c2f
