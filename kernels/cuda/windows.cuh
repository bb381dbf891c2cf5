// count_windows and select_windows in one launch. Every block counts the bins of one tile;
// whichever block finishes last goes on with what is then complete: sums over windows, and at the
// end the selection.
//
// Tiles are whole bins of up to 32 x 32 pixels, in large images up to 128 x 256 (coarse_plan.cpp).
// The coarse answer is read once, plus, where it is upsampled, a rim of one source pixel around
// each tile; labels are written once, if at all; bins, sums and gains stay in the L2. Blocks pass
// on what they have stored by tickets (last_ticket) and never wait for each other.
#pragma once

#include "cell_counts.cuh"
#include "select_by_warp.cuh"
#include "select_windows.cuh"

namespace c2f::cuda {

// One band: the last block of the image sums all of it. Like finish_band, called by a whole block;
// returns whether the selection is ready to run, the same in all threads.
__device__ __forceinline__ bool finish_small(const WindowsArgs& a, unsigned char* shared,
                                             BlockSelection* selection) {
  const BinAxis &y = a.cells.y, &x = a.cells.x;
  if (a.select.in_shared) {
    const int32_t* bins = selection->bins;
    selection->use(shared);
    for (int32_t i = threadIdx.x; i < y.bins * x.bins; i += blockDim.x) {
      selection->bins[i] = bins[i];
    }
    // The bins are there.
    __syncthreads();
  }
  sum_across(x, selection->bins, selection->lost, 0, y.bins);
  // The sums across are there.
  __syncthreads();
  for_cells(y.windows, x.windows, [&](int32_t i, int32_t j) {
    selection->gains[static_cast<int64_t>(i) * x.windows + j] =
        sum_down(y, x.windows, selection->lost, i, j);
  });
  if (!a.select.wanted) return false;
  // The counts are there.
  __syncthreads();
  for (int32_t i = warp_of_thread(); i < y.windows; i += blockDim.x / kWarpSize) {
    selection->find_row_best(i);
  }
  // The best of the rows are there.
  __syncthreads();
  return true;
}

// Several bands: sums what this block's band completes.
__device__ __forceinline__ bool finish_band(const WindowsArgs& a, int64_t b, int32_t band,
                                            const BlockSelection& selection) {
  const BinAxis &y = a.cells.y, &x = a.cells.x;
  const ImageSums image(a, b);
  const Bands bands(y, a.sums);
  sum_across(x, image.bins, image.across, bands.first_bin(band), bands.last_bin(band));
  const int32_t rows = complete_rows(a, image, band, [&](int32_t i) {
    if (a.select.wanted) selection.find_row_best(i);
  });
  // `rows` is the same in all threads.
  return a.select.wanted && rows != 0 && block_is_last(image.image_ticket, y.windows, rows);
}

template <class T, int N, CellKind kKind>
__global__ void C2F_BOUNDS(kCellThreads, 3) windows_kernel(const __grid_constant__ WindowsArgs a) {
  C2F_DYNAMIC_SHARED(shared);
  // The launch before may still use the same scratch and tickets, or be computing the logits.
  wait_for_previous();
  C2F_SHARED(TilePlace, place);
  find_tile(a.cells, &place);
  const BinTile tile(a.cells, place, shared);
  count_cells<T, N, kKind>(a.cells, tile, shared);
  const int64_t b = tile.b;
  const int32_t band = a.sums.bands == 1 ? 0 : tile.y.number;
  const uint32_t blocks =
      static_cast<uint32_t>(a.sums.band_tiles) * static_cast<uint32_t>(a.cells.x.tiles);
  // The block that finishes its band's last tile goes on, the others leave; the answer is the same
  // in all threads of a block.
  if (!block_is_last(ImageSums(a, b).band_tickets + band, blocks)) return;
  if (a.select.warp.places > 0) {
    const WarpSelection selection(a, b, shared);
    selection.begin(ImageSums(a, b).bins);
    if (warp_of_thread() == 0) selection.run();
    return;
  }
  BlockSelection selection(a, b);
  if (a.sums.bands == 1 ? finish_small(a, shared, &selection)
                        : finish_band(a, b, band, selection)) {
    selection.run(shared);
  }
}

}  // namespace c2f::cuda
