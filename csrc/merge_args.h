// Arguments of aggregate: read from Python and checked, the same for every native backend.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "../kernels/common/params.h"
#include "tensor.h"

namespace c2f {

// The result's `classes` points into `table`.
AggregateParams aggregate_params(const TensorView& coarse, const TensorView& fine,
                                 const TensorView& origins, const TensorView& num, int64_t window,
                                 std::string_view table, int64_t H, int64_t W,
                                 const std::string& rule, const TensorView& out, bool labels_given);

}  // namespace c2f
