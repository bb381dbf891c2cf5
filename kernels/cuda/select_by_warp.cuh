// Strategies "top" and "cover" where an image has few windows: by one warp, whose lanes need no
// barrier of the block, in shared memory.
//
// A window's key is its gain and, in the last bits, its place counted backwards: the largest key is
// the best window, of equal ones the first, and one __reduce_max_sync finds it. "cover" then takes
// the chosen window's bins out of the windows that overlap it, as 4 rows by 8 columns of lanes: a
// lane sums what the chosen window has in common with a column of windows in one row of bins, gets
// from the three lanes above and below what they have summed, and brings two windows of its column
// up to date. At window = 4 strides, where 7 x 7 windows overlap one of 4 x 4 bins, that is one
// pass; other grids take more, by the same loops.
#pragma once

#include "window_choices.cuh"

namespace c2f::cuda {

struct WarpSelection {
  const Choices& choices;
  uint32_t* keys;  // [places_in_shared], those past the last window 0
  int32_t* bins;   // [y.bins, x.bins]

  static __device__ __forceinline__ uint32_t make_key(int32_t count, int32_t place) {
    return static_cast<uint32_t>(count) << kPlaceBits | ~static_cast<uint32_t>(place) % kPlaces;
  }

  // Called by all lanes of one warp; returns how many windows are taken.
  __device__ __forceinline__ int64_t run() const {
    const SelectArgs& select = choices.select;
    const int32_t lane = lane_of_thread(), columns = choices.x.windows;
    const uint32_t least = static_cast<uint32_t>(select.min_pixels);
    // place / columns == place * by_columns >> 2 * kPlaceBits: by_columns exceeds the quotient it
    // stands for by less than 1, so the product is too large by less than kPlaces, which is less
    // than what a place's remainder leaves to the next quotient.
    const uint32_t by_columns = ((1u << 2 * kPlaceBits) + columns - 1) / columns;
    const auto row_of = [&](uint32_t key) {
      return static_cast<int32_t>(~key % kPlaces * by_columns >> 2 * kPlaceBits);
    };
    const auto column_of = [&](uint32_t key, int32_t row) {
      return static_cast<int32_t>(~key % kPlaces) - row * columns;
    };
    for (int64_t taken = 0; taken < select.n; taken += kWarpSize) {
      // Every lane keeps one choice, and all are stored at once.
      const int32_t room = static_cast<int32_t>(min(select.n - taken, int64_t{kWarpSize}));
      uint32_t kept = 0;
      int32_t found = 0;
      for (; found < room; ++found) {
        const uint32_t best = largest_key();
        if (best >> kPlaceBits < least) break;
        if (lane == found) kept = best;
        // All lanes, as the answer is the same in all of them. They have read the keys, and what
        // the round before has emptied is seen.
        __syncwarp();
        const int32_t i = row_of(best), j = column_of(best, i);
        if (select.strategy == Strategy::kCover) {
          uncover(i, j);
        } else if (lane == 0) {
          keys[i * columns + j] = 0;
        }
        // Keys are up to date.
        __syncwarp();
      }
      const int32_t i = row_of(kept);
      if (lane < found) {
        choices.put(taken + lane, i, column_of(kept, i), static_cast<int32_t>(kept >> kPlaceBits));
      }
      if (found < room) return taken + found;
    }
    return select.n;
  }

 private:
  static constexpr int32_t kAcross = 8, kDown = kWarpSize / kAcross;  // lanes

  __device__ __forceinline__ uint32_t largest_key() const {
    const int32_t end = places_in_shared(choices.y.windows * choices.x.windows);
    uint32_t best = 0;
    for (int32_t start = 0; start < end; start += kPlacesPerTurn) {
      const uint32_t* from = keys + start + 4 * lane_of_thread();
      const uint4 a = *reinterpret_cast<const uint4*>(from);
      const uint4 c = *reinterpret_cast<const uint4*>(from + kPlacesPerTurn / 2);
      best = max(best, max(max(max(a.x, a.y), max(a.z, a.w)), max(max(c.x, c.y), max(c.z, c.w))));
    }
    // All lanes: the loop's bounds are the same in all of them.
    return __reduce_max_sync(kWarp, best);
  }

  // Takes the pixels of window (i, j) out of the bins and of the windows that overlap it. The
  // bounds of all loops are the same in all lanes.
  __device__ __forceinline__ void uncover(int32_t i, int32_t j) const {
    const BinAxis &y = choices.y, &x = choices.x;
    int32_t t0, t1, u0, u1, first_row, last_row, first, last;
    y.window_bins(i, &t0, &t1);
    x.window_bins(j, &u0, &u1);
    y.overlapping(i, &first_row, &last_row);
    x.overlapping(j, &first, &last);
    const int32_t across = lane_of_thread() % kAcross, down = lane_of_thread() / kAcross;
    for (int32_t from = first; from < last; from += kAcross) {
      const int32_t column = from + across;
      int32_t left, right;
      x.window_bins(column, &left, &right);
      left = max(left, u0);
      const int32_t width = column < last ? max(min(right, u1) - left, 0) : 0;
      for (int32_t row = first_row + down; row - down < last_row; row += 2 * kDown) {
        uint32_t key[2] = {}, lost[2] = {};
        int32_t top[2], bottom[2];
        uint32_t* at[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          y.window_bins(row + h * kDown, &top[h], &bottom[h]);
          at[h] = column < last && row + h * kDown < last_row
                      ? keys + (row + h * kDown) * x.windows + column
                      : nullptr;
          if (at[h] != nullptr) key[h] = *at[h];
        }
        for (int32_t t = t0; t < t1; t += kDown) {
          const int32_t own = sum(t + down, u0, u1, left, t + down < t1 ? width : 0);
#pragma unroll
          for (int k = 0; k < kDown; ++k) {
            // All lanes: see above.
            const int32_t its = k == 0 ? own : __shfl_xor_sync(kWarp, own, k * kAcross);
            const int32_t its_t = t + (down ^ k);
#pragma unroll
            for (int h = 0; h < 2; ++h) {
              lost[h] += top[h] <= its_t && its_t < bottom[h] ? its : 0;
            }
          }
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          if (at[h] != nullptr) *at[h] = key[h] - (lost[h] << kPlaceBits);
        }
      }
    }
    // All lanes have read the bins.
    __syncwarp();
    for (int32_t t = t0 + down; t - down < t1; t += kDown) {
      for (int32_t u = u0 + across; u - across < u1; u += kAcross) {
        if (t < t1 && u < u1) bins[t * x.bins + u] = 0;
      }
    }
  }

  // Bins [left, left + width) of row t, which lie within [u0, u1).
  __device__ __forceinline__ int32_t sum(int32_t t, int32_t u0, int32_t u1, int32_t left,
                                         int32_t width) const {
    int32_t sum = 0;
    for (int32_t u = u0; u < u1; u += 4) {
      const int32_t* from = bins + t * choices.x.bins + u;
      int32_t four[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        four[k] = static_cast<uint32_t>(u + k - left) < static_cast<uint32_t>(width) ? from[k] : 0;
      }
      sum += (four[0] + four[1]) + (four[2] + four[3]);
    }
    return sum;
  }
};

}  // namespace c2f::cuda
