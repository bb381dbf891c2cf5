// One binding function per op, each in the file named after the op, and that of call_key.
#pragma once

#include <pybind11/pybind11.h>

namespace c2f {

void bind_count_windows(pybind11::module_& m);
void bind_select_windows(pybind11::module_& m);
void bind_extract_patches(pybind11::module_& m);
void bind_aggregate(pybind11::module_& m);
void bind_call_key(pybind11::module_& m);

}  // namespace c2f
