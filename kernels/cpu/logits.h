// Rows of coarse logits as planar fp32, whatever their element type and strides: read in place
// where they are planar fp32 already, else converted row by row into a small scratch. The tensor as
// a whole is never copied.
#pragma once

#include <cstdint>

#include "../common/params.h"
#include "pixel_rows.h"
#include "scratch.h"
#include "vec.h"

namespace c2f::cpu {

// One row of N class planes: plane(c)[x] for x in [0, max(w, 8)). If w < 8, elements from w on are
// finite but meaningless.
struct LogitRow {
  const float* data;
  int64_t class_stride;  // elements
  const float* plane(int64_t c) const { return data + c * class_stride; }
};

// One per worker: holds the scratch. row(b, i) stays valid until a row i + 2m of the image, or any
// row of another one, is asked for, so that both rows of a bilinear tap can be held.
class LogitRows {
 public:
  explicit LogitRows(const Seg& seg)
      : seg_(seg),
        in_place_(seg.dtype == DType::kF32 && seg.stride_x == 1 && seg.w >= 8),
        padded_w_((seg.w + 7) / 8 * 8) {
    if (!in_place_) scratch_.resize(static_cast<size_t>(2 * seg.N * padded_w_));
  }

  const Seg& seg() const { return seg_; }

  LogitRow row(int64_t b, int64_t i) {
    const int64_t offset = b * seg_.stride_b + i * seg_.stride_y;
    if (in_place_) return {static_cast<const float*>(seg_.data) + offset, seg_.stride_n};
    const int slot = static_cast<int>(i & 1);
    float* out = scratch_.data() + slot * seg_.N * padded_w_;
    if (held_b_[slot] != b || held_i_[slot] != i) {
      convert(offset, out);
      held_b_[slot] = b;
      held_i_[slot] = i;
    }
    return {out, padded_w_};
  }

 private:
  void convert(int64_t offset, float* out) const {
    switch (seg_.dtype) {
      case DType::kF32:
        return convert_as(static_cast<const float*>(seg_.data) + offset, out);
      case DType::kF16:
        return convert_as(static_cast<const F16*>(seg_.data) + offset, out);
      case DType::kBF16:
        return convert_as(static_cast<const BF16*>(seg_.data) + offset, out);
      default:
        return;  // label maps have no logit rows
    }
  }

  template <class T>
  void convert_as(const T* row, float* out) const {
    if (seg_.stride_x == 1) {
      for (int64_t c = 0; c < seg_.N; ++c) {
        convert_plane(row + c * seg_.stride_n, out + c * padded_w_);
      }
    } else if (seg_.stride_n == 1) {
      transpose_row(row, out);
    } else {
      for (int64_t c = 0; c < seg_.N; ++c) {
        load_strided(row + c * seg_.stride_n, seg_.stride_x, seg_.w, out + c * padded_w_);
      }
    }
  }

  template <class T>
  void convert_plane(const T* plane, float* out) const {
    int64_t x = 0;
    for (; x + 8 <= seg_.w; x += 8) store8(out + x, load8(plane + x));
    if (x < seg_.w) store8(out + x, load8_partial(plane + x, static_cast<int>(seg_.w - x)));
  }

  // channels_last: the classes of a pixel lie side by side. Blocks of 8 pixels x 8 classes; the
  // last block of classes overlaps its predecessor when N is no multiple of 8.
  template <class T>
  void transpose_row(const T* row, float* out) const {
    Vec8f block[8];
    const int64_t N = seg_.N;
    for (int64_t x = 0; x < seg_.w; x += 8) {
      for (int64_t first = 0; first < N; first += 8) {
        const int64_t c = first + 8 <= N || N < 8 ? first : N - 8;
        const int classes = static_cast<int>(N - c < 8 ? N - c : 8);
        for (int64_t j = 0; j < 8; ++j) {
          const int64_t from = x + j < seg_.w ? x + j : seg_.w - 1;
          const T* pixel = row + from * seg_.stride_x + c;
          block[j] = classes == 8 ? load8(pixel) : load8_partial(pixel, classes);
        }
        transpose8(block);
        for (int k = 0; k < classes; ++k) store8(out + (c + k) * padded_w_ + x, block[k]);
      }
    }
  }

  Seg seg_;
  bool in_place_;
  int64_t padded_w_;
  Scratch<float> scratch_;  // [2, N, padded_w]
  int64_t held_b_[2] = {-1, -1};
  int64_t held_i_[2] = {-1, -1};
};

}  // namespace c2f::cpu
