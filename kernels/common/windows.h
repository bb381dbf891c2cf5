// Where windows lie along one axis. Windows start at i * stride while they fit; with `flush` a last
// one ends at the border when the regular ones do not reach it.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace c2f {

struct WindowAxis {
  int64_t size_px;
  int64_t window_px;
  int64_t stride_px;
  bool flush;

  C2F_HD int64_t regular() const { return (size_px - window_px) / stride_px + 1; }
  C2F_HD int64_t count() const {
    return regular() + (flush && (size_px - window_px) % stride_px != 0 ? 1 : 0);
  }
  C2F_HD int64_t origin(int64_t i) const {
    return i < regular() ? i * stride_px : size_px - window_px;
  }
};

}  // namespace c2f
