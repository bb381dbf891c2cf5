#include "views.h"

#include <algorithm>

namespace c2f {

Seg seg_of(const TensorView& v, const char* op, const char* name) {
  require(v.ndim == 3 || v.ndim == 4, op, name, " must have 3 or 4 dimensions, got ", v.ndim);
  const bool is_logits = v.ndim == 4;
  require(is_logits == is_float(v.dtype), op, name,
          " must be 4-D float logits or a 3-D integer label map");
  require(v.dtype != DType::kU16, op, name, " as a label map must be uint8/int16/int32/int64, got ",
          torch_name(v.dtype));
  Seg seg{};
  seg.data = v.data;
  seg.dtype = v.dtype;
  seg.is_logits = is_logits;
  const int y = v.ndim - 2;
  seg.B = v.shape[0];
  seg.N = is_logits ? v.shape[1] : 1;
  seg.h = v.shape[y];
  seg.w = v.shape[y + 1];
  seg.stride_b = v.strides[0];
  seg.stride_n = is_logits ? v.strides[1] : 0;
  seg.stride_y = v.strides[y];
  seg.stride_x = v.strides[y + 1];
  require(seg.N >= 1 && seg.N <= kMaxClasses, op, name, " must have 1..256 classes, got ", seg.N);
  return seg;
}

Image image_of(const TensorView& v, const char* op, const char* name) {
  require(v.ndim == 4, op, name, " must have 4 dimensions, got ", v.ndim);
  return Image{v.data,     v.dtype,      v.shape[0],   v.shape[1],   v.shape[2],
               v.shape[3], v.strides[0], v.strides[1], v.strides[2], v.strides[3]};
}

ClassTable class_table_of(std::string_view table, const char* op) {
  require(table.size() == kMaxClasses, op, "the class table must have 256 bytes");
  return ClassTable{reinterpret_cast<const uint8_t*>(table.data())};
}

WindowList windows_of(const TensorView& o, const TensorView& m, int64_t B, int64_t window_px,
                      int64_t H, int64_t W, const char* op) {
  require_contiguous(o, DType::kI32, 3, op, "windows.origins");
  require_contiguous(m, DType::kI32, 1, op, "windows.num");
  require(o.shape[0] == B && m.shape[0] == B && o.shape[2] == 2, op,
          "windows must be of shape [B, n, 2] with B = ", B);
  const WindowList list{static_cast<const int32_t*>(o.data), static_cast<const int32_t*>(m.data), B,
                        o.shape[1], window_px};
#if defined(C2F_GPU)
  (void)H, (void)W;
#else
  for (int64_t b = 0; b < B; ++b) {
    require(list.num[b] >= 0 && list.num[b] <= list.n, op, "windows.num must be in 0..", list.n,
            ", got ", list.num[b]);
    for (int64_t j = 0; j < list.num[b]; ++j) {
      const int64_t y = list.origins[(b * list.n + j) * 2];
      const int64_t x = list.origins[(b * list.n + j) * 2 + 1];
      require(y >= 0 && x >= 0 && y + window_px <= H && x + window_px <= W, op,
              "windows must lie inside the image, got origin (", y, ", ", x, ") with window ",
              window_px, " for ", Sides{H, W});
    }
  }
#endif
  return list;
}

}  // namespace c2f
