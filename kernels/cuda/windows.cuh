// count_windows and select_windows in one launch. Every block counts the bins of one tile; blocks
// that finish last go on with what is then complete: sums over windows, and at the end the
// selection.
#pragma once

#include "cell_counts.cuh"
#include "select_by_warp.cuh"
#include "select_windows.cuh"

namespace c2f::cuda {

// The choices of an image by this block; `gains` may be in shared memory for strategy "all".
__device__ __noinline__ void select_by_block(const WindowsArgs& a, int64_t b, int32_t* gains,
                                             unsigned char* shared) {
  BlockSelection(a, ImageSums(a, b), b, gains).run(shared);
}

// One image's selection in shared memory, once its bins are in global memory.
__device__ __noinline__ void select_in_shared(const WindowsArgs& a, int64_t b) {
  C2F_DYNAMIC_SHARED(shared);
  const BinAxis &y = a.cells.y, &x = a.cells.x;
  const ImageSums image(a, b);
  const bool all = a.select.strategy == Strategy::kAll;
  const int32_t num_bins = y.bins * x.bins, windows = y.windows * x.windows;
  const int32_t thread = static_cast<int32_t>(threadIdx.x);
  const int32_t threads = static_cast<int32_t>(blockDim.x), places = places_in_shared(windows);
  uint32_t* keys = reinterpret_cast<uint32_t*>(shared);
  int32_t* bins = reinterpret_cast<int32_t*>(keys + places);
  int32_t* across = bins + num_bins;
  for (int32_t i = thread; i < num_bins; i += threads) bins[i] = image.bins[i];
  // All threads of the block are in this function. The bins are there.
  __syncthreads();
  sum_across(x, bins, across, 0, y.bins);
  // The sums across are there.
  __syncthreads();
  for_cells(y.windows, x.windows, [&](int32_t i, int32_t j) {
    const int32_t place = i * x.windows + j, count = sum_down(y, x.windows, across, i, j);
    keys[place] = all ? static_cast<uint32_t>(count) : WarpSelection::make_key(count, place);
  });
  for (int32_t place = windows + thread; place < places; place += threads) keys[place] = 0;
  // The keys, or counts, are there.
  __syncthreads();
  if (all) {
    select_by_block(a, b, reinterpret_cast<int32_t*>(keys), shared);
  } else if (warp_of_thread() == 0) {
    const Choices choices(a, b);
    choices.finish(WarpSelection{choices, keys, bins}.run(), thread, kWarpSize);
  }
}

// Where an image is one band: its only block left sums, and selects.
__device__ __noinline__ void finish_small(const WindowsArgs& a, int64_t b, unsigned char* shared) {
  const BinAxis &y = a.cells.y, &x = a.cells.x;
  const ImageSums image(a, b);
  sum_across(x, image.bins, image.across, 0, y.bins);
  // All threads of the block are in this function. The sums across are there.
  __syncthreads();
  for_cells(y.windows, x.windows, [&](int32_t i, int32_t j) {
    image.counts[static_cast<int64_t>(i) * x.windows + j] =
        sum_down(y, x.windows, image.across, i, j);
  });
  if (!a.select.wanted) return;
  // The counts are there.
  __syncthreads();
  const BlockSelection selection(a, image, b, image.counts);
  for (int32_t i = warp_of_thread(); i < y.windows; i += blockDim.x / kWarpSize) {
    selection.find_row_best(i);
  }
  // The best of the rows are there.
  __syncthreads();
  select_by_block(a, b, image.counts, shared);
}

// Where an image is many bands: what this block's band completes.
__device__ __noinline__ void finish_band(const WindowsArgs& a, int64_t b, int32_t band,
                                         unsigned char* shared) {
  const BinAxis &y = a.cells.y, &x = a.cells.x;
  const ImageSums image(a, b);
  const BlockSelection selection(a, image, b, image.counts);
  const Bands bands(y, a.sums);
  sum_across(x, image.bins, image.across, bands.first_bin(band), bands.last_bin(band));
  const int32_t rows = complete_rows(a, image, band, [&](int32_t i) {
    if (a.select.wanted) selection.find_row_best(i);
  });
  // `rows` is the same in all threads.
  if (!a.select.wanted || rows == 0 || !block_is_last(image.image_ticket, y.windows, rows)) return;
  select_by_block(a, b, image.counts, shared);
}

template <class T, int N, CellKind kKind>
__global__ void C2F_BOUNDS(kCellThreads, 3) windows_kernel(const __grid_constant__ WindowsArgs a) {
  C2F_DYNAMIC_SHARED(shared);
  wait_for_previous();
  const BinAxis& y = a.cells.y;
  const int64_t b = count_cells<T, N, kKind>(a.cells, shared);
  const int32_t row = static_cast<int32_t>(blockIdx.x) / a.cells.x.tiles % y.tiles;
  const int32_t band = row / a.sums.band_tiles;
  const int32_t band_rows = min(a.sums.band_tiles, y.tiles - band * a.sums.band_tiles);
  const uint32_t blocks = static_cast<uint32_t>(band_rows) * static_cast<uint32_t>(a.cells.x.tiles);
  // Who finishes a band's last tile goes on, the other blocks leave as a whole: the answer is the
  // same in all threads of a block.
  if (!block_is_last(ImageSums(a, b).band_tickets + band, blocks)) return;
  if (a.select.in_shared) {
    select_in_shared(a, b);
  } else if (a.sums.bands == 1) {
    finish_small(a, b, shared);
  } else {
    finish_band(a, b, band, shared);
  }
}

}  // namespace c2f::cuda
