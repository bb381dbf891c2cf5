// Arguments that count_windows and select_windows share, and the checks that guard memory.
#pragma once

#include <cstdint>

#include "../kernels/common/params.h"
#include "../kernels/common/source_position.h"
#include "tensor.h"

namespace c2f {

// Source rows and columns are held as int32, and so are window counts.
inline void require_grid(const Seg& seg, int64_t H, int64_t W, int64_t window, int64_t stride,
                         const char* op) {
  const Sides size{H, W}, own{seg.h, seg.w};
  require(seg.h >= 1 && seg.w >= 1, op, "seg must have at least one pixel, got ", own);
  require(H < (int64_t{1} << 31) && W < (int64_t{1} << 31), op,
          "size must be below 2^31 per axis, got ", size);
  if (seg.is_logits) {
    require(H >= seg.h && W >= seg.w, op, "size must not be smaller than the logits' own ", own,
            ", got ", size);
    const int64_t longest = kMaxResizedAxis;
    require((H == seg.h || H <= longest) && (W == seg.w || W <= longest), op,
            "size must be at most ", longest, " per interpolated axis, got ", size);
  } else {
    require(H == seg.h && W == seg.w, op, "size must be that of the label map, ", own, ", got ",
            size);
  }
  require(window >= 1 && window <= H && window <= W, op, "window must be in 1..min(H, W), got ",
          window, " for ", size);
  require(window <= 46340, op, "window must be at most 46340 for its count to fit int32, got ",
          window);
  require(stride >= 1, op, "stride must be at least 1, got ", stride);
}

// The optional label output, nullptr for None.
inline uint8_t* labels_out(pybind11::handle labels, int64_t B, int64_t H, int64_t W,
                           const char* op) {
  if (labels.is_none()) return nullptr;
  const TensorView view = view_contiguous(labels, DType::kU8, 3, op, "labels");
  require_shape(view, {B, H, W}, op, "labels");
  return static_cast<uint8_t*>(view.data);
}

}  // namespace c2f
