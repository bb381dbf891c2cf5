// Gradient of extract_patches with respect to the image: the transposed resampling of each patch,
// added into its window. Every image row is owned by one task, which takes slots in order, so sums
// do not depend on the number of threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "parallel.h"
#include "pixel_rows.h"
#include "resample.h"
#include "scratch.h"

namespace c2f::cpu {

namespace detail {

// For each source position the outputs it feeds, ascending, in columns of equal length. Unused
// entries have weight 0 and point at position `out`, where the caller keeps a zero, since 0 times a
// NaN of another output would be NaN.
struct TransposedTaps {
  explicit TransposedTaps(const ResampleTaps& taps)
      : padded_in(round_up8(taps.in)), count(static_cast<size_t>(padded_in), 0) {
    for (int64_t i = 0; i < taps.out; ++i) {
      for (int t = 0; t < taps.taps; ++t) ++count[static_cast<size_t>(taps.source(i, t))];
    }
    depth = *std::max_element(count.begin(), count.end());
    const size_t entries = static_cast<size_t>(depth * padded_in);
    output.assign(entries, static_cast<int32_t>(taps.out));
    weight.assign(entries, 0.0f);
    std::fill(count.begin(), count.end(), 0);
    for (int64_t i = 0; i < taps.out; ++i) {
      for (int t = 0; t < taps.taps; ++t) {
        const int64_t s = taps.source(i, t);
        const size_t at = static_cast<size_t>(count[static_cast<size_t>(s)]++ * padded_in + s);
        output[at] = static_cast<int32_t>(i);
        weight[at] = taps.w(i, t);
      }
    }
  }

  int64_t padded_in;
  int64_t depth = 0;        // largest count
  Scratch<int64_t> count;   // [padded_in]
  Scratch<int32_t> output;  // [depth, padded_in]
  Scratch<float> weight;    // [depth, padded_in]
};

// sum[i] += w * row[i * stride], i in [0, n).
template <class T>
inline void add_weighted(const T* row, int64_t stride, float w, int64_t n, float* sum) {
  int64_t i = 0;
  if (stride == 1) {
    for (; i + 8 <= n; i += 8) store8(sum + i, fma(load8(row + i), set8(w), load8(sum + i)));
  }
  for (; i < n; ++i) sum[i] += w * scalar_to_float(row[i * stride]);
}

// Row y of a window: sums the patch rows that it feeds into `sum` [p + 1], then gathers from these
// for each of the k columns of `out`.
inline void add_patch_row(const ExtractPatchesBackwardParams& p, const TransposedTaps& taps,
                          int64_t patch, int64_t c, int64_t y, float* sum, float* out) {
  const Image& grad = p.grad_patches;
  std::fill(sum, sum + grad.W + 1, 0.0f);
  visit_float_type(grad.dtype, [&](auto* type) {
    const auto* plane = static_cast<decltype(type)>(const_cast<void*>(grad.data)) +
                        patch * grad.stride_b + c * grad.stride_c;
    for (int64_t m = 0; m < taps.count[static_cast<size_t>(y)]; ++m) {
      const size_t at = static_cast<size_t>(m * taps.padded_in + y);
      add_weighted(plane + taps.output[at] * grad.stride_y, grad.stride_x, taps.weight[at], grad.W,
                   sum);
    }
  });
  const Vec8f gain = set8(p.gain[c]);
  const int64_t k = p.windows.window_px;
  for (int64_t x = 0; x < k; x += 8) {
    Vec8f found = set8(0.0f);
    for (int64_t m = 0; m < taps.depth; ++m) {
      const int64_t at = m * taps.padded_in + x;
      found =
          fma(gather(sum, load8(taps.output.data() + at)), load8(taps.weight.data() + at), found);
    }
    const int lanes = static_cast<int>(std::min<int64_t>(8, k - x));
    const Vec8f sum_so_far = lanes == 8 ? load8(out + x) : load8_partial(out + x, lanes);
    store8_first(out + x, fma(found, gain, sum_so_far), lanes);
  }
}

}  // namespace detail

inline void extract_patches_backward(const ExtractPatchesBackwardParams& params, int threads) {
  const int64_t planes = params.B * params.C;
  if (planes == 0 || params.H == 0) return;
  const WindowList& windows = params.windows;
  const int64_t k = windows.window_px, n = windows.n;
  const ScratchRoom room(threads);
  const ResampleTaps forward(params.mode, k, std::max<int64_t>(params.grad_patches.W, 1));
  const detail::TransposedTaps taps(forward);
  const int64_t wanted = (int64_t{8} * threads + planes - 1) / planes;
  const int64_t strips =
      threads == 1 ? 1 : std::clamp<int64_t>(wanted, 1, std::max<int64_t>(params.H / 16, 1));
  Scratch<Scratch<float>> sums(static_cast<size_t>(worker_count(planes * strips, threads)));
  for (auto& sum : sums) sum.resize(static_cast<size_t>(params.grad_patches.W + 1));
  parallel_for(planes * strips, threads, [&](int64_t task, int worker) {
    const int64_t plane = task / strips, strip = task % strips;
    const int64_t b = plane / params.C, c = plane % params.C;
    const int64_t begin = params.H * strip / strips, end = params.H * (strip + 1) / strips;
    float* image = params.grad_image + plane * params.H * params.W;
    std::fill(image + begin * params.W, image + end * params.W, 0.0f);
    for (int64_t j = 0; j < windows.num[b]; ++j) {
      const int64_t patch = b * n + j;
      const int64_t y0 = windows.origins[2 * patch], x0 = windows.origins[2 * patch + 1];
      for (int64_t y = std::max(begin, y0); y < std::min(end, y0 + k); ++y) {
        detail::add_patch_row(params, taps, patch, c, y - y0,
                              sums[static_cast<size_t>(worker)].data(), image + y * params.W + x0);
      }
    }
  });
}

}  // namespace c2f::cpu
