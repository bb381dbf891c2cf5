// call_key(tensors, *args): everything about a call but the content of its tensors, as bytes.
// Python keeps the outcome of argument checks under this key. call_finder(tensors, known) makes the
// function (*args) that looks a call up in such a dict, unless something must see the call (see
// Watchers).
//
// Equal keys mean equal arguments of equal types: True and 1.0 are not 1. Of a tensor the key holds
// dtype, device and shape, which is enough for the first `tensors` arguments and for the parts of
// Windows. The answer is None for whatever that may not cover: tensors elsewhere (class ids,
// numbers: the checks read their content), other types, subclasses of Tensor (fake tensors among
// them), tensors without memory of their own (functorch's, sparse, nested, meta), and lazily
// negated views.
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

// Types that Python's C interface does not define, given by call_key_types and kept for good.
struct Types {
  PyTypeObject *tensor, *parameter, *size, *dtype, *windows;
  PyObject *is_neg, *zero;  // Tensor.is_neg, and the int 0
  PyObject* dtype_name;     // interned
  const DLPackExchangeApi* api;
};
Types types{};

// What tells that something must see every call (c2fcore/_watchers.py), given by call_watchers and
// kept for good. Any unexpected answer counts as watching: Python then looks for itself.
struct Watchers {
  PyObject *modes, *transforms, *tracing;  // functions: a number, an object or None, a bool
  PyObject *compiler, *forward_ad;         // dicts of two modules
  PyObject *is_compiling, *level;          // names in these, interned
};
Watchers watchers{};

// Whether function() is the object `nothing`.
bool answers(PyObject* function, PyObject* nothing) {
  PyObject* answer = PyObject_CallNoArgs(function);
  PyErr_Clear();
  Py_XDECREF(answer);
  return answer == nothing;
}

// No torch.compile, torch.export, forward-mode AD, dispatch mode, functorch transform or
// torch.jit.trace is active.
bool unwatched() {
  if (watchers.modes == nullptr) return false;
  PyObject* level = PyDict_GetItemWithError(watchers.forward_ad, watchers.level);
  return PyDict_GetItemWithError(watchers.compiler, watchers.is_compiling) == Py_False &&
         level != nullptr && PyLong_Check(level) && PyLong_AsLong(level) < 0 &&
         answers(watchers.modes, types.zero) && answers(watchers.transforms, Py_None) &&
         answers(watchers.tracing, Py_False);
}

class Key {
 public:
  // Appends an argument; false if it has no key.
  bool add_argument(PyObject* value, bool may_be_tensor) {
    if (may_be_tensor && is_tensor(value)) return add_tensor(value);
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
    // Kinds of sequences share a key: no check tells a tuple from a list or a torch.Size.
    if (type == &PyTuple_Type || type == types.size) return add_tuple(value);
    if (type == types.windows) return add_windows(value);
    if (type == &PyList_Type) return add_list(value);
    if (type == types.dtype) return put('d') && put(value);  // its address: dtypes live forever
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
    // Zero tensors of automatic differentiation have no memory. Only floats are negated lazily.
    const bool whole = view.dtype.code == kDLInt || view.dtype.code == kDLUInt;
    // DLPack reports torch's integers of 1 to 7 bits, each a byte, as integers of 8 bits.
    if (ok && whole && view.dtype.bits == 8) ok = add_dtype_of(tensor);
    return ok && (view.data != nullptr || elements == 0) && (whole || !negated(tensor));
  }

  bool add_dtype_of(PyObject* tensor) {
    PyObject* dtype = PyObject_GetAttr(tensor, types.dtype_name);
    PyErr_Clear();
    const bool ok = dtype != nullptr && Py_TYPE(dtype) == types.dtype && add(dtype);
    Py_XDECREF(dtype);
    return ok;
  }

  static bool is_tensor(PyObject* value) {
    return Py_TYPE(value) == types.tensor || Py_TYPE(value) == types.parameter;
  }

  static bool negated(PyObject* tensor) {
    PyObject* answer = PyObject_CallOneArg(types.is_neg, tensor);
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

  // If origins, counts or num is not a tensor, Python converts or refuses it. No op reads counts,
  // so they are not part of the key.
  bool add_windows(PyObject* windows) {
    PyObject *origins = PyTuple_GET_ITEM(windows, 0), *counts = PyTuple_GET_ITEM(windows, 1),
             *num = PyTuple_GET_ITEM(windows, 2), *window = PyTuple_GET_ITEM(windows, 3);
    return put('w') && is_tensor(origins) && is_tensor(counts) && is_tensor(num) &&
           add_tensor(origins) && add_tensor(num) && add(window);
  }

  // By a copy, since another thread may change the list. One that holds itself ends when bytes_ is
  // full.
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
                  "padding bytes would make equal keys differ");
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

// A function bound to the pair (tensors, known).
struct FindCall {
  static PyObject* call(PyObject* bound, PyObject* const* args, Py_ssize_t count) {
    bool ok = types.api != nullptr && unwatched();
    const Py_ssize_t tensors = PyLong_AsSsize_t(PyTuple_GET_ITEM(bound, 0));
    Key key;
    for (Py_ssize_t i = 0; i < count && ok; ++i) ok = key.add_argument(args[i], i < tensors);
    PyErr_Clear();
    PyObject* bytes = ok ? key.bytes() : nullptr;
    if (ok && bytes == nullptr) return nullptr;
    PyObject* found = ok ? PyDict_GetItemWithError(PyTuple_GET_ITEM(bound, 1), bytes) : nullptr;
    if (found == nullptr) found = Py_None;
    Py_INCREF(found);
    Py_XDECREF(bytes);
    return found;
  }
};

py::object call_finder(Py_ssize_t tensors, const py::dict& known) {
  static PyMethodDef method = {
      "find_call", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&FindCall::call)),
      METH_FASTCALL, nullptr};
  const py::tuple bound = py::make_tuple(tensors, known);
  PyObject* function = PyCFunction_New(&method, bound.ptr());
  if (function == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(function);
}

// A reference that is never given back.
PyObject* keep(const py::object& object) { return py::object(object).release().ptr(); }

PyTypeObject* keep_type(const py::type& type) {
  return reinterpret_cast<PyTypeObject*>(keep(type));
}

void call_key_types(const py::type& tensor, const py::type& parameter, const py::type& size,
                    const py::type& dtype, const py::type& windows) {
  types = {keep_type(tensor),
           keep_type(parameter),
           keep_type(size),
           keep_type(dtype),
           keep_type(windows),
           keep(tensor.attr("is_neg")),
           PyLong_FromLong(0),
           PyUnicode_InternFromString("dtype"),
           exchange_api(reinterpret_cast<PyTypeObject*>(tensor.ptr()))};
}

void call_watchers(const py::object& modes, const py::object& transforms, const py::object& tracing,
                   const py::dict& compiler, const py::dict& forward_ad) {
  watchers = {keep(modes),
              keep(transforms),
              keep(tracing),
              keep(compiler),
              keep(forward_ad),
              PyUnicode_InternFromString("_is_compiling_flag"),
              PyUnicode_InternFromString("_current_level")};
}

}  // namespace

void bind_call_key(py::module_& m) {
  m.def("call_key_types", &call_key_types);
  m.def("call_watchers", &call_watchers);
  m.def("call_finder", &call_finder);
  def_fast<CallKey>(m, "call_key");
}

}  // namespace c2f
