// Sums over windows from sums over bins, by one block: along x, then along y.
#pragma once

#include "gpu.cuh"
#include "window_bins.h"

namespace c2f::cuda {

// across[t, j]: the bins of row t that column of windows j is made of.
__device__ __forceinline__ void sum_across(const BinAxis& x, const int32_t* bins, int32_t* across,
                                           int32_t rows) {
  const int64_t count = static_cast<int64_t>(rows) * x.windows;
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) {
    const int32_t t = static_cast<int32_t>(i / x.windows);
    const int32_t j = static_cast<int32_t>(i - static_cast<int64_t>(t) * x.windows);
    int32_t first, last;
    x.window_bins(j, &first, &last);
    const int32_t* row = bins + static_cast<int64_t>(t) * x.bins;
    int32_t sum = 0;
#pragma unroll 4
    for (int32_t u = first; u < last; ++u) sum += row[u];
    across[i] = sum;
  }
}

// counts[i, j]: the rows of `across` that row of windows i is made of.
__device__ __forceinline__ void sum_down(const BinAxis& y, int32_t columns, const int32_t* across,
                                         int32_t* counts) {
  const int64_t count = static_cast<int64_t>(y.windows) * columns;
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) {
    const int32_t row = static_cast<int32_t>(i / columns);
    const int64_t j = i - static_cast<int64_t>(row) * columns;
    int32_t first, last;
    y.window_bins(row, &first, &last);
    int32_t sum = 0;
#pragma unroll 4
    for (int32_t t = first; t < last; ++t) sum += across[static_cast<int64_t>(t) * columns + j];
    counts[i] = sum;
  }
}

}  // namespace c2f::cuda
