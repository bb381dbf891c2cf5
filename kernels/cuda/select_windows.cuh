// select_windows, once the counts of an image are there: by one block, since every choice of "top"
// and "cover" depends on the one before (by one warp if windows are few, select_by_warp.cuh). The
// block keeps the best window of every row of windows. A round takes the best of those, then
// updates what the choice changed: for "top" its row, for "cover" the gains of the windows that
// overlap it, and their rows. All in integers; ties go to the lower index.
//
// Estimates, as no GPU has run this: at 6000 x 6000 with windows of 128 at stride 32 (184 x 184) a
// round is a chain of 460 instructions and two barriers and waits twice for the L2, for bins and
// for gains (270 cycles): 2000 cycles on sm_90, added up as in select_by_warp.cuh, so that 32
// rounds take some 40 us at 1.7 GHz.
#pragma once

#include "count_windows.cuh"
#include "window_choices.cuh"

namespace c2f::cuda {

// A gain and where it is; of equal gains the best is in the lowest place.
struct alignas(8) Best {
  int32_t gain, place;
};

// The best of on_gain(p, load(p)) over places p < count, or place 0 if none is above 0; the same
// answer in all lanes. Called by a whole warp. A lane takes the places that equal its number modulo
// 32, with eight loads in flight at once.
template <class Load, class OnGain>
__device__ __forceinline__ Best best_of_warp(int32_t count, const Load& load,
                                             const OnGain& on_gain) {
  constexpr int32_t kLoads = 8;
  Best best{0, 0};
#pragma unroll 1
  for (int32_t start = lane_of_thread(); start < count; start += kLoads * kWarpSize) {
    int32_t gains[kLoads];
#pragma unroll
    for (int k = 0; k < kLoads; ++k) {
      const int32_t place = start + k * kWarpSize;
      gains[k] = place < count ? load(place) : 0;
    }
#pragma unroll
    for (int k = 0; k < kLoads; ++k) gains[k] = on_gain(start + k * kWarpSize, gains[k]);
    int32_t most = gains[0], first = kLoads - 1;
#pragma unroll
    for (int k = 1; k < kLoads; ++k) most = max(most, gains[k]);
#pragma unroll
    for (int k = kLoads - 2; k >= 0; --k) first = gains[k] == most ? k : first;
    if (most > best.gain) best = {most, start + first * kWarpSize};  // places ascend
  }
  // All lanes are here: they meet after the loop.
  const int32_t most = __reduce_max_sync(kWarp, best.gain);
  return {most, __reduce_min_sync(kWarp, best.gain == most ? best.place : 0x7fffffff)};
}

// One image's selection by a block, in global memory or, if the image is small, in shared memory.
// `lost` first holds sums across, later what columns of windows lose in a round.
struct BlockSelection {
  const BinAxis &y, &x;
  const SelectArgs& select;
  Choices choices;
  int32_t *bins, *lost, *gains;
  Best* row_best;

  __device__ __forceinline__ BlockSelection(const WindowsArgs& a, int64_t b)
      : y(a.cells.y), x(a.cells.x), select(a.select), choices(a, b) {
    const ImageSums image(a, b);
    bins = a.cells.bins + b * y.bins * x.bins;
    lost = image.across;
    gains = image.counts;
    row_best = reinterpret_cast<Best*>(select.row_best) + b * y.windows;
  }
  // Moves all of it to shared memory: the best of the rows, bins, sums across, gains.
  __device__ __forceinline__ void use(unsigned char* shared) {
    row_best = reinterpret_cast<Best*>(shared);
    bins = reinterpret_cast<int32_t*>(row_best + y.windows);
    lost = bins + y.bins * x.bins;
    gains = lost + y.bins * x.windows;
  }

  // Finds the best window of row i. Called by a whole warp. In the same pass a lane may subtract
  // `pixels` from the gain in a `column` that it reads anyway; -1 for none.
  __device__ __forceinline__ void find_row_best(int32_t i, int32_t column = -1,
                                                int32_t pixels = 0) const {
    int32_t* row = gains + static_cast<int64_t>(i) * x.windows;
    int32_t left = -1;
    const Best best = best_of_warp(
        x.windows, [&](int32_t j) { return row[j]; },
        [&](int32_t j, int32_t gain) {
          if (j == column) left = gain -= pixels;
          return gain;
        });
    if (left >= 0) row[column] = left;
    if (lane_of_thread() == 0) row_best[i] = best;
  }

  // Selects. Called by the whole block, as is all that follows. Every barrier is reached by all
  // threads: loops and conditions around them depend on values that are the same in all of them.
  __device__ __forceinline__ void run(unsigned char* shared) {
    if (select.strategy == Strategy::kAll) {
      finish(take_all());
      return;
    }
    if (select.rounds_in_shared) {
      Best* copy = reinterpret_cast<Best*>(shared);
      for (int32_t i = threadIdx.x; i < y.windows; i += blockDim.x) copy[i] = row_best[i];
      row_best = copy;
      lost = reinterpret_cast<int32_t*>(copy + y.windows);
      // The copy is there.
      __syncthreads();
    }
    finish(take_best(select.strategy == Strategy::kCover));
  }

 private:
  __device__ __forceinline__ void finish(int64_t taken) const {
    choices.finish(taken, static_cast<int32_t>(threadIdx.x), static_cast<int32_t>(blockDim.x));
  }

  __device__ __forceinline__ int64_t take_best(bool cover) const {
    for (int64_t taken = 0; taken < select.n; ++taken) {
      // Every warp finds the same, so that no barrier is needed to pass it on.
      const Best row = best_of_warp(
          y.windows, [&](int32_t i) { return row_best[i].gain; },
          [](int32_t, int32_t gain) { return gain; });
      if (row.gain < select.min_pixels) return taken;
      const int32_t i = row.place, j = row_best[i].place;
      // By the last warp, which has the least other work.
      if (threadIdx.x == blockDim.x - 1) choices.put(taken, i, j, row.gain);
      if (cover) {
        uncover(i, j);
      } else {
        // All warps have read the best of the rows before this row's changes.
        __syncthreads();
        if (warp_of_thread() == 0) find_row_best(i, j, row.gain);
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
    const int32_t warps = static_cast<int32_t>(blockDim.x) / kWarpSize;
    const int32_t warp = warp_of_thread(), lane = lane_of_thread(), columns = last - first;
    // What column of windows j loses in every row of bins.
    for (int32_t t = t0 + warp; t < t1; t += warps) {
      for (int32_t column = first + lane; column < last; column += kWarpSize) {
        int32_t left, right;
        x.window_bins(column, &left, &right);
        left = max(left, u0);
        lost[static_cast<int64_t>(t - t0) * columns + column - first] =
            sum_of(bins + static_cast<int64_t>(t) * x.bins + left, min(right, u1) - left, 1);
      }
    }
    // Losses are stored, bins read; and all warps have read the best of the rows.
    __syncthreads();
    for (int32_t row = first_row + warp; row < last_row; row += warps) {
      int32_t top, bottom;
      y.window_bins(row, &top, &bottom);
      top = max(top, t0);
      const int32_t* from = lost + static_cast<int64_t>(top - t0) * columns;
      const int32_t count = min(bottom, t1) - top;
      // The same columns as this lane takes in find_row_best, so no other lane touches them.
      int32_t column = first + ((lane - first) & (kWarpSize - 1)), pixels = 0;
      for (; column < last; column += kWarpSize) {
        pixels = sum_of(from + column - first, count, columns);
        if (column + kWarpSize >= last) break;  // find_row_best updates the last one
        gains[static_cast<int64_t>(row) * x.windows + column] -= pixels;
      }
      find_row_best(row, column < last ? column : -1, pixels);
    }
#pragma unroll 1
    for (int32_t t = t0 + warp; t < t1; t += warps) {
#pragma unroll 1
      for (int32_t u = u0 + lane; u < u1; u += kWarpSize) {
        bins[static_cast<int64_t>(t) * x.bins + u] = 0;
      }
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
        choices.put(slot, i, static_cast<int32_t>(index) - i * x.windows, count);
      }
      taken += all;
      // They have been read, before the next turn writes them.
      __syncthreads();
    }
    return taken < select.n ? taken : select.n;
  }
};

}  // namespace c2f::cuda
