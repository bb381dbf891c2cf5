// Bilinear upsampling of coarse logits, eight neighbouring output pixels at a time, by per-axis tap
// tables that all workers share.
#pragma once

#include <cstdint>

#include "../common/bilinear.h"
#include "scratch.h"
#include "vec.h"

namespace c2f::cpu {

// Taps of every output position along one axis. Eight entries that repeat the last one follow it,
// so that eight taps can be read from any valid position on.
struct AxisTaps {
  AxisTaps(int64_t in_size, int64_t out_size) : in(in_size), out(out_size) {
    const size_t padded = static_cast<size_t>(out_size + 8);
    i0.resize(padded);
    i1.resize(padded);
    w1.resize(padded);
    const float scale = resize_scale(in_size, out_size);
    for (int64_t dst = 0; dst < out_size + 8; ++dst) {
      const int64_t clamped = dst < out_size ? dst : out_size - 1;
      BilinearTap tap =
          in_size == out_size ? unresized_tap(clamped) : bilinear_tap(clamped, scale, in_size);
      const size_t at = static_cast<size_t>(dst);
      // On a long axis that is barely enlarged float32 may round a position up to the next source
      // column, so that first taps skip one. The skipped column then stays the first tap, and the
      // second one gets all the weight: first taps never rise by more than 1 per position, on which
      // ColumnTaps8 and ByteExpander rely.
      if (dst > 0 && tap.i0 > i0[at - 1] + 1) tap = {tap.i0 - 1, tap.i0, 1.0f};
      i0[at] = tap.i0;
      i1[at] = tap.i1;
      w1[at] = tap.w1;
    }
    first.resize(static_cast<size_t>(in_size + 1));
    int64_t dst = 0;
    for (int64_t i = 0; i <= in_size; ++i) {
      while (dst < out_size && i0[static_cast<size_t>(dst)] < i) ++dst;
      first[static_cast<size_t>(i)] = static_cast<int32_t>(dst);
    }
  }

  int64_t in, out;
  Scratch<int32_t> i0, i1;
  Scratch<float> w1;       // weight of i1; that of i0 is 1 - w1
  Scratch<int32_t> first;  // [in + 1]: positions first[i] .. first[i + 1] - 1 have i0 = i
};

// h x w -> H x W with H >= h and W >= w. If both sizes are equal nothing is interpolated, and
// values stay as they are, NaN and infinities included.
struct UpsampleTaps {
  UpsampleTaps(int64_t h, int64_t w, int64_t H, int64_t W)
      : y(h, H), x(w, W), identity(h == H && w == W) {}
  AxisTaps y, x;
  bool identity;
};

// Horizontal taps of the 8 output pixels from x on, as two unaligned loads and two permutations of
// a logit row. As first taps rise by at most 1 per position (AxisTaps), 8 neighbours lie within 8
// source columns, for either tap.
struct ColumnTaps8 {
  int64_t base0, base1;
  Vec8i lane0, lane1;  // source columns relative to base0, base1
  Vec8f w0, w1;

  ColumnTaps8(const AxisTaps& taps, int64_t x) {
    const size_t at = static_cast<size_t>(x);
    const int64_t last_base = taps.in > 8 ? taps.in - 8 : 0;
    base0 = taps.i0[at] < last_base ? taps.i0[at] : last_base;
    base1 = taps.i1[at] < last_base ? taps.i1[at] : last_base;
    lane0 = load8(&taps.i0[at]) - set8(static_cast<int32_t>(base0));
    lane1 = load8(&taps.i1[at]) - set8(static_cast<int32_t>(base1));
    w1 = load8(&taps.w1[at]);
    w0 = set8(1.0f) - w1;
  }

  Vec8f left(const float* row) const { return permute(load8(row + base0), lane0); }
  Vec8f right(const float* row) const { return permute(load8(row + base1), lane1); }

  // Monotone in the source values, as both rounding steps are (coarse_labels.h relies on it).
  Vec8f operator()(const float* row) const { return fma(right(row), w1, left(row) * w0); }
};

}  // namespace c2f::cpu
