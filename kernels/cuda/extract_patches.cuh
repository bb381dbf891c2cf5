// extract_patches: windows of an image, resampled and normalised, in one launch.
//
// A block makes a part of a patch: up to 256 elements that lie side by side in the output (channels
// last: pixels times channels; planar: pixels), and up to 128 rows of them, a tile of rows at a
// time. Each thread resamples its column of the tile's source rows horizontally into shared memory,
// with gain and bias applied (the vertical weights add up to 1, so these commute); then all threads
// combine the rows vertically and store 16 bytes at a time. Addresses and weights are found once
// per block, since in the time of a dozen instructions memory could take 32 elements.
//
// Bulk copies (TMA) are not used: they need addresses and sizes in multiples of 16 bytes, while
// windows start at any byte and have short rows.
#pragma once

#include <cstdint>

#include "../common/bilinear.h"
#include "../common/half.h"
#include "element.cuh"
#include "extract_patches_args.h"
#include "gpu.cuh"
#include "patch_tap.cuh"
#include "window_list.cuh"

namespace c2f::cuda {

// Vertical taps of a block's rows.
template <int kTaps>
struct PatchRowTaps {
  alignas(4 * kTaps) float w[kPatchRows][kTaps];
  int32_t first[kPatchRows];
};

// Resampled source rows. Of every eight columns the last four lie behind the first four of all,
// half the banks further: neither do lanes meet in a bank that write a column each, nor those that
// read eight, 16 bytes at a time.
struct alignas(16) PatchSource {
  static constexpr int kHalf = kPatchWidth / 2 + 16;
  static constexpr int kFloats = kHalf + kPatchWidth / 2;
  float row[kPatchSlots][kFloats];

  static __device__ __forceinline__ int place(int column) {
    return (column & 4 ? kHalf : 0) + column / 8 * 4 + column % 4;
  }
};

// Which slot of shared memory holds which source row, for rows [row0, row0 + rows) of a block.
// Where patches are enlarged, neighbouring rows share sources, and each source row from the first
// to the last has one slot (the plan ensures that they fit). Where they are shrunk, every tap of
// every row has its own.
template <int kTaps>
struct PatchSlots {
  const PatchRowTaps<kTaps>& taps;
  int32_t row0, window_px, base;
  bool shrunk;
  int count;

  __device__ __forceinline__ PatchSlots(const PatchRowTaps<kTaps>& taps_, int32_t row0_, int rows,
                                        int32_t window, bool is_shrunk)
      : taps(taps_), row0(row0_), window_px(window), base(source(row0_, 0)), shrunk(is_shrunk) {
    count = shrunk ? rows * kTaps : source(row0 + rows - 1, kTaps - 1) - base + 1;
  }
  // Source row of a tap, in the window.
  __device__ __forceinline__ int32_t source(int32_t row, int tap) const {
    return clamp_to_axis(taps.first[row] + tap, window_px);
  }
  __device__ __forceinline__ int32_t source_of_slot(int slot) const {
    return shrunk ? source(row0 + slot / kTaps, slot % kTaps) : base + slot;
  }
  __device__ __forceinline__ int slot(int32_t row, int tap) const {
    return shrunk ? (row - row0) * kTaps + tap : source(row, tap) - base;
  }
  // The output in a row, from its sources in a column.
  __device__ __forceinline__ float combined(int32_t row, const float (&column)[kTaps]) const {
    float sum = column[0];
    if constexpr (kTaps > 1) {
      sum *= taps.w[row][0];
#pragma unroll
      for (int t = 1; t < kTaps; ++t) sum = fmaf(column[t], taps.w[row][t], sum);
    }
    return sum;
  }
};

// A column of the output: its taps in the window's first row, and the gain and bias of their sum.
template <class In, int kTaps>
struct PatchColumn {
  const In* at[kTaps];
  float w[kTaps], gain, bias;

  __device__ __forceinline__ PatchColumn(const PatchArgs& a, const In* corner, int32_t c0,
                                         int32_t elem) {
    const int32_t px = a.by_group.quotient(elem);
    const int32_t c = c0 + elem - px * a.group;  // in this launch
    const int32_t k = static_cast<int32_t>(a.windows.window_px);
    const ResampleTap tap = patch_tap<kTaps>(k != a.side, px, a.resize, k);
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
      at[t] = corner + (a.first_channel + c) * a.image.stride_c +
              clamp_to_axis(tap.first + t, k) * a.image.stride_x;
      w[t] = tap.w[t];
    }
    gain = a.gain[c];
    bias = a.bias[c];
  }

  // The resampled value in the row that is `offset` elements below the first.
  __device__ __forceinline__ float resampled(int64_t offset) const {
    float sum = to_float(at[0][offset]);
    if constexpr (kTaps > 1) {
      sum *= w[0];
#pragma unroll
      for (int t = 1; t < kTaps; ++t) sum = fmaf(to_float(at[t][offset]), w[t], sum);
    }
    return fmaf(sum, gain, bias);
  }
};

// Horizontal pass of a thread's column.
template <class In, int kTaps>
__device__ __forceinline__ void resample_column(const PatchArgs& a,
                                                const PatchColumn<In, kTaps>& column,
                                                const PatchSlots<kTaps>& slots, PatchSource& rows) {
  float* to = &rows.row[0][PatchSource::place(static_cast<int>(threadIdx.x))];
  const int64_t stride = a.image.stride_y;
  if (slots.shrunk) {
    for (int s = 0; s < slots.count; ++s, to += PatchSource::kFloats) {
      *to = column.resampled(slots.source_of_slot(s) * stride);
    }
    return;
  }
  PatchColumn<In, kTaps> below = column;
#pragma unroll
  for (int t = 0; t < kTaps; ++t) below.at[t] += slots.base * stride;
#pragma unroll 4
  for (int s = 0; s < slots.count; ++s, to += PatchSource::kFloats) {
    *to = below.resampled(0);
#pragma unroll
    for (int t = 0; t < kTaps; ++t) below.at[t] += stride;
  }
}

// The part of a tile that a thread stores: elements [col, col + 16 bytes) of a band of rows.
// Neighbouring rows mostly have the same sources, which are read from shared memory only when they
// change.
struct PatchBand {
  int col, band;
  bool packed;  // all of these elements are there, and are stored at once

  __device__ __forceinline__ PatchBand(const PatchArgs& a, int width) {
    const int elems = a.out_dtype == DType::kF32 ? 4 : 8;
    band = a.by_packs.quotient(static_cast<int32_t>(threadIdx.x));
    col = (static_cast<int>(threadIdx.x) - band * a.packs) * elems;
    packed = a.vector_stores && col + elems <= width;
  }
};

// Stores the thread's rows, with its elements of row 0 at `out`: the values that pack(row, values)
// gives or, if they are not packed, one(row, element) for each.
template <class Out, class Pack, class One>
__device__ __forceinline__ void store_rows(const PatchArgs& a, const PatchBand& mine, Out* out,
                                           int rows, int width, const Pack& pack, const One& one) {
  constexpr int kElems = 16 / static_cast<int>(sizeof(Out));
  const int of_band = a.by_bands.quotient(rows + a.bands - 1);
  const int first = mine.band * of_band, end = min(first + of_band, rows);
  if (mine.band >= a.bands || first >= end) return;  // no barrier in here
  out += first * a.out_stride_y;
  if (mine.packed) {
#pragma unroll 1
    for (int r = first; r < end; ++r, out += a.out_stride_y) {
      float value[kElems];
      pack(r, value);
      store_pack(out, value);
    }
    return;
  }
  const int elems = width - mine.col < kElems ? width - mine.col : kElems;
#pragma unroll 1
  for (int r = first; r < end; ++r, out += a.out_stride_y) {
#pragma unroll 1
    for (int i = 0; i < elems; ++i) {
      store_value(out + i * a.out_stride_elem, one(r, mine.col + i));
    }
  }
}

// Vertical pass of the rows whose sources are in shared memory, and stores.
template <class Out, int kTaps>
__device__ __forceinline__ void combine_and_store(const PatchArgs& a, const PatchBand& mine,
                                                  Out* out, int rows, int width,
                                                  const PatchSlots<kTaps>& slots,
                                                  const PatchSource& source) {
  constexpr int kElems = 16 / static_cast<int>(sizeof(Out));
  const int place = PatchSource::place(mine.col);
  float from[kTaps][kElems];
  int32_t held = 0x7fffffff;  // first source of the values in `from`; this is no row's
  const auto pack = [&](int r, float (&sum)[kElems]) {
    const int32_t row = slots.row0 + r, first = slots.taps.first[row];
    if (first != held) {
      held = first;
#pragma unroll
      for (int t = 0; t < kTaps; ++t) {
        const float* line = &source.row[slots.slot(row, t)][place];
#pragma unroll
        for (int i = 0; i < kElems / 4; ++i) {
          const float4 four = *reinterpret_cast<const float4*>(line + i * PatchSource::kHalf);
          from[t][4 * i] = four.x;
          from[t][4 * i + 1] = four.y;
          from[t][4 * i + 2] = four.z;
          from[t][4 * i + 3] = four.w;
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kElems; ++i) {
      float column[kTaps];
#pragma unroll
      for (int t = 0; t < kTaps; ++t) column[t] = from[t][i];
      sum[i] = slots.combined(row, column);
    }
  };
  const auto one = [&](int r, int col) {
    float column[kTaps];
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
      column[t] = source.row[slots.slot(slots.row0 + r, t)][PatchSource::place(col)];
    }
    return slots.combined(slots.row0 + r, column);
  };
  store_rows(a, mine, out, rows, width, pack, one);
}

// Calls body(pointer) with the output at element `at`, in its type.
template <class Body>
__device__ __forceinline__ void in_type_of_output(const PatchArgs& a, int64_t at,
                                                  const Body& body) {
  if (a.out_dtype == DType::kF32) {
    body(static_cast<float*>(a.out) + at);
  } else if (a.out_dtype == DType::kF16) {
    body(static_cast<F16*>(a.out) + at);
  } else {
    body(static_cast<BF16*>(a.out) + at);
  }
}

template <class In, int kTaps>
__global__ void C2F_BOUNDS(kPatchThreads, kTaps == 4 ? 2 : 4)
    extract_patches_kernel(const __grid_constant__ PatchArgs a) {
  using Taps = PatchRowTaps<kTaps>;
  C2F_SHARED(PatchSource, source);
  C2F_SHARED(Taps, taps);

  // Parts of a patch are neighbours: they share source rows.
  const int32_t block = static_cast<int32_t>(blockIdx.x);
  const int32_t row_of_parts = a.by_parts_x.quotient(block);
  const int32_t plane = a.by_parts_y.quotient(row_of_parts);
  const int32_t patch = a.by_groups.quotient(plane);
  const int32_t part_x = block - row_of_parts * a.parts_x;
  const int32_t part_y = row_of_parts - plane * a.parts_y;
  const int32_t c0 = (plane - patch * a.groups) * a.group;
  const Slot slot = slot_of(a.windows, a.by_slots, patch);

  const int32_t y0 = part_y * a.part_rows, e0 = part_x * a.part_width;
  const int rows = a.side - y0 < a.part_rows ? a.side - y0 : a.part_rows;
  const int width = a.row_elems - e0 < a.part_width ? a.row_elems - e0 : a.part_width;

  Origin origin{0, 0, false};
  if (slot.j < windows_of_image(a.windows, slot.b)) {
    origin = origin_of(a.windows, slot.b, slot.j, a.image.H, a.image.W);
  }
  const PatchBand mine(a, width);
  int64_t at = int64_t{patch} * a.out_stride_patch + (a.first_channel + c0) * a.out_stride_c +
               y0 * a.out_stride_y + (e0 + mine.col) * a.out_stride_elem;
  if (!origin.used) {  // the same in all threads; no barrier comes before
    in_type_of_output(a, at, [&](auto* out) {
      const auto zeros = [](int, auto& value) {
        for (float& v : value) v = 0.0f;
      };
      store_rows(a, mine, out, rows, width, zeros, [](int, int) { return 0.0f; });
    });
    return;
  }

  const int32_t x = static_cast<int32_t>(threadIdx.x);
  if (x < rows) {
    const int32_t k = static_cast<int32_t>(a.windows.window_px);
    const ResampleTap tap = patch_tap<kTaps>(k != a.side, y0 + x, a.resize, k);
    taps.first[x] = tap.first;
#pragma unroll
    for (int t = 0; t < kTaps; ++t) taps.w[x][t] = tap.w[t];
  }
  __syncthreads();  // taps are read by all threads

  const Image& image = a.image;
  const In* corner = static_cast<const In*>(image.data) + slot.b * image.stride_b +
                     origin.y * image.stride_y + origin.x * image.stride_x;
  // Threads past the width get the last column, but do not use it.
  const PatchColumn<In, kTaps> column(a, corner, c0, e0 + (x < width ? x : width - 1));
  const int32_t k = static_cast<int32_t>(a.windows.window_px);
  // Bounds and conditions are the same for all threads of the block.
  for (int row0 = 0; row0 < rows; row0 += a.tile_rows) {
    if (row0 > 0) __syncthreads();  // all have combined: their sources are overwritten
    const int count = rows - row0 < a.tile_rows ? rows - row0 : a.tile_rows;
    const PatchSlots<kTaps> slots(taps, row0, count, k, a.side < k);
    if (x < width) resample_column(a, column, slots, source);
    __syncthreads();  // each thread combines columns that others resampled
    in_type_of_output(
        a, at, [&](auto* out) { combine_and_store(a, mine, out, count, width, slots, source); });
    at += a.tile_rows * a.out_stride_y;
  }
}

}  // namespace c2f::cuda
