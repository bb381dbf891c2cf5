// Arguments that count_windows and select_windows share, and the checks that guard memory.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "../kernels/common/params.h"
#include "../kernels/common/source_position.h"
#include "../kernels/common/windows.h"
#include "tensor.h"
#include "views.h"

namespace c2f {

// Source rows and columns are held as int32, and on interpolated axes their positions as float32,
// which must not skip any.
inline void require_axes(const Seg& seg, int64_t H, int64_t W, const char* op) {
  const Sides size{H, W};
  require(H < (int64_t{1} << 31) && W < (int64_t{1} << 31), op,
          "size must be below 2^31 per axis, got ", size);
  const int64_t longest = kMaxResizedAxis;
  require((H == seg.h || H <= longest) && (W == seg.w || W <= longest), op, "size must be at most ",
          longest, " per interpolated axis, got ", size, "; backend 'reference' takes more");
}

// Window counts are held as int32.
inline void require_grid(const Seg& seg, int64_t H, int64_t W, int64_t window, int64_t stride,
                         const char* op) {
  const Sides size{H, W}, own{seg.h, seg.w};
  require(seg.h >= 1 && seg.w >= 1, op, "seg must have at least one pixel, got ", own);
  require_axes(seg, H, W, op);
  if (seg.is_logits) {
    require(H >= seg.h && W >= seg.w, op, "size must not be smaller than the logits' own ", own,
            ", got ", size);
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

using OptionalView = std::optional<TensorView>;

// An empty optional for None.
inline OptionalView view_optional(pybind11::handle tensor, const char* op, const char* name) {
  return tensor.is_none() ? OptionalView() : view_tensor(tensor, op, name);
}

// The optional label output.
inline uint8_t* labels_out(const OptionalView& labels, int64_t B, int64_t H, int64_t W,
                           const char* op) {
  if (!labels) return nullptr;
  require_contiguous(*labels, DType::kU8, 3, op, "labels");
  require_shape(*labels, {B, H, W}, op, "labels");
  return static_cast<uint8_t*>(labels->data);
}

// The arguments of count_windows that all native backends share, checked.
inline CountWindowsParams count_windows_params(const TensorView& seg, std::string_view table,
                                               int64_t H, int64_t W, int64_t window, int64_t stride,
                                               bool flush, const TensorView& counts,
                                               const OptionalView& labels) {
  const char* op = "count_windows";
  CountWindowsParams params{};
  params.seg = seg_of(seg, op, "seg");
  params.classes = class_table_of(table, op);
  require_grid(params.seg, H, W, window, stride, op);
  require_contiguous(counts, DType::kI32, 3, op, "counts");
  const int64_t R = WindowAxis{H, window, stride, flush}.count();
  const int64_t S = WindowAxis{W, window, stride, flush}.count();
  require_shape(counts, {params.seg.B, R, S}, op, "counts");
  params.H = H;
  params.W = W;
  params.window_px = window;
  params.stride_px = stride;
  params.flush = flush;
  params.counts = static_cast<int32_t*>(counts.data);
  params.labels = labels_out(labels, params.seg.B, H, W, op);
  return params;
}

inline Strategy strategy_of(const std::string& name, const char* op) {
  if (name == "top") return Strategy::kTop;
  if (name == "cover") return Strategy::kCover;
  require(name == "all", op, "strategy must be \"top\", \"cover\" or \"all\", got \"", name, "\"");
  return Strategy::kAll;
}

// The same for select_windows.
inline SelectWindowsParams select_windows_params(const TensorView& seg, std::string_view table,
                                                 int64_t H, int64_t W, int64_t window,
                                                 int64_t stride, bool flush, int64_t n,
                                                 const std::string& strategy, int64_t min_pixels,
                                                 const TensorView& origins,
                                                 const TensorView& counts, const TensorView& num,
                                                 const OptionalView& labels) {
  const char* op = "select_windows";
  SelectWindowsParams params{};
  params.seg = seg_of(seg, op, "seg");
  params.classes = class_table_of(table, op);
  require_grid(params.seg, H, W, window, stride, op);
  require(n >= 1, op, "n must be at least 1, got ", n);
  require(min_pixels >= 1, op, "min_pixels must be at least 1, got ", min_pixels);
  const int64_t B = params.seg.B;
  require_contiguous(origins, DType::kI32, 3, op, "origins");
  require_contiguous(counts, DType::kI32, 2, op, "counts");
  require_contiguous(num, DType::kI32, 1, op, "num");
  require_shape(origins, {B, n, 2}, op, "origins");
  require_shape(counts, {B, n}, op, "counts");
  require_shape(num, {B}, op, "num");
  params.H = H;
  params.W = W;
  params.window_px = window;
  params.stride_px = stride;
  params.flush = flush;
  params.strategy = strategy_of(strategy, op);
  params.n = n;
  params.min_pixels = min_pixels;
  params.origins = static_cast<int32_t*>(origins.data);
  params.counts = static_cast<int32_t*>(counts.data);
  params.num = static_cast<int32_t*>(num.data);
  params.labels = labels_out(labels, B, H, W, op);
  return params;
}

}  // namespace c2f
