// Arguments of aggregate: read from Python and checked, the same for every native backend.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "../kernels/common/params.h"

namespace c2f {

// `classes` points into `table`.
AggregateParams aggregate_params(pybind11::handle coarse, pybind11::handle fine,
                                 pybind11::handle origins, pybind11::handle num, int64_t window,
                                 std::string_view table, int64_t H, int64_t W,
                                 const std::string& rule, pybind11::handle out, bool labels_given);

}  // namespace c2f
