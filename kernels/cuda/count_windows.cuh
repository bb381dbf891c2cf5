// Counts of windows from counts of bins, computed by whichever blocks finish last.
#pragma once

#include "gpu.cuh"
#include "window_bins.h"
#include "windows_args.h"

namespace c2f::cuda {

// Draws the next of `total` tickets; true for the last one drawn, which resets the counter to 0 for
// the next launch or graph replay (the stream starts neither before this kernel ends).
//
// Called by one thread after a barrier of its block, and followed by another barrier where it
// returns true. The block's stores to global memory precede the barrier, and the barrier precedes
// this thread's ticket, which releases them. So after its fence the thread that drew the last
// ticket sees the stores of all blocks, and the next barrier extends that to its block (causality
// order is transitive in the PTX memory model). The other blocks read nothing and need no fence.
__device__ __forceinline__ bool last_ticket(uint32_t* ticket, uint32_t total, uint32_t drawn = 1) {
  const bool last = add_and_release(ticket, drawn) + drawn == total;
  if (last) {
    __threadfence();  // orders the ticket before reads of what others have stored, and the reset
    *ticket = 0;      // all have drawn, and nobody looks at it again in this launch
  }
  return last;
}

// The same for a whole block: all threads call it and get the same answer.
__device__ __forceinline__ bool block_is_last(uint32_t* ticket, uint32_t total,
                                              uint32_t drawn = 1) {
  C2F_SHARED(int32_t, last);
  // All threads have made their stores, and have read `last` of the call before.
  __syncthreads();
  if (threadIdx.x == 0) last = last_ticket(ticket, total, drawn) ? 1 : 0;
  // `last` is written.
  __syncthreads();
  return last != 0;
}

// Sum of `count` values, `step` apart. Four loads are always in flight at once: a window is a few
// bins long, and loading them one by one would cost as many latencies.
__device__ __forceinline__ int32_t sum_of(const int32_t* values, int32_t count, int64_t step) {
  int32_t sum = 0;
#pragma unroll 1
  for (int32_t k = 0; k < count; k += 4, values += 4 * step) {
    int32_t four[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) four[i] = k + i < count ? values[i * step] : 0;
    sum += (four[0] + four[1]) + (four[2] + four[3]);
  }
  return sum;
}

// Calls on_cell(i, j) for i < rows and j < columns, shared out among the threads of the block. rows
// is below 2^31 by at least the number of threads.
template <class OnCell>
__device__ __forceinline__ void for_cells(int32_t rows, int32_t columns, const OnCell& on_cell) {
  const int32_t thread = static_cast<int32_t>(threadIdx.x);
  const int32_t threads = static_cast<int32_t>(blockDim.x);
  const int32_t step_i = threads / columns, step_j = threads - step_i * columns;
  int32_t i = thread / columns, j = thread - i * columns;
#pragma unroll 1
  while (i < rows) {
    on_cell(i, j);
    const bool wraps = j >= columns - step_j;
    i += step_i + (wraps ? 1 : 0);
    j += step_j - (wraps ? columns : 0);
  }
}

// For rows [t0, t1) of bins: across[t, j] = sum of the bins of row t in column j of windows.
__device__ __forceinline__ void sum_across(const BinAxis& x, const int32_t* bins, int32_t* across,
                                           int32_t t0, int32_t t1) {
  for_cells(t1 - t0, x.windows, [&](int32_t i, int32_t j) {
    const int64_t t = t0 + i;
    int32_t first, last;
    x.window_bins(j, &first, &last);
    across[t * x.windows + j] = sum_of(bins + t * x.bins + first, last - first, 1);
  });
}

// The count of window (i, j): the sum of column j of `across` over the rows of bins in row i of
// windows.
__device__ __forceinline__ int32_t sum_down(const BinAxis& y, int32_t columns,
                                            const int32_t* across, int32_t i, int32_t j) {
  int32_t first, last;
  y.window_bins(i, &first, &last);
  return sum_of(across + static_cast<int64_t>(first) * columns + j, last - first, columns);
}

// Bands: groups of rows of tiles.
struct Bands {
  const BinAxis& y;
  int32_t band_bins;

  __device__ Bands(const BinAxis& axis, const WindowSums& sums)
      : y(axis), band_bins(sums.band_tiles * axis.tile_bins) {}
  __device__ __forceinline__ int32_t first_bin(int32_t band) const { return band * band_bins; }
  __device__ __forceinline__ int32_t last_bin(int32_t band) const {
    return min((band + 1) * band_bins, y.bins);
  }
  // How many bands have bins of row i of windows. An empty first bin, as a flush cut may leave,
  // counts as well.
  __device__ __forceinline__ int32_t of_row(int32_t i) const {
    int32_t first, last;
    y.window_bins(i, &first, &last);
    return (last - 1) / band_bins - first / band_bins + 1;
  }
  // Rows of windows first .. last - 1 that have bins of a band.
  __device__ __forceinline__ void rows(int32_t band, int32_t* first, int32_t* last) const {
    *first = lower_bound(first_bin(band), true);
    *last = lower_bound(last_bin(band), false);
  }

 private:
  // First row of windows whose bins end behind `bin` (ends) or start at or behind it; both ascend.
  __device__ int32_t lower_bound(int32_t bin, bool ends) const {
    int32_t low = 0, high = y.windows;
    while (low < high) {
      const int32_t middle = low + (high - low) / 2;
      int32_t first, last;
      y.window_bins(middle, &first, &last);
      if (ends ? last > bin : first >= bin) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }
};

// Where one image's bins, sums and tickets are.
struct ImageSums {
  const int32_t* bins;
  int32_t *across, *counts;
  uint32_t *band_tickets, *row_tickets, *image_ticket;

  __device__ ImageSums(const WindowsArgs& a, int64_t b) {
    const BinAxis &y = a.cells.y, &x = a.cells.x;
    bins = a.cells.bins + b * y.bins * x.bins;
    across = a.sums.across + b * y.bins * x.windows;
    counts = a.sums.counts + b * y.windows * x.windows;
    band_tickets = a.sums.tickets + b * (a.sums.bands + y.windows + int64_t{1});
    row_tickets = band_tickets + a.sums.bands;
    image_ticket = row_tickets + y.windows;
  }
};

// Computes the counts of the rows of windows that this block's band completes. For each of them a
// whole warp calls on_row(i) once the counts are written. Returns how many there were. Used only
// where there are several bands.
template <class OnRow>
__device__ __forceinline__ int32_t complete_rows(const WindowsArgs& a, const ImageSums& image,
                                                 int32_t band, const OnRow& on_row) {
  C2F_SHARED(int32_t, num_complete);
  using RowPerThread = int32_t[kCellThreads];
  C2F_SHARED(RowPerThread, complete);
  const BinAxis &y = a.cells.y, &x = a.cells.x;
  const Bands bands(y, a.sums);
  int32_t first, last, total = 0;
  bands.rows(band, &first, &last);
  for (int32_t start = first; start < last; start += blockDim.x) {
    // All threads take every turn of this loop, whose bounds are uniform. At this barrier sums
    // across are stored, and the list of the turn before has been read.
    __syncthreads();
    if (threadIdx.x == 0) num_complete = 0;
    // The list is empty.
    __syncthreads();
    const int32_t row = start + static_cast<int32_t>(threadIdx.x);
    if (row < last && last_ticket(image.row_tickets + row, bands.of_row(row))) {
      complete[atomicAdd(&num_complete, 1)] = row;
    }
    // The list is complete, and the threads that wrote it are past their fences.
    __syncthreads();
    const int32_t rows = num_complete;
    total += rows;
    for (int32_t r = warp_of_thread(); r < rows; r += blockDim.x / kWarpSize) {
      for (int32_t j = lane_of_thread(); j < x.windows; j += kWarpSize) {
        image.counts[static_cast<int64_t>(complete[r]) * x.windows + j] =
            sum_down(y, x.windows, image.across, complete[r], j);
      }
      // Lanes read what others of their warp have stored.
      __syncwarp();
      on_row(complete[r]);
    }
  }
  return total;
}

}  // namespace c2f::cuda
