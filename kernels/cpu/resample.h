// Separable resampling of one axis from tap tables: 1 tap (nearest, identity), 2 (bilinear) or 4
// (bicubic). Output i reads the neighbours first[i] .. first[i] + taps - 1, clamped to the axis;
// rows are padded with copies of their border so that the horizontal pass needs no clamping.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../common/bilinear.h"
#include "../common/params.h"
#include "../common/resample_tap.h"
#include "scratch.h"
#include "vec.h"

namespace c2f::cpu {

constexpr int64_t kRowPadLeft = 8;    // bicubic reads 2 before the row; 8 keeps rows aligned
constexpr int64_t kRowPadRight = 24;  // two loads of 8 may start 3 past the last source

inline int64_t round_up8(int64_t n) { return (n + 7) / 8 * 8; }
inline int64_t padded_row_size(int64_t n) { return kRowPadLeft + round_up8(n) + kRowPadRight; }

// How far apart the sources of 8 neighbouring outputs lie.
enum class Reach { kWithin8, kWithin16, kAny };

struct ResampleTaps {
  ResampleTaps(Resample mode, int64_t in_size, int64_t out_size)
      : in(in_size), out(out_size), padded_out(round_up8(out_size)), identity(in_size == out_size) {
    taps = resample_taps(mode, !identity);
    first.resize(static_cast<size_t>(padded_out));
    weight.resize(static_cast<size_t>(padded_out * taps));
    for (int64_t i = 0; i < padded_out; ++i) fill(mode, i);
    for (int64_t i = 0; i < padded_out; i += 8) {
      const int32_t span = first[static_cast<size_t>(i + 7)] - first[static_cast<size_t>(i)];
      reach = std::max(reach, span < 8    ? Reach::kWithin8
                              : span < 16 ? Reach::kWithin16
                                          : Reach::kAny);
    }
  }

  int64_t source(int64_t i, int t) const {
    return std::clamp<int64_t>(first[static_cast<size_t>(i)] + t, 0, in - 1);
  }
  float w(int64_t i, int t) const { return weight[static_cast<size_t>(t * padded_out + i)]; }

  int64_t in, out, padded_out;
  bool identity;
  int taps;
  Reach reach = Reach::kWithin8;
  Scratch<int32_t> first;  // [padded_out], ascending; entries past `out` repeat the last one
  Scratch<float> weight;   // [taps, padded_out]

 private:
  void fill(Resample mode, int64_t i) {
    const size_t at = static_cast<size_t>(i), step = static_cast<size_t>(padded_out);
    const ResampleTap tap =
        resample_tap(mode, !identity, std::min(i, out - 1), resize_scale(in, out), in);
    first[at] = tap.first;
    for (size_t t = 0; t < static_cast<size_t>(taps); ++t) weight[at + t * step] = tap.w[t];
  }
};

// Repeats the border of row[0 .. n) on both sides, as the horizontal pass expects it.
inline void pad_row(float* row, int64_t n) {
  row[-2] = row[-1] = row[0];
  row[n] = row[n + 1] = row[n + 2] = row[n - 1];
}

namespace detail {

template <int kTaps, Reach kReach>
inline void resample_row_fixed(const float* row, const ResampleTaps& taps, float gain, float bias,
                               float* out) {
  const Vec8f g = set8(gain), b = set8(bias);
  for (int64_t i = 0; i < taps.padded_out; i += 8) {
    const Vec8i index = load8(taps.first.data() + i);
    const int32_t base = taps.first[static_cast<size_t>(i)];
    const Vec8i lane = index - set8(base);
    Mask8 beyond{};
    if constexpr (kReach == Reach::kWithin16) beyond = to_float(lane) > set8(7.0f);
    Vec8f sum{};
    for (int t = 0; t < kTaps; ++t) {
      Vec8f value;
      if constexpr (kReach == Reach::kAny) {
        value = gather(row + t, index);
      } else {
        value = permute(load8(row + base + t), lane);
        if constexpr (kReach == Reach::kWithin16) {
          value = select(beyond, permute(load8(row + base + t + 8), lane), value);
        }
      }
      if constexpr (kTaps == 1) {
        sum = value;
      } else {
        const Vec8f w = load8(taps.weight.data() + t * taps.padded_out + i);
        sum = t == 0 ? value * w : fma(value, w, sum);
      }
    }
    store8(out + i, fma(sum, g, b));
  }
}

template <int kTaps>
inline void resample_row_fixed(const float* row, const ResampleTaps& taps, float gain, float bias,
                               float* out) {
  switch (taps.reach) {
    case Reach::kWithin8:
      return resample_row_fixed<kTaps, Reach::kWithin8>(row, taps, gain, bias, out);
    case Reach::kWithin16:
      return resample_row_fixed<kTaps, Reach::kWithin16>(row, taps, gain, bias, out);
    case Reach::kAny:
      return resample_row_fixed<kTaps, Reach::kAny>(row, taps, gain, bias, out);
  }
}

}  // namespace detail

// out[i] = (sum over taps of w * row) * gain + bias for i in [0, padded_out). `row` lies
// kRowPadLeft elements into a buffer of padded_row_size elements, padded by pad_row.
inline void resample_row(const float* row, const ResampleTaps& taps, float gain, float bias,
                         float* out) {
  if (taps.identity) {
    const Vec8f g = set8(gain), b = set8(bias);
    for (int64_t i = 0; i < taps.padded_out; i += 8) store8(out + i, fma(load8(row + i), g, b));
    return;
  }
  if (taps.taps == 1) return detail::resample_row_fixed<1>(row, taps, gain, bias, out);
  if (taps.taps == 2) return detail::resample_row_fixed<2>(row, taps, gain, bias, out);
  detail::resample_row_fixed<4>(row, taps, gain, bias, out);
}

// Vertical pass: out[i] = sum over taps of w[t] * rows[t][i], i in [0, n), as Out. Rows may be read
// up to the next multiple of 8.
template <class Out>
inline void combine_rows(const float* const rows[4], const float w[4], int taps, int64_t n,
                         Out* out) {
  const auto each = [n, out](const auto& value) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) store8(out + i, value(i));
    if (i < n) store8_partial(out + i, value(i), static_cast<int>(n - i));
  };
  const float* r0 = rows[0];
  if (taps == 1) return each([r0](int64_t i) { return load8(r0 + i); });
  const float* r1 = rows[1];
  const Vec8f w0 = set8(w[0]), w1 = set8(w[1]);
  if (taps == 2) {
    return each([=](int64_t i) { return fma(load8(r1 + i), w1, load8(r0 + i) * w0); });
  }
  const float *r2 = rows[2], *r3 = rows[3];
  const Vec8f w2 = set8(w[2]), w3 = set8(w[3]);
  each([=](int64_t i) {
    const Vec8f upper = fma(load8(r1 + i), w1, load8(r0 + i) * w0);
    return fma(load8(r3 + i), w3, fma(load8(r2 + i), w2, upper));
  });
}

}  // namespace c2f::cpu
