// Logits of a few output rows that share their source rows, so that horizontal interpolation is
// done once for all of them. Bit for bit the values that coarse_labels.h evaluates.
#pragma once

#include <algorithm>
#include <cstdint>

#include "logits.h"
#include "upsample.h"
#include "vec.h"

namespace c2f::cpu {

constexpr int kMaxGroupRows = 4;

// One per worker; `taps` is shared and must outlive it.
class RowGroupSampler {
 public:
  RowGroupSampler(const Seg& seg, const UpsampleTaps& taps) : rows_(seg), taps_(&taps) {}

  // One past the last row, at most `limit`, of the group that begins with row y.
  int64_t group_end(int64_t y, int64_t limit) const {
    const size_t source = static_cast<size_t>(taps_->y.i0[static_cast<size_t>(y)]);
    return std::min({limit, y + kMaxGroupRows, static_cast<int64_t>(taps_->y.first[source + 1])});
  }

  // Selects the group of image b that row y belongs to.
  void seek(int64_t b, int64_t y) {
    top_ = rows_.row(b, taps_->y.i0[static_cast<size_t>(y)]);
    bottom_ = rows_.row(b, taps_->y.i1[static_cast<size_t>(y)]);
  }

  // out[(r * N + c) * 8 + j] = value of class c at (ys[r], x + j), r in [0, rows): rows of the
  // group, 1 to 4 of them. Lanes past the last column repeat it. NaN stays NaN.
  void sample(const int64_t* ys, int rows, int64_t x, float* out) const {
    if (rows == 1) return sample_rows<1>(ys, x, out);
    if (rows == 2) return sample_rows<2>(ys, x, out);
    if (rows == 3) return sample_rows<3>(ys, x, out);
    sample_rows<4>(ys, x, out);
  }

 private:
  template <int R>
  void sample_rows(const int64_t* ys, int64_t x, float* out) const {
    const ColumnTaps8 columns(taps_->x, x);
    const int64_t N = rows_.seg().N;
    if (taps_->identity) {  // here a group is one row
      for (int64_t c = 0; c < N; ++c) store8(out + 8 * c, columns.left(top_.plane(c)));
      return;
    }
    Vec8f w0[R], w1[R];
    for (int r = 0; r < R; ++r) {
      const float weight = taps_->y.w1[static_cast<size_t>(ys[r])];
      w0[r] = set8(1.0f - weight);
      w1[r] = set8(weight);
    }
    for (int64_t c = 0; c < N; ++c) {
      const Vec8f above = columns(top_.plane(c));
      const Vec8f below = columns(bottom_.plane(c));
      for (int r = 0; r < R; ++r) {
        store8(out + (r * N + c) * 8, fma(below, w1[r], above * w0[r]));
      }
    }
  }

  LogitRows rows_;
  const UpsampleTaps* taps_;
  LogitRow top_{}, bottom_{};
};

}  // namespace c2f::cpu
