// Arguments of extract_patches, its backward and extract_targets: read from Python and checked, the
// same for every native backend.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "../kernels/common/params.h"

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

PatchesCall patches_call(pybind11::handle image, pybind11::handle origins, pybind11::handle num,
                         int64_t window, pybind11::handle out, const std::string& mode,
                         double scale, const Channels& mean, const Channels& std);

PatchesBackwardCall patches_backward_call(pybind11::handle grad, pybind11::handle origins,
                                          pybind11::handle num, int64_t window,
                                          pybind11::handle out, const std::string& mode,
                                          double scale, const Channels& std);

// `params.classes` points into `table`.
ExtractTargetsParams targets_params(pybind11::handle labels, pybind11::handle origins,
                                    pybind11::handle num, int64_t window, std::string_view table,
                                    int64_t ignore_index, pybind11::handle out);

}  // namespace c2f
