// Functions for Python whose call costs a tenth of a microsecond: METH_FASTCALL, positional
// arguments. pybind11's own dispatch takes three times as long, for overloads, keywords and
// conversions that are not needed here.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <exception>
#include <new>
#include <string>
#include <utility>

namespace c2f {

inline void throw_if_failed() {
  if (PyErr_Occurred() != nullptr) throw pybind11::error_already_set();
}

// Converts an argument to the type of the function's parameter.
template <class T>
struct Argument {
  static T of(PyObject* value) { return pybind11::handle(value).cast<T>(); }
};
template <>
struct Argument<pybind11::handle> {
  static pybind11::handle of(PyObject* value) { return value; }
};
template <>
struct Argument<int64_t> {
  static int64_t of(PyObject* value) {
    const int64_t number = PyLong_AsLongLong(value);
    if (number == -1) throw_if_failed();
    return number;
  }
};
template <>
struct Argument<bool> {
  static bool of(PyObject* value) { return value == Py_True; }
};
template <>
struct Argument<std::string> {
  static std::string of(PyObject* value) {
    Py_ssize_t length = 0;
    const char* text = PyUnicode_AsUTF8AndSize(value, &length);
    if (text == nullptr) throw pybind11::error_already_set();
    return {text, static_cast<size_t>(length)};
  }
};

template <auto kFunction>
struct FastCall;
template <class... Args, pybind11::object (*kFunction)(Args...)>
struct FastCall<kFunction> {
  // Arguments left out at the end are None.
  static PyObject* call(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count > static_cast<Py_ssize_t>(sizeof...(Args))) {
      PyErr_Format(PyExc_TypeError, "takes %zd arguments, got %zd",
                   static_cast<Py_ssize_t>(sizeof...(Args)), count);
      return nullptr;
    }
    try {
      return run(args, static_cast<size_t>(count), std::index_sequence_for<Args...>());
    } catch (pybind11::error_already_set& error) {
      error.restore();
    } catch (const pybind11::builtin_exception& error) {
      error.set_error();
    } catch (const std::bad_alloc&) {
      PyErr_NoMemory();
    } catch (const std::exception& error) {
      PyErr_SetString(PyExc_RuntimeError, error.what());
    }
    return nullptr;
  }

 private:
  template <size_t... kIndex>
  static PyObject* run(PyObject* const* args, size_t count, std::index_sequence<kIndex...>) {
    return kFunction(Argument<std::decay_t<Args>>::of(kIndex < count ? args[kIndex] : Py_None)...)
        .release()
        .ptr();
  }
};

// Adds a METH_FASTCALL function to a module: the static `call` of the type `Call`.
template <class Call>
void def_fast(pybind11::module_& m, const char* name) {
  static PyMethodDef methods[] = {
      {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&Call::call)),
       METH_FASTCALL, nullptr},
      {nullptr, nullptr, 0, nullptr}};
  if (PyModule_AddFunctions(m.ptr(), methods) != 0) throw pybind11::error_already_set();
}

}  // namespace c2f
