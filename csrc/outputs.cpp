#include "outputs.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string>
#include <utility>

#include "dlpack.h"
#include "tensor.h"

namespace py = pybind11;

namespace c2f {
namespace {

DLDataType dlpack_type(DType dtype) {
  switch (dtype) {
    case DType::kU8:
      return {kDLUInt, 8, 1};
    case DType::kU16:
      return {kDLUInt, 16, 1};
    case DType::kI16:
      return {kDLInt, 16, 1};
    case DType::kI32:
      return {kDLInt, 32, 1};
    case DType::kI64:
      return {kDLInt, 64, 1};
    case DType::kF16:
      return {kDLFloat, 16, 1};
    case DType::kBF16:
      return {kDLBfloat, 16, 1};
    case DType::kF32:
      break;
  }
  return {kDLFloat, 32, 1};
}

// A small tensor in one block of memory: its DLPack header, its sizes and strides, its elements.
struct SmallTensor {
  static constexpr int kDims = 4;
  static constexpr int64_t kMostBytes = 1 << 16;
  static constexpr size_t kAlignment = 64;  // of the elements, as of torch's own

  DLManagedTensorVersioned managed;
  int64_t shape[kDims], strides[kDims];

  // Aligned by hand, since aligned operator new is several times slower.
  static DLManagedTensorVersioned* make(const DLPackExchangeApi& api, DLDataType type,
                                        std::initializer_list<int64_t> sizes, int64_t bytes,
                                        bool channels_last) {
    const size_t room = sizeof(SmallTensor) + kAlignment + static_cast<size_t>(bytes);
    auto* self = static_cast<SmallTensor*>(::operator new(room));
    const auto behind = reinterpret_cast<uintptr_t>(self + 1);
    void* elements = reinterpret_cast<void*>((behind + kAlignment - 1) / kAlignment * kAlignment);
    std::copy(sizes.begin(), sizes.end(), self->shape);
    const int32_t ndim = static_cast<int32_t>(sizes.size());
    constexpr int32_t kChannelsLast[] = {1, 3, 2, 0};  // innermost first
    int64_t packed = 1;
    for (int32_t inner = 0; inner < ndim; ++inner) {
      const int32_t i = channels_last ? kChannelsLast[inner] : ndim - 1 - inner;
      self->strides[i] = packed;
      packed *= std::max<int64_t>(self->shape[i], 1);
    }
    const DLTensor view{elements, {kDLCPU, 0}, ndim, type, self->shape, self->strides, 0};
    self->managed = {api.version, nullptr, &free, 0, view};
    return &self->managed;
  }

  static void free(DLManagedTensorVersioned* managed) { ::operator delete(managed); }
};
static_assert(offsetof(SmallTensor, managed) == 0, "free() takes its address for the block's");

// Bytes of a tensor, or kMostBytes + 1 if it is larger or a size is negative.
int64_t small_bytes(DType dtype, std::initializer_list<int64_t> shape) {
  constexpr int64_t kMany = SmallTensor::kMostBytes + 1;
  int64_t bytes = dtype_bytes(dtype);
  for (const int64_t size : shape) {
    if (size < 0 || size > SmallTensor::kMostBytes) return kMany;
    bytes = std::min(bytes * size, kMany);
  }
  return bytes;
}

// Asks for 2 MiB pages where memory is new. The system clears pages when they are first written; a
// large output has so many of 4 KiB that this would cost more than the op.
void prefer_large_pages(void* elements, int64_t bytes) {
#ifdef __linux__
  constexpr uintptr_t kPage = 1 << 21;
  constexpr int64_t kWorthIt = 4 << 20;
  if (bytes < kWorthIt) return;
  const auto begin = reinterpret_cast<uintptr_t>(elements);
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage;
  const uintptr_t last = (begin + static_cast<uintptr_t>(bytes)) / kPage * kPage;
  // Only a hint: a system without such pages refuses it.
  (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)elements, (void)bytes;
#endif
}

}  // namespace

Viewed new_tensor(py::handle like, DType dtype, std::initializer_list<int64_t> shape,
                  bool channels_last) {
  const DLPackExchangeApi* api = exchange_api(Py_TYPE(like.ptr()));
  const int64_t bytes = small_bytes(dtype, shape);
  if (api == nullptr || bytes > SmallTensor::kMostBytes) {
    const py::module_ torch = py::module_::import("torch");
    py::list sizes;
    for (const int64_t size : shape) sizes.append(size);
    const std::string name = torch_name(dtype).substr(std::strlen("torch."));
    const char* layout = channels_last ? "channels_last" : "contiguous_format";
    py::object tensor = torch.attr("empty")(sizes, py::arg("dtype") = torch.attr(name.c_str()),
                                            py::arg("device") = "cpu",
                                            py::arg("memory_format") = torch.attr(layout));
    int64_t elements = 1;
    for (const int64_t size : shape) elements *= size;
    const TensorView view = view_tensor(tensor, "new_tensor", "output");
    prefer_large_pages(view.data, elements * dtype_bytes(dtype));
    return {std::move(tensor), view};
  }
  DLManagedTensorVersioned* small =
      SmallTensor::make(*api, dlpack_type(dtype), shape, bytes, channels_last);
  const DLTensor& made = small->dl_tensor;
  TensorView view;
  view.data = made.data;
  view.dtype = dtype;
  view.ndim = made.ndim;
  std::copy_n(made.shape, made.ndim, view.shape);
  std::copy_n(made.strides, made.ndim, view.strides);
  void* tensor = nullptr;
  if (api->managed_tensor_to_py_object_no_sync(small, &tensor) != 0) {
    throw py::error_already_set();
  }
  return {py::reinterpret_steal<py::object>(static_cast<PyObject*>(tensor)), view};
}

// The last dtype asked for is remembered, since one is recognised only by its name.
DType float_dtype(py::handle dtype, const char* op) {
  static PyObject* known = nullptr;
  static DType found = DType::kF32;
  if (dtype.ptr() == known) return found;
  const std::string name = py::str(dtype);
  for (const DType each : {DType::kF16, DType::kBF16, DType::kF32}) {
    if (name != torch_name(each)) continue;
    known = dtype.ptr();  // dtypes live forever: the address stays its own
    return found = each;
  }
  throw py::type_error(std::string(op) + ": out must be float16/bfloat16/float32, got " + name);
}

Viewed contiguous(py::handle tensor, const char* op, const char* name) {
  const TensorView view = view_tensor(tensor, op, name);
  if (view.contiguous()) return {py::reinterpret_borrow<py::object>(tensor), view};
  py::object copy = tensor.attr("contiguous")();
  const TensorView of_copy = view_tensor(copy, op, name);
  return {std::move(copy), of_copy};
}

int threads_for(int64_t output_elems) {
#if defined(_OPENMP)
  constexpr int64_t kSmall = 1 << 14;  // a few microseconds of work
#else
  constexpr int64_t kSmall = 1 << 17;  // every call starts its threads (parallel_for_fresh)
#endif
  constexpr int kMost = 1024;  // if OpenMP cannot start a thread it ends the process
  if (output_elems < kSmall) return 1;
  return std::min(py::module_::import("torch").attr("get_num_threads")().cast<int>(), kMost);
}

bool signal_raised() {
  const py::gil_scoped_acquire locked;
  return PyErr_CheckSignals() != 0;
}

IdTable::IdTable(py::handle ids) {
  const py::object items = py::reinterpret_steal<py::object>(
      PySequence_Fast(ids.ptr(), "small_classes must be a sequence"));
  if (!items) throw py::error_already_set();
  for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(items.ptr()); ++i) {
    const long long c = PyLong_AsLongLong(PySequence_Fast_GET_ITEM(items.ptr(), i));
    if (c == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
    if (c >= 0 && c < kMaxClasses) is_small_[c] = 1;
  }
}

}  // namespace c2f
