// call_key(tensors, *args): what a call is but for the content of its tensors, as bytes. Python
// remembers under it that the arguments were checked, and what for.
//
// Equal keys mean equal arguments, to the type: True and 1.0 are not 1. Of a tensor the key holds
// dtype, device and shape: it may be one of the first `tensors` arguments, or part of Windows. The
// answer is None for whatever is not known to be covered by that: tensors elsewhere (class ids,
// numbers: checks look into them), other types, subclasses of Tensor (fake tensors among them),
// tensors without memory of their own (functorch's, sparse, nested, meta), and views that are
// negated lazily.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "dlpack.h"
#include "fast_call.h"
#include "ops.h"

namespace py = pybind11;

namespace c2f {
namespace {

// Python's types that are no types of its C interface, from call_key_types; they are kept.
struct Types {
  PyTypeObject *tensor, *parameter, *size, *dtype, *windows;
  PyObject* is_neg;  // the name, interned
  const DLPackExchangeApi* api;
};
Types types{};

class Key {
 public:
  // Appends an argument; false if it has no key.
  bool add_argument(PyObject* value, bool may_be_tensor) {
    if (may_be_tensor && is_tensor(value)) return add_tensor(value) && !negated(value);
    return add(value);
  }

  PyObject* bytes() const { return PyBytes_FromStringAndSize(bytes_, size_); }

 private:
  bool add(PyObject* value) {
    PyTypeObject* type = Py_TYPE(value);
    if (type == &PyLong_Type) return add_int(value);
    if (type == &PyUnicode_Type) return add_string(value);
    if (value == Py_None) return put('n');
    if (value == Py_True || value == Py_False) return put('b') && put(value == Py_True);
    if (type == &PyFloat_Type) return put('f') && put(PyFloat_AS_DOUBLE(value));
    // Sequences are told from Windows alone: every check takes the others for the same.
    if (type == &PyTuple_Type || type == types.size) return add_tuple(value);
    if (type == types.windows) return add_windows(value);
    if (type == &PyList_Type) return add_list(value);
    if (type == types.dtype) return put('d') && put(value);  // each is one object for good
    return false;
  }

  bool add_tensor(PyObject* tensor) {
    DLTensor view;
    if (types.api->dltensor_from_py_object_no_sync(tensor, &view) != 0) {
      PyErr_Clear();
      return false;
    }
    bool ok = put('t') && put(view.dtype) && put(view.device) && put(view.ndim);
    int64_t elements = 1;
    for (int32_t i = 0; i < view.ndim && ok; ++i) {
      ok = put(view.shape[i]);
      elements *= view.shape[i];
    }
    // Zeros of automatic differentiation have no memory.
    return ok && (view.data != nullptr || elements == 0);
  }

  static bool is_tensor(PyObject* value) {
    return Py_TYPE(value) == types.tensor || Py_TYPE(value) == types.parameter;
  }

  static bool negated(PyObject* tensor) {
    PyObject* answer = PyObject_CallMethodNoArgs(tensor, types.is_neg);
    PyErr_Clear();
    const bool is_not = answer == Py_False;
    Py_XDECREF(answer);
    return !is_not;
  }

  bool add_int(PyObject* value) {
    int overflow = 0;
    const long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    return overflow == 0 && put('i') && put(number);
  }

  bool add_string(PyObject* value) {
    Py_ssize_t length = 0;
    const char* text = PyUnicode_AsUTF8AndSize(value, &length);
    PyErr_Clear();
    return text != nullptr && put('s') && put(length) && put_bytes(text, length);
  }

  bool add_tuple(PyObject* tuple) {
    const Py_ssize_t length = PyTuple_GET_SIZE(tuple);
    bool ok = put('(') && put(length);
    for (Py_ssize_t i = 0; i < length && ok; ++i) ok = add(PyTuple_GET_ITEM(tuple, i));
    return ok;
  }

  // What is no tensor among the first three is for Python to convert or refuse. They are whole
  // numbers, which no view negates.
  bool add_windows(PyObject* windows) {
    bool ok = put('w');
    for (Py_ssize_t i = 0; i < 3 && ok; ++i) {
      PyObject* part = PyTuple_GET_ITEM(windows, i);
      ok = is_tensor(part) && add_tensor(part);
    }
    return ok && add(PyTuple_GET_ITEM(windows, 3));
  }

  // Another thread may change the list, and a list may hold itself, which ends with the room.
  bool add_list(PyObject* list) {
    PyObject* tuple = PyList_AsTuple(list);
    PyErr_Clear();
    const bool ok = tuple != nullptr && add_tuple(tuple);
    Py_XDECREF(tuple);
    return ok;
  }

  template <class T>
  bool put(const T& value) {
    static_assert(std::has_unique_object_representations_v<T> || std::is_floating_point_v<T>,
                  "padding would tell equal keys apart");
    return put_bytes(&value, static_cast<Py_ssize_t>(sizeof value));
  }

  bool put_bytes(const void* data, Py_ssize_t size) {
    if (size > kRoom - size_) return false;
    std::memcpy(bytes_ + size_, data, static_cast<size_t>(size));
    size_ += size;
    return true;
  }

  static constexpr Py_ssize_t kRoom = 4096;  // 256 class ids take 2.3 KB
  char bytes_[kRoom];
  Py_ssize_t size_ = 0;
};

struct CallKey {
  static PyObject* call(PyObject*, PyObject* const* args, Py_ssize_t count) {
    const Py_ssize_t tensors = count > 0 ? PyLong_AsSsize_t(args[0]) : 0;
    if (PyErr_Occurred() != nullptr) return nullptr;
    bool ok = types.api != nullptr;
    Key key;
    for (Py_ssize_t i = 1; i < count && ok; ++i) ok = key.add_argument(args[i], i <= tensors);
    if (!ok) Py_RETURN_NONE;
    return key.bytes();
  }
};

void call_key_types(const py::type& tensor, const py::type& parameter, const py::type& size,
                    const py::type& dtype, const py::type& windows) {
  const auto keep = [](const py::type& type) {
    return reinterpret_cast<PyTypeObject*>(py::object(type).release().ptr());
  };
  types = {keep(tensor),
           keep(parameter),
           keep(size),
           keep(dtype),
           keep(windows),
           PyUnicode_InternFromString("is_neg"),
           exchange_api(reinterpret_cast<PyTypeObject*>(tensor.ptr()))};
}

}  // namespace

void bind_call_key(py::module_& m) {
  m.def("call_key_types", &call_key_types);
  def_fast<CallKey>(m, "call_key");
}

}  // namespace c2f
