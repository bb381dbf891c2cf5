// select_windows, once the counts of an image are there: by one block, since every choice of "top"
// and "cover" depends on the one before. It keeps the best window of every row; a round takes the
// best of those, then brings up to date what the choice changed: for "top" its row, for "cover" the
// gains of the windows that overlap it, and their rows. All in integers; ties go to the lower
// index.
#pragma once

#include "count_windows.cuh"

namespace c2f::cuda {

// The larger gain, of equal ones the lower place; the same answer in all lanes. Every lane of the
// warp calls it.
struct Best {
  int32_t gain, place;

  __device__ __forceinline__ void offer(int32_t other_gain, int32_t other_place) {
    if (other_gain > gain) {  // places come in ascending order
      gain = other_gain;
      place = other_place;
    }
  }
  __device__ __forceinline__ Best of_warp() const {
    // All lanes: see above.
    const int32_t most = __reduce_max_sync(kWarp, gain);
    return {most, __reduce_min_sync(kWarp, gain == most ? place : 0x7fffffff)};
  }
};

// One image's selection. `bins`, `across`, `gains` and `row_best` are in global memory, or in
// shared memory where the image is small.
struct Selection {
  const BinAxis &y, &x;
  const SelectArgs& select;
  int32_t *bins, *across, *gains, *row_best;
  int64_t b;

  __device__ __forceinline__ Selection(const WindowsArgs& a, const ImageSums& image, int64_t b_)
      : y(a.cells.y),
        x(a.cells.x),
        select(a.select),
        bins(a.cells.bins + b_ * a.cells.y.bins * a.cells.x.bins),
        across(image.across),
        gains(image.counts),
        row_best(a.select.row_best + 2 * b_ * a.cells.y.windows),
        b(b_) {}

  // By a whole warp.
  __device__ __forceinline__ void find_row_best(int32_t i) const {
    const int32_t* row = gains + static_cast<int64_t>(i) * x.windows;
    Best best{0, 0};
#pragma unroll 4
    for (int32_t j = lane_of_thread(); j < x.windows; j += kWarpSize) best.offer(row[j], j);
    best = best.of_warp();
    if (lane_of_thread() == 0) {
      row_best[2 * i] = best.gain;
      row_best[2 * i + 1] = best.place;
    }
  }

  // By the whole block, as all that follows. Every barrier is reached by all threads: loops and
  // conditions around them depend on values that are the same in all of them.
  __device__ __forceinline__ int64_t run() const {
    switch (select.strategy) {
      case Strategy::kAll:
        return take_all();
      default:
        return take_best(select.strategy == Strategy::kCover);
    }
  }

  // Empties the slots from `taken` on.
  __device__ __forceinline__ void finish(int64_t taken) const {
    if (threadIdx.x == 0) select.num[b] = static_cast<int32_t>(taken);
    for (int64_t slot = taken + threadIdx.x; slot < select.n; slot += blockDim.x) {
      put(slot, 0, 0, 0);
    }
  }

 private:
  __device__ __forceinline__ void put(int64_t slot, int32_t py, int32_t px, int32_t count) const {
    const int64_t at = b * select.n + slot;
    select.origins[2 * at] = py;
    select.origins[2 * at + 1] = px;
    select.counts[at] = count;
  }

  __device__ __forceinline__ int64_t take_best(bool cover) const {
    for (int64_t taken = 0; taken < select.n; ++taken) {
      // Every warp finds the same, so that no barrier is needed to pass it on.
      Best row{0, 0};
#pragma unroll 4
      for (int32_t i = lane_of_thread(); i < y.windows; i += kWarpSize)
        row.offer(row_best[2 * i], i);
      row = row.of_warp();
      if (row.gain < select.min_pixels) return taken;
      const int32_t i = row.place, j = row_best[2 * i + 1];
      if (threadIdx.x == 0) put(taken, y.origin(i), x.origin(j), row.gain);
      if (cover) {
        uncover(i, j);
      } else {
        // All warps have read the best of the rows, before that of this one changes.
        __syncthreads();
        if (warp_of_thread() == 0) {
          if (lane_of_thread() == 0) gains[static_cast<int64_t>(i) * x.windows + j] = 0;
          // Lanes read what lane 0 has stored.
          __syncwarp();
          find_row_best(i);
        }
      }
      // The best of the rows are up to date.
      __syncthreads();
    }
    return select.n;
  }

  // Takes the pixels of window (i, j) out of the bins and of the windows that overlap it.
  __device__ __forceinline__ void uncover(int32_t i, int32_t j) const {
    int32_t t0, t1, u0, u1, first_row, last_row, first, last;
    y.window_bins(i, &t0, &t1);
    x.window_bins(j, &u0, &u1);
    y.overlapping(i, &first_row, &last_row);
    x.overlapping(j, &first, &last);
    const int32_t columns = last - first;
    for (int32_t k = threadIdx.x; k < (t1 - t0) * columns; k += blockDim.x) {
      const int32_t t = t0 + k / columns, column = first + k % columns;
      int32_t left, right, sum = 0;
      x.window_bins(column, &left, &right);
      left = max(left, u0), right = min(right, u1);
      const int32_t* row = bins + static_cast<int64_t>(t) * x.bins;
#pragma unroll 4
      for (int32_t u = left; u < right; ++u) sum += row[u];
      across[static_cast<int64_t>(t) * x.windows + column] = sum;
    }
    // Sums are stored, bins read; and all warps have read the best of the rows.
    __syncthreads();
    for (int32_t row = first_row + warp_of_thread(); row < last_row;
         row += blockDim.x / kWarpSize) {
      int32_t top, bottom;
      y.window_bins(row, &top, &bottom);
      top = max(top, t0), bottom = min(bottom, t1);
      for (int32_t column = first + lane_of_thread(); column < last; column += kWarpSize) {
        int32_t sum = 0;
#pragma unroll 4
        for (int32_t t = top; t < bottom; ++t) {
          sum += across[static_cast<int64_t>(t) * x.windows + column];
        }
        gains[static_cast<int64_t>(row) * x.windows + column] -= sum;
      }
      // Lanes read what others of their warp have stored.
      __syncwarp();
      find_row_best(row);
    }
    const int32_t width = u1 - u0;
    for (int32_t k = threadIdx.x; k < (t1 - t0) * width; k += blockDim.x) {
      bins[static_cast<int64_t>(t0 + k / width) * x.bins + u0 + k % width] = 0;
    }
  }

  // Windows with enough pixels in raster order.
  __device__ __forceinline__ int64_t take_all() const {
    using NumberPerWarp = int32_t[kCellThreads / kWarpSize];
    C2F_SHARED(NumberPerWarp, found);
    const int32_t windows = y.windows * x.windows;
    const int lane = lane_of_thread(), warp = warp_of_thread();
    int64_t taken = 0;
    // 64-bit: the last step may pass 2^31.
    for (int64_t start = 0; start < windows && taken < select.n; start += blockDim.x) {
      const int64_t index = start + threadIdx.x;
      const int32_t count = index < windows ? gains[index] : 0;
      const bool enough = count >= select.min_pixels;
      // All lanes are here: the loop's bounds are the same in all threads.
      const unsigned votes = __ballot_sync(kWarp, enough);
      if (lane == 0) found[warp] = __popc(votes);
      // The warps' numbers are there.
      __syncthreads();
      int32_t before = 0, all = 0;
      for (int w = 0; w < kCellThreads / kWarpSize; ++w) {
        before += w < warp ? found[w] : 0;
        all += found[w];
      }
      const int64_t slot = taken + before + __popc(votes & lanes_below());
      if (enough && slot < select.n) {
        const int32_t i = static_cast<int32_t>(index) / x.windows;
        put(slot, y.origin(i), x.origin(static_cast<int32_t>(index) - i * x.windows), count);
      }
      taken += all;
      // They have been read, before the next turn writes them.
      __syncthreads();
    }
    return taken < select.n ? taken : select.n;
  }
};

}  // namespace c2f::cuda
