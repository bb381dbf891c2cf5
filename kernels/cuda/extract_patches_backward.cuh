// Gradient of extract_patches with respect to the image: a gather without atomics, windows in slot
// order and outputs in raster order, so that every sum is the same every time.
//
// A block makes a tile of a plane, a warp a band of its rows, a thread a column of the band. For
// each window over the tile the block finds once which outputs read each column, and which sources
// each output row reads, with their weights. A thread then goes down the output rows: it sums the
// outputs of a row that read its column, and adds that, weighted, to the sums of the sources that
// the row reads (as many as there are taps). It holds these sums until no further row reads them.
#pragma once

#include <cstdint>

#include "element.cuh"
#include "extract_patches_args.h"
#include "gpu.cuh"
#include "patch_tap.cuh"
#include "window_list.cuh"

namespace c2f::cuda {

// A range of outputs along one axis. outputs_reading: those that read source position s, and a few
// more on either side.
struct OutputRange {
  int32_t begin, end;
};

template <int kTaps>
__device__ __forceinline__ OutputRange outputs_reading(bool resized, int32_t s, float per_source,
                                                       int32_t out_size) {
  if (kTaps == 1 && !resized) return {s, s + 1};
  // Sources within taps / 2 of a position are read (nearest: the one below); the range is wider to
  // allow for rounding, of positions below 2^20 (kPatchMaxSide).
  const float reach = kTaps == 4 ? 2.0f : 1.0f;
  const float centre = static_cast<float>(s) + 0.5f;
  const int32_t begin = static_cast<int32_t>((centre - reach) * per_source - 0.5f) - 2;
  const int32_t end = static_cast<int32_t>((centre + reach) * per_source - 0.5f) + 3;
  return {begin < 0 ? 0 : begin, end < out_size ? end : out_size};
}

// Whether an output reads source s, and with which weight; weights of taps clamped to s add up.
struct SourceWeight {
  bool reads;
  float w;
};

template <int kTaps>
__device__ __forceinline__ SourceWeight weight_of(const ResampleTap& tap, int32_t s,
                                                  int32_t in_size) {
  SourceWeight found{false, 0.0f};
#pragma unroll
  for (int t = 0; t < kTaps; ++t) {
    if (clamp_to_axis(tap.first + t, in_size) == s) {
      found.reads = true;
      found.w += tap.w[t];
    }
  }
  return found;
}

// Outputs [begin, begin + count) of a row read a column: a range without gaps, as taps ascend.
// Weights of the first kBackwardReads of them.
struct BackwardColumns {
  float w[kBackwardReads][kBackwardColumns];
  int32_t begin[kBackwardColumns], count[kBackwardColumns];
};

// An output row. It reads source rows first .. first + kTaps - 1, those that the window has, with
// the weights w, in which weights of clamped taps are added up.
template <int kTaps>
struct alignas(8 * kTaps) BackwardRow {
  float w[kTaps];
  int32_t first;
};
constexpr int32_t kNoSource = 0x7fffffff;

// Consecutive output rows; the entry behind the last one has first = kNoSource.
template <int kTaps>
struct BackwardRows {
  BackwardRow<kTaps> row[kBackwardRows + 1];
};

struct BackwardSums {
  float row[kBandRows * kBackwardBands][kBackwardColumns];  // each used by one thread only
};

// What taps depend on.
struct BackwardAxis {
  int32_t window_px, side;
  float scale, per_source;

  __device__ __forceinline__ bool resized() const { return window_px != side; }
  template <int kTaps>
  __device__ __forceinline__ OutputRange reading(int32_t s) const {
    return outputs_reading<kTaps>(resized(), s, per_source, side);
  }
  template <int kTaps>
  __device__ __forceinline__ ResampleTap tap(int32_t dst) const {
    return patch_tap<kTaps>(resized(), dst, scale, window_px);
  }
};

// Sum over the outputs of a row that read a column, if they are at least kSure, at most kReads, and
// kStride elements apart.
template <class Grad, int kStride, int kSure, int kReads>
struct FewReads {
  float w[kReads];
  int32_t count;

  __device__ __forceinline__ FewReads(const BackwardColumns& columns, int lane)
      : count(columns.count[lane]) {
#pragma unroll
    for (int j = 0; j < kReads; ++j) w[j] = columns.w[j][lane];
  }
  __device__ __forceinline__ float operator()(const Grad* at) const {
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < kReads; ++j) {
      if (j < kSure || j < count) sum = fmaf(to_float(at[j * kStride]), w[j], sum);
    }
    return sum;
  }
};

// The same for any number and stride.
template <class Grad, int kTaps>
struct AnyReads {
  const BackwardColumns& columns;
  BackwardAxis axis;
  int64_t stride;
  int32_t lane, column, count;

  __device__ __forceinline__ float operator()(const Grad* at) const {
    float sum = 0.0f;
    const int32_t held = count < kBackwardReads ? count : kBackwardReads;
    const float* w = &columns.w[0][lane];
#pragma unroll 2
    for (int32_t j = 0; j < held; ++j, at += stride, w += kBackwardColumns) {
      sum = fmaf(to_float(*at), *w, sum);
    }
#pragma unroll 1
    for (int32_t j = kBackwardReads; j < count; ++j, at += stride) {
      const ResampleTap tap = axis.tap<kTaps>(columns.begin[lane] + j);
      sum = fmaf(to_float(*at), weight_of<kTaps>(tap, column, axis.window_px).w, sum);
    }
    return sum;
  }
};

// A thread's way down a window. `sum` holds source rows s .. s + kTaps - 1; of the band's source
// rows, [begin, end), those before s are complete. Output row v is the next one.
template <int kTaps>
struct BandWalk {
  int32_t begin, end, s, v;
  float sum[kTaps];

  // Goes through the output rows in `rows`, of which v0 is the first; `more` follow or not. `to` is
  // the thread's sum of source row `begin`; nothing is stored unless its column is `inside` the
  // window.
  template <class Grad, class Reads>
  __device__ __forceinline__ void walk(const BackwardRows<kTaps>& rows, const Reads& reads,
                                       const Grad* column, int64_t stride_y, int32_t v0, bool more,
                                       float gain, float* to, bool inside) {
    const int32_t from = v > v0 ? v : v0, stored = inside ? begin : end;
    const BackwardRow<kTaps>* row = rows.row + (from - v0);
    const BackwardRow<kTaps>* stop = more ? rows.row + kBackwardRows : nullptr;
    const Grad* at = column + from * stride_y;
    for (; row->first < s; ++row) at += stride_y;
    int32_t source = s;
    to += (source - begin) * kBackwardColumns;
    do {
#pragma unroll 1
      for (; row->first <= source; ++row) {
        const float of_row = reads(at);
        at += stride_y;
#pragma unroll
        for (int t = 0; t < kTaps; ++t) sum[t] = fmaf(of_row, row->w[t], sum[t]);
      }
      if (row == stop) break;
      if (source >= stored) *to = fmaf(sum[0], gain, *to);
#pragma unroll
      for (int t = 1; t < kTaps; ++t) sum[t - 1] = sum[t];
      sum[kTaps - 1] = 0.0f;
      to += kBackwardColumns;
    } while (++source < end);
    s = source;
  }
};

// Rows of a tile, counted from its first one.
struct TileRows {
  int32_t begin, size;
};

// Which rows of a window these are; it starts `top` rows below the tile's first one (negative:
// above).
__device__ __forceinline__ OutputRange rows_of_window(int32_t window_px, int32_t top,
                                                      const TileRows& rows) {
  int32_t begin = rows.begin - top, end = begin + rows.size;
  begin = begin < window_px ? begin : window_px;
  end = end < window_px ? end : window_px;
  return {begin > 0 ? begin : 0, end > 0 ? end : 0};
}

// Finds the outputs that read each lane's column, and their weights. Called by one warp.
template <int kTaps>
__device__ __forceinline__ void find_columns(const BackwardAxis& axis, int32_t column,
                                             BackwardColumns& out) {
  const int lane = lane_of_thread();
  const OutputRange range = axis.reading<kTaps>(column);
  int32_t begin = range.begin, count = 0;
  for (int32_t u = range.begin; u < range.end; ++u) {
    const SourceWeight found = weight_of<kTaps>(axis.tap<kTaps>(u), column, axis.window_px);
    if (!found.reads) continue;
    if (count == 0) begin = u;
    if (count < kBackwardReads) out.w[count][lane] = found.w;
    ++count;
  }
  out.begin[lane] = begin;
  out.count[lane] = count;
}

// Adds a window's gradient to the tile's sums. `height` rows of the tile, and rows `mine` of this
// warp, are inside the image; the window starts at (top, left) from the tile. Called by all
// threads.
template <class Grad, int kTaps>
__device__ __forceinline__ void add_window(const PatchBackwardArgs& a, int32_t height,
                                           const TileRows& mine, const Grad* patch, int32_t top,
                                           int32_t left, float gain, BackwardColumns& columns,
                                           BackwardRows<kTaps>& rows, float* to) {
  const Image& grad = a.grad_patches;
  const BackwardAxis axis{static_cast<int32_t>(a.windows.window_px), static_cast<int32_t>(grad.W),
                          a.scale, a.per_source};
  const int32_t k = axis.window_px, lane = lane_of_thread(), warp = warp_of_thread();
  const OutputRange in_tile = rows_of_window(k, top, {0, height});
  const int32_t begin = axis.reading<kTaps>(in_tile.begin).begin;
  const int32_t end = axis.reading<kTaps>(in_tile.end - 1).end;
  // Threads beside the window take its first or last column, and store nothing.
  const int32_t beside = lane - left;
  const bool inside = beside >= 0 && beside < k;
  const int32_t column = clamp_to_axis(beside, k);

  const OutputRange band = rows_of_window(k, top, mine);
  BandWalk<kTaps> band_walk;
  band_walk.begin = band.begin;
  band_walk.end = band.end;
  band_walk.s = band.begin - kTaps + 1;
  band_walk.v = axis.reading<kTaps>(band.begin).begin;
#pragma unroll
  for (int t = 0; t < kTaps; ++t) band_walk.sum[t] = 0.0f;
  to += (top + band.begin - mine.begin) * kBackwardColumns;

  // The window and its rows are the same for all threads of the block.
  for (int32_t v0 = begin; v0 < end; v0 += kBackwardRows) {
    __syncthreads();  // all are done with the rows before, of this window or another
    if (warp > 0) {
      const int32_t i = static_cast<int32_t>(threadIdx.x) - kBackwardColumns;
      if (v0 + i < end) {
        const ResampleTap tap = axis.tap<kTaps>(v0 + i);
#pragma unroll
        for (int t = 0; t < kTaps; ++t) {
          rows.row[i].w[t] = weight_of<kTaps>(tap, tap.first + t, k).w;
        }
        rows.row[i].first = tap.first;
      } else {
        rows.row[i].first = kNoSource;
      }
    } else if (v0 == begin) {
      find_columns<kTaps>(axis, column, columns);
    }
    __syncthreads();  // all threads read these rows and columns
    if (band.begin == band.end || band_walk.s == band.end) continue;
    const int32_t reads = columns.count[lane];
    const Grad* at = patch + columns.begin[lane] * grad.stride_x;
    const auto walk = [&](const auto& outputs) {
      band_walk.walk(rows, outputs, at, grad.stride_y, v0, v0 + kBackwardRows < end, gain, to,
                     inside);
    };
    // All lanes of the warp are here, as they share the band.
    const bool few = __ballot_sync(kWarp, reads < 3 || reads > 5) == 0;
    const bool some = __ballot_sync(kWarp, reads < 5 || reads > 10) == 0;
    if (few && grad.stride_x == 1) {
      walk(FewReads<Grad, 1, 3, 5>(columns, lane));
    } else if (few && grad.stride_x == 3) {  // red, green and blue
      walk(FewReads<Grad, 3, 3, 5>(columns, lane));
    } else if (some && grad.stride_x == 1) {
      walk(FewReads<Grad, 1, 5, 10>(columns, lane));
    } else if (some && grad.stride_x == 3) {
      walk(FewReads<Grad, 3, 5, 10>(columns, lane));
    } else {
      walk(AnyReads<Grad, kTaps>{columns, axis, grad.stride_x, lane, column, reads});
    }
  }
}

__device__ __forceinline__ int32_t at_most(int64_t size, int32_t most) {
  return size < most ? static_cast<int32_t>(size) : most;
}

template <class Grad, int kTaps>
__global__ void C2F_BOUNDS(kPatchThreads, 4)
    extract_patches_backward_kernel(const __grid_constant__ PatchBackwardArgs a) {
  using Rows = BackwardRows<kTaps>;
  C2F_SHARED(BackwardSums, sums);
  C2F_SHARED(BackwardColumns, columns);
  C2F_SHARED(Rows, rows);

  const int32_t block = static_cast<int32_t>(blockIdx.x);
  const int32_t row_of_tiles = a.by_tiles_x.quotient(block);
  const int32_t plane = a.by_tiles_y.quotient(row_of_tiles);
  const int64_t b = a.by_channels.quotient(plane);
  const int32_t tile_x = block - row_of_tiles * a.tiles_x;
  const int32_t tile_y = row_of_tiles - plane * a.tiles_y;
  const int32_t c = plane - static_cast<int32_t>(b) * a.channels;

  const int64_t y0 = int64_t{tile_y} * (a.band_rows * kBackwardBands);
  const int64_t x0 = int64_t{tile_x} * kBackwardColumns;
  const int32_t height = at_most(a.H - y0, a.band_rows * kBackwardBands);
  const int32_t width = at_most(a.W - x0, kBackwardColumns);
  const int lane = lane_of_thread();
  TileRows mine{warp_of_thread() * a.band_rows, 0};
  const int32_t below = height - mine.begin;
  mine.size = below < 0 ? 0 : below < a.band_rows ? below : a.band_rows;

  float* own = &sums.row[mine.begin][lane];
#pragma unroll 4
  for (int r = 0; r < mine.size; ++r) own[r * kBackwardColumns] = 0.0f;
  if (threadIdx.x == 0) rows.row[kBackwardRows].first = kNoSource;  // read after the barriers below

  const Image& grad = a.grad_patches;
  const Grad* channel = static_cast<const Grad*>(grad.data) + (a.first_channel + c) * grad.stride_c;
  const float gain = a.gain[c];
  const int32_t k = static_cast<int32_t>(a.windows.window_px);
  const int32_t num = windows_of_image(a.windows, b);
  // Each warp finds the windows over the tile by itself; all find the same.
  for (int32_t first = 0; first < num; first += kWarpSize) {
    bool over = false;
    int32_t top = 0, left = 0;  // from the tile; less than a window's side, where it is over it
    if (first + lane < num) {
      const Origin origin = origin_of(a.windows, b, first + lane, a.H, a.W);
      const int64_t y = origin.y - y0, x = origin.x - x0;
      over = origin.used && y < height && y > -k && x < width && x > -k;
      top = static_cast<int32_t>(y);
      left = static_cast<int32_t>(x);
    }
    // All lanes: the bounds of this loop, and of the next, are the same for all threads.
    unsigned windows = __ballot_sync(kWarp, over);
    for (; windows != 0; windows &= windows - 1) {
      const int of = __ffs(windows) - 1;
      const Grad* patch = channel + (b * a.windows.n + first + of) * grad.stride_b;
      // All lanes, as above.
      const int32_t its_top = __shfl_sync(kWarp, top, of);
      const int32_t its_left = __shfl_sync(kWarp, left, of);
      add_window<Grad, kTaps>(a, height, mine, patch, its_top, its_left, gain, columns, rows, own);
    }
  }

  if (lane >= width) return;  // no barriers from here on
  const int64_t W = a.W;
  float* to =
      a.grad_image + ((b * a.C + a.first_channel + c) * a.H + y0 + mine.begin) * W + x0 + lane;
#pragma unroll 4
  for (int r = 0; r < mine.size; ++r, to += W, own += kBackwardColumns) *to = *own;
}

}  // namespace c2f::cuda
