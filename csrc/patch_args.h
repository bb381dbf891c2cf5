// Arguments of extract_patches, its backward and extract_targets: read from Python and checked, the
// same for every native backend.
#pragma once

#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "../kernels/common/params.h"
#include "tensor.h"

namespace c2f {

using Channels = std::optional<std::vector<double>>;  // one value per channel, or None

// `params` points into `gain` and `bias`.
struct PatchesCall {
  ExtractPatchesParams params{};
  std::vector<float> gain, bias;
};

struct PatchesBackwardCall {
  ExtractPatchesBackwardParams params{};
  std::vector<float> gain;
};

PatchesCall patches_call(const TensorView& image, const TensorView& origins, const TensorView& num,
                         int64_t window, const TensorView& out, const std::string& mode,
                         double scale, const Channels& mean, const Channels& std);

PatchesBackwardCall patches_backward_call(const TensorView& grad, const TensorView& origins,
                                          const TensorView& num, int64_t window,
                                          const TensorView& image, const std::string& mode,
                                          double scale, const Channels& std);

// The result's `classes` points into `table`.
ExtractTargetsParams targets_params(const TensorView& labels, const TensorView& origins,
                                    const TensorView& num, int64_t window, std::string_view table,
                                    int64_t ignore_index, const TensorView& out);

}  // namespace c2f
