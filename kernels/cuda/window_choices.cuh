// Writes the windows chosen for one image.
#pragma once

#include "gpu.cuh"
#include "windows_args.h"

namespace c2f::cuda {

struct Choices {
  const BinAxis &y, &x;
  const SelectArgs& select;
  int64_t b;

  __device__ __forceinline__ Choices(const WindowsArgs& a, int64_t b_)
      : y(a.cells.y), x(a.cells.x), select(a.select), b(b_) {}

  __device__ __forceinline__ void put(int64_t slot, int32_t i, int32_t j, int32_t count) const {
    store(slot, y.origin(i), x.origin(j), count);
  }
  // Writes how many were taken and clears the other slots; the work of `threads` threads.
  __device__ __forceinline__ void finish(int64_t taken, int32_t thread, int32_t threads) const {
    if (thread == 0) select.num[b] = static_cast<int32_t>(taken);
    for (int64_t slot = taken + thread; slot < select.n; slot += threads) store(slot, 0, 0, 0);
  }

 private:
  __device__ __forceinline__ void store(int64_t slot, int32_t py, int32_t px, int32_t count) const {
    const int64_t at = b * select.n + slot;
    select.origins[2 * at] = py;
    select.origins[2 * at + 1] = px;
    select.counts[at] = count;
  }
};

}  // namespace c2f::cuda
