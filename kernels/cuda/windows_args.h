// Arguments of the kernel behind count_windows and select_windows.
#pragma once

#include "cell_counts_args.h"

namespace c2f::cuda {

// From bins to counts. Rows of tiles are grouped into bands; the last block of a band to finish
// adds its bins up along x, and the last band of a row of windows adds these up along y. Small
// images are one band: one block does it all.
struct WindowSums {
  int32_t band_tiles;  // rows of tiles in a band: all of them, or one
  int32_t bands;
  int32_t* across;  // [B, y.bins, x.windows], scratch
  int32_t* counts;  // [B, y.windows, x.windows]
  // [B, bands + y.windows + 1]: of bands, of rows, of the image; zero before and after a launch.
  uint32_t* tickets;
};

// Where an image's windows are few, one warp selects in shared memory: select_by_warp.cuh. A key's
// last bits are a window's place, row << column_bits | column; the others its gain. The warp reads
// so many keys a turn.
constexpr int32_t kPlaceBits = 10, kPlacesPerTurn = 256;
constexpr uint32_t kPlaces = 1u << kPlaceBits;
// Most windows along an axis that overlap one, and most bins of one.
constexpr int32_t kMostBeside = 8, kMostSpan = 8;

struct WarpLayout {
  int32_t places;  // 0 where it is not one warp that selects; else whole turns
  int32_t column_bits;
  int32_t span;  // most bins of a window along an axis
  // Bytes from the start of shared memory, where keys are.
  uint32_t rows, columns, bins, across;
};

struct SelectArgs {
  bool wanted;  // select_windows; else only `counts` is written
  Strategy strategy;
  int32_t min_pixels;
  int64_t n;
  int32_t* row_best;  // [B, y.windows, 2]: largest gain of a row of windows, its column; scratch
  int32_t* origins;   // [B, n, 2]
  int32_t* counts;    // [B, n]
  int32_t* num;       // [B]
  WarpLayout warp;
  // What fits the dynamic shared memory of a block otherwise: bins, sums and gains of an image;
  // what the rounds of a selection hand from warp to warp.
  bool in_shared, rounds_in_shared;
};

struct WindowsArgs {
  CellCountsArgs cells;
  WindowSums sums;
  SelectArgs select;
};

}  // namespace c2f::cuda
