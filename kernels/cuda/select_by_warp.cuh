// Strategies "top" and "cover" where an image has few windows: by one warp, in shared memory.
//
// A round is a chain of dependent instructions, so its cost is their number. A window's key is its
// gain and, in the last bits, its place counted backwards: the largest key is the best window, of
// equal ones the first, and one __reduce_max_sync finds it. "cover" then takes the window's bins
// out of the windows that overlap it, at most 8 rows by 8 columns, with the lanes arranged as 4
// rows by 8 columns: a lane sums what the chosen window shares with one column of windows in one or
// two rows of bins, gets the sums of the lanes above and below it, and updates two windows of its
// column. Which bins these are depends only on the row and the column of the chosen window. Tables
// hold it as bits for any grid, so that there is neither a loop nor a barrier of the block.
//
// Estimates, as no GPU has run this: with windows of 128 at stride 32 in a 512 x 512 image a round
// is 110 to 135 instructions and 300 to 330 cycles on sm_90 (the stalls that the compiler has
// encoded, plus 29 cycles for a load from shared memory (arXiv:2402.13499), 23 for a shuffle and 26
// for a reduction), so that 32 rounds take some 6 us at 1.7 GHz. Where a flush edge gives windows 5
// bins it is 210 instructions, 460 cycles and 9 us.
#pragma once

#include "count_windows.cuh"
#include "window_choices.cuh"

namespace c2f::cuda {

// What a lane does once a window is chosen, as far as it follows from the window's row or from its
// column. Packed into words, so that two loads bring both.
struct alignas(8) Reach {
  // Bits 0 to 15: the place of the lane's first window; the other bits: of the first bin that it
  // adds up. Those of the row and of the column are to be added.
  uint32_t at;
  // Bits 0 to 7: which bins the chosen window shares with the lane's first window; bits 8 to 15:
  // with its second. Along y in the order in which the lane receives the sums: bit k is bin k ^
  // down. Bit 16: whether the chosen window has the lane's first bin; bit 17: its second one.
  uint32_t bits;

  __device__ __forceinline__ uint32_t has(int bit) const { return bits >> bit & 1u; }
  __device__ __forceinline__ uint32_t common(int window) const {
    return bits >> 8 * window & 0xffu;
  }
};

class WarpSelection {
 public:
  __device__ __forceinline__ WarpSelection(const WindowsArgs& a, int64_t b, unsigned char* shared)
      : y_(a.cells.y),
        x_(a.cells.x),
        select_(a.select),
        choices_(a, b),
        keys_(reinterpret_cast<uint32_t*>(shared)),
        rows_(reinterpret_cast<Reach*>(shared + a.select.warp.rows)),
        columns_(reinterpret_cast<Reach*>(shared + a.select.warp.columns)),
        bins_(reinterpret_cast<int32_t*>(shared + a.select.warp.bins)),
        across_(reinterpret_cast<int32_t*>(shared + a.select.warp.across)),
        bits_(a.select.warp.column_bits) {}

  // Makes the keys and tables of an image whose bins are in global memory. Called by the whole
  // block.
  __device__ __forceinline__ void begin(const int32_t* bins) const {
    const int32_t thread = static_cast<int32_t>(threadIdx.x);
    const int32_t threads = static_cast<int32_t>(blockDim.x);
    for (int32_t i = thread; i < y_.bins * x_.bins; i += threads) bins_[i] = bins[i];
    for (int32_t i = thread; i < select_.warp.places; i += threads) keys_[i] = 0;
    for (int32_t k = thread; k < y_.windows * kDown; k += threads) {
      rows_[k] = reach(y_, k / kDown, k % kDown, kDown, k % kDown, 1 << bits_, x_.bins);
    }
    for (int32_t k = thread; k < x_.windows * kAcross; k += threads) {
      columns_[k] = reach(x_, k / kAcross, k % kAcross, kAcross, 0, 1, 1);
    }
    // All threads reach this and the following barriers. The bins are there, the keys are empty.
    __syncthreads();
    sum_across(x_, bins_, across_, 0, y_.bins);
    // The sums across are there.
    __syncthreads();
    for_cells(y_.windows, x_.windows, [&](int32_t i, int32_t j) {
      const uint32_t place = static_cast<uint32_t>(i << bits_ | j);
      const uint32_t count = static_cast<uint32_t>(sum_down(y_, x_.windows, across_, i, j));
      keys_[place] = count << kPlaceBits | ~place % kPlaces;
    });
    // The keys are there.
    __syncthreads();
  }

  // Selects. Called by one whole warp, as is all that follows.
  __device__ __forceinline__ void run() const {
    const int64_t taken = select_.strategy == Strategy::kTop ? take<0>()
                          : select_.warp.span <= 4           ? take<4>()
                                                             : take<8>();
    choices_.finish(taken, lane_of_thread(), kWarpSize);
  }

 private:
  static constexpr int32_t kAcross = 8, kDown = kWarpSize / kAcross;  // lanes

  // The Reach of lane `lane` out of `lanes` along an axis; `down` is the lane's row, 0 along x.
  static __device__ __forceinline__ Reach reach(const BinAxis& axis, int32_t chosen, int32_t lane,
                                                int32_t lanes, int32_t down, int32_t key_step,
                                                int32_t bin_step) {
    int32_t first, last, from, to;
    axis.overlapping(chosen, &first, &last);
    axis.window_bins(chosen, &from, &to);
    Reach out{};
    out.at = static_cast<uint32_t>((first + lane) * key_step | (from + down) * bin_step << 16);
    for (int32_t h = 0; h < 2; ++h) {
      const int32_t bin = from + lane + h * lanes, window = first + lane + h * lanes;
      if (bin < to) out.bits |= 1u << (16 + h);
      if (window >= last) continue;
      int32_t left, right;
      axis.window_bins(window, &left, &right);
      left = max(left, from) - from, right = min(right, to) - from;
      for (int32_t k = 0; k < kMostSpan; ++k) {
        const int32_t at = k ^ down;
        if (left <= at && at < right) out.bits |= 1u << (8 * h + k);
      }
    }
    return out;
  }

  // Takes windows; returns how many. kSpan: most bins of a window along an axis, 0 for "top".
  template <int kSpan>
  __device__ __forceinline__ int64_t take() const {
    const int32_t lane = lane_of_thread(), across = lane % kAcross, down = lane / kAcross;
    const uint32_t least = static_cast<uint32_t>(select_.min_pixels);
    int64_t taken = 0;
    while (taken < select_.n) {
      // Every lane keeps one choice, and all are stored at once. The last round may take a window
      // with too few pixels: as gains descend, the selection then ends, and its changes do not
      // matter.
      const int32_t room = static_cast<int32_t>(min(select_.n - taken, int64_t{kWarpSize}));
      uint32_t kept = 0;
      int32_t round = 0;
      for (bool more = true; more; ++round) {
        const uint32_t best = largest_key();
        more = round + 1 < room && best >> kPlaceBits >= least;
        if (lane == round) kept = best;
        // All lanes are here, and at the barrier below, as `best` is the same in all of them. They
        // have read the keys, and see the bins that the round before emptied.
        __syncwarp();
        const int32_t place = place_of(best);
        if constexpr (kSpan == 0) {
          if (lane == 0) keys_[place] = best % kPlaces;
        } else {
          uncover<kSpan>(rows_[(place >> bits_) * kDown + down],
                         columns_[(place & ((1 << bits_) - 1)) * kAcross + across]);
        }
        // Keys are up to date.
        __syncwarp();
      }
      const bool enough = kept >> kPlaceBits >= least;
      const int32_t i = place_of(kept) >> bits_, j = place_of(kept) & ((1 << bits_) - 1);
      if (enough) choices_.put(taken + lane, i, j, static_cast<int32_t>(kept >> kPlaceBits));
      // All lanes are here.
      const int32_t found = __popc(__ballot_sync(kWarp, enough));
      taken += found;
      if (found < room) break;
    }
    return taken;
  }

  static __device__ __forceinline__ int32_t place_of(uint32_t key) {
    return static_cast<int32_t>(~key % kPlaces);
  }

  // The largest of a lane's keys in one turn.
  static __device__ __forceinline__ uint32_t largest_of(const uint32_t* keys) {
    const uint4 a = *reinterpret_cast<const uint4*>(keys);
    const uint4 c = *reinterpret_cast<const uint4*>(keys + kPlacesPerTurn / 2);
    return max(max(max(a.x, a.y), max(a.z, a.w)), max(max(c.x, c.y), max(c.z, c.w)));
  }

  __device__ __forceinline__ uint32_t largest_key() const {
    const uint32_t* from = keys_ + 4 * lane_of_thread();
    uint32_t best = largest_of(from);
#pragma unroll 1
    for (int32_t start = kPlacesPerTurn; start < select_.warp.places; start += kPlacesPerTurn) {
      best = max(best, largest_of(from + start));
    }
    // All lanes are here: the loop's bounds are the same in all of them.
    return __reduce_max_sync(kWarp, best);
  }

  // Takes the chosen window's pixels out of the bins and of the windows that overlap it.
  template <int kSpan>
  __device__ __forceinline__ void uncover(Reach row, Reach column) const {
    const uint32_t at = row.at + column.at;
    const int32_t across = lane_of_thread() % kAcross, below = kDown * x_.bins;
    uint32_t* keys = keys_ + at % (1u << 16);
    int32_t* bins = bins_ + (at >> 16);
    uint32_t key[2], lost[2] = {};
    bool overlaps[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      overlaps[h] = (row.common(h) != 0) & (column.common(0) != 0);
      key[h] = overlaps[h] ? keys[h * (kDown << bits_)] : 0;
    }
#pragma unroll
    for (int m = 0; m < kSpan / kDown; ++m) {
      uint32_t own = 0;
#pragma unroll
      for (int k = 0; k < kSpan; ++k) {
        const uint32_t count = bins[m * below + k];
        own += column.has(k) ? count : 0;
      }
#pragma unroll
      for (int k = 0; k < kDown; ++k) {
        // All lanes are here: the loops have constant bounds.
        const uint32_t its = k == 0 ? own : __shfl_xor_sync(kWarp, own, k * kAcross);
#pragma unroll
        for (int h = 0; h < 2; ++h) lost[h] += row.has(8 * h + m * kDown + k) ? its : 0;
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (overlaps[h]) keys[h * (kDown << bits_)] = key[h] - (lost[h] << kPlaceBits);
    }
    // All lanes have read the bins.
    __syncwarp();
#pragma unroll
    for (int m = 0; m < kSpan / kDown; ++m) {
      if (row.has(16 + m) & column.has(16)) bins[m * below + across] = 0;
    }
  }

  const BinAxis &y_, &x_;
  const SelectArgs& select_;
  Choices choices_;
  uint32_t* keys_;
  Reach *rows_, *columns_;
  int32_t *bins_, *across_;
  int32_t bits_;
};

}  // namespace c2f::cuda
