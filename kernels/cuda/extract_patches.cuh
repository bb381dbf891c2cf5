// extract_patches: windows of an image, resampled and normalised, in one launch.
//
// A block makes a tile of a patch: up to 32 rows of up to 512 elements that lie side by side in the
// output (channels last: pixels times channels; planar: pixels). It resamples the source rows of
// the tile horizontally, gain and bias applied (the vertical weights add up to 1, so they commute),
// into shared memory, each once; then combines them vertically and stores 16 bytes at a time.
//
// Bulk copies (TMA) are not used: windows start at any byte and rows of a window are short, while
// bulk copies want addresses and sizes in multiples of 16 bytes.
#pragma once

#include <cstdint>

#include "../common/bilinear.h"
#include "../common/half.h"
#include "../common/resample_tap.h"
#include "element.cuh"
#include "extract_patches_args.h"
#include "gpu.cuh"
#include "window_list.cuh"

namespace c2f::cuda {

// Vertical taps of a tile's rows, and which source row each slot of shared memory holds.
struct PatchRowTaps {
  float w[kPatchRows][4];
  int32_t first[kPatchRows];
  uint8_t slot[kPatchRows][4];
  int32_t source[kPatchSlots];
};

struct alignas(16) PatchSource {
  float row[kPatchSlots][kPatchWidth];
};

__device__ __forceinline__ int32_t clamp_to_axis(int32_t i, int32_t size) {
  return i < 0 ? 0 : i < size ? i : size - 1;
}

// The mode as a constant where the number of taps says it.
template <int kTaps>
__device__ __forceinline__ ResampleTap patch_tap(const PatchArgs& a, bool resized, int32_t dst,
                                                 float scale) {
  if constexpr (kTaps == 2) {
    return resample_tap(Resample::kBilinear, true, dst, scale, a.windows.window_px);
  } else if constexpr (kTaps == 4) {
    return resample_tap(Resample::kBicubic, true, dst, scale, a.windows.window_px);
  } else {
    return resample_tap(Resample::kNearest, resized, dst, scale, a.windows.window_px);
  }
}

// Fills `taps` for rows [y0, y0 + rows); returns the number of slots, the same for every thread.
// Enlarged, neighbouring rows share sources: a slot per source row between the first and the last
// one (the plan sees to it that they fit). Shrunk, every tap of every row has its own.
template <int kTaps>
__device__ __forceinline__ int fill_row_taps(const PatchArgs& a, int32_t y0, int rows, float scale,
                                             PatchRowTaps& taps) {
  const int32_t k = static_cast<int32_t>(a.windows.window_px);
  const bool resized = k != a.side, shrunk = a.side < k;
  const int32_t base = clamp_to_axis(patch_tap<kTaps>(a, resized, y0, scale).first, k);
  const int32_t last =
      clamp_to_axis(patch_tap<kTaps>(a, resized, y0 + rows - 1, scale).first + kTaps - 1, k);
  const int slots = shrunk ? rows * kTaps : last - base + 1;
  const int r = threadIdx.x;
  if (r < rows) {
    const ResampleTap tap = patch_tap<kTaps>(a, resized, y0 + r, scale);
    taps.first[r] = tap.first;
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
      const int32_t source = clamp_to_axis(tap.first + t, k);
      const int slot = shrunk ? r * kTaps + t : source - base;
      taps.w[r][t] = tap.w[t];
      taps.slot[r][t] = static_cast<uint8_t>(slot);
      if (shrunk) taps.source[slot] = source;
    }
  }
  // Those between two rows' taps as well: rounding might skip one.
  if (!shrunk && r < slots) taps.source[r] = base + r;
  return slots;
}

// Horizontal pass: columns [e0, e0 + width) of the tile's source rows.
template <class In, int kTaps>
__device__ __forceinline__ void resample_source_rows(const PatchArgs& a, int64_t b, Origin origin,
                                                     int32_t c0, int32_t e0, int width, int slots,
                                                     float scale, const PatchRowTaps& taps,
                                                     PatchSource& rows) {
  const Image& image = a.image;
  const int32_t k = static_cast<int32_t>(a.windows.window_px);
  const In* corner = static_cast<const In*>(image.data) + b * image.stride_b +
                     origin.y * image.stride_y + origin.x * image.stride_x;
  for (int col = threadIdx.x; col < width; col += kPatchThreads) {
    const int32_t px = (e0 + col) / a.group;
    const int32_t c = c0 + (e0 + col) - px * a.group;  // in this launch
    const ResampleTap tap = patch_tap<kTaps>(a, k != a.side, px, scale);
    const In* at[kTaps];
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
      at[t] = corner + (a.first_channel + c) * image.stride_c +
              clamp_to_axis(tap.first + t, k) * image.stride_x;
    }
    const float gain = a.gain[c], bias = a.bias[c];
#pragma unroll 4
    for (int s = 0; s < slots; ++s) {
      const int64_t row = taps.source[s] * image.stride_y;
      float sum = to_float(at[0][row]);
      if constexpr (kTaps > 1) {
        sum *= tap.w[0];
#pragma unroll
        for (int t = 1; t < kTaps; ++t) sum = fmaf(to_float(at[t][row]), tap.w[t], sum);
      }
      rows.row[s][col] = fmaf(sum, gain, bias);
    }
  }
}

// Vertical pass and stores. A thread keeps its columns and walks down a few rows, so that source
// values are read from shared memory only where the next row has other sources.
template <class Out, int kTaps>
__device__ __forceinline__ void combine_and_store(const PatchArgs& a, Out* out, bool used, int rows,
                                                  int width, const PatchRowTaps& taps,
                                                  const PatchSource& source) {
  constexpr int kElems = 16 / static_cast<int>(sizeof(Out));
  const int packs = (width + kElems - 1) / kElems;
  const int bands = kPatchThreads / packs;  // at least 2: packs <= 512 / 4
  const int band = threadIdx.x / packs;
  const int col = (threadIdx.x - band * packs) * kElems;
  const int band_rows = (rows + bands - 1) / bands;
  const int end = band < bands ? (band + 1) * band_rows : 0;
  float value[kTaps][kElems];
  int32_t held = 0x7fffffff;  // no row's first source
  for (int r = band * band_rows; r < end && r < rows; ++r) {
    float sum[kElems] = {};
    if (used) {
      if (taps.first[r] != held) {
        held = taps.first[r];
#pragma unroll
        for (int t = 0; t < kTaps; ++t) {
          const float4* from = reinterpret_cast<const float4*>(&source.row[taps.slot[r][t]][col]);
#pragma unroll
          for (int i = 0; i < kElems / 4; ++i) {
            const float4 four = from[i];
            value[t][4 * i] = four.x;
            value[t][4 * i + 1] = four.y;
            value[t][4 * i + 2] = four.z;
            value[t][4 * i + 3] = four.w;
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kElems; ++i) {
        sum[i] = value[0][i];
        if constexpr (kTaps > 1) {
          sum[i] *= taps.w[r][0];
#pragma unroll
          for (int t = 1; t < kTaps; ++t) sum[i] = fmaf(value[t][i], taps.w[r][t], sum[i]);
        }
      }
    }
    Out* row = out + r * a.out_stride_y + col * a.out_stride_elem;
    if (a.vector_stores && col + kElems <= width) {
      store_pack(row, sum);
      continue;
    }
#pragma unroll
    for (int i = 0; i < kElems; ++i) {
      if (col + i < width) store_value(row + i * a.out_stride_elem, sum[i]);
    }
  }
}

template <class In, int kTaps>
__global__ void C2F_BOUNDS(kPatchThreads)
    extract_patches_kernel(const __grid_constant__ PatchArgs a) {
  C2F_SHARED(PatchSource, source);
  C2F_SHARED(PatchRowTaps, taps);

  // Tiles of a patch are neighbours: they share source rows.
  uint32_t block = blockIdx.x;
  const int32_t tile_x = block % a.tiles_x;
  block /= a.tiles_x;
  const int32_t tile_y = block % a.tiles_y;
  block /= a.tiles_y;
  const int32_t c0 = static_cast<int32_t>(block % a.groups) * a.group;
  const int64_t patch = block / a.groups;
  const Slot slot = slot_of(a.windows, patch);

  const int32_t y0 = tile_y * a.tile_rows, e0 = tile_x * a.tile_width;
  const int rows = a.side - y0 < a.tile_rows ? a.side - y0 : a.tile_rows;
  const int width = a.row_elems - e0 < a.tile_width ? a.row_elems - e0 : a.tile_width;
  const float scale = resize_scale(a.windows.window_px, a.side);

  // `used` is the same for all threads of the block, and so is every barrier's condition.
  Origin origin{0, 0, false};
  if (slot.j < windows_of_image(a.windows, slot.b)) {
    origin = origin_of(a.windows, slot.b, slot.j, a.image.H, a.image.W);
  }
  if (origin.used) {
    const int slots = fill_row_taps<kTaps>(a, y0, rows, scale, taps);
    __syncthreads();  // taps.source is read by all threads
    resample_source_rows<In, kTaps>(a, slot.b, origin, c0, e0, width, slots, scale, taps, source);
    __syncthreads();  // each thread combines columns that others resampled
  }

  const int64_t at = patch * a.out_stride_patch + (a.first_channel + c0) * a.out_stride_c +
                     y0 * a.out_stride_y + e0 * a.out_stride_elem;
  if (a.out_dtype == DType::kF32) {
    combine_and_store<float, kTaps>(a, static_cast<float*>(a.out) + at, origin.used, rows, width,
                                    taps, source);
  } else if (a.out_dtype == DType::kF16) {
    combine_and_store<F16, kTaps>(a, static_cast<F16*>(a.out) + at, origin.used, rows, width, taps,
                                  source);
  } else {
    combine_and_store<BF16, kTaps>(a, static_cast<BF16*>(a.out) + at, origin.used, rows, width,
                                   taps, source);
  }
}

}  // namespace c2f::cuda
