// From tensor views to the parameter structs' own views, shared by the ops' bindings.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <string_view>

#include "../kernels/common/params.h"
#include "tensor.h"

namespace c2f {

Seg seg_of(const TensorView& view, const char* op, const char* name);
Image image_of(const TensorView& view, const char* op, const char* name);
ClassTable class_table_of(std::string_view table, const char* op);
// Checks the shapes against B and, on the CPU, that every window in use lies inside H x W. On a GPU
// that would mean waiting for the device.
WindowList windows_of(const TensorView& origins, const TensorView& num, int64_t B,
                      int64_t window_px, int64_t H, int64_t W, const char* op);

}  // namespace c2f
