// One binding function per op, each in the file named after the op.
#pragma once

#include <pybind11/pybind11.h>

namespace c2f::cuda {

void bind_count_windows(pybind11::module_& m);
void bind_select_windows(pybind11::module_& m);
void bind_extract_patches(pybind11::module_& m);
void bind_aggregate(pybind11::module_& m);

}  // namespace c2f::cuda
