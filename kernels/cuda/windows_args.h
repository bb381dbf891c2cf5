// Arguments of the kernel behind count_windows and select_windows.
#pragma once

#include "cell_counts_args.h"

namespace c2f::cuda {

// From bins to counts. Rows of tiles are grouped into bands. The last block of a band to finish
// adds up the band's bins along x; the last band under a row of windows adds up these sums along y.
// A small image is one band, and its last block does all of that.
struct WindowSums {
  int32_t band_tiles;  // rows of tiles in a band: all of them, or one
  int32_t bands;
  int32_t* across;  // [B, y.bins, x.windows], scratch
  int32_t* counts;  // [B, y.windows, x.windows]
  // [B, bands + y.windows + 1], for each band, each row of windows and the image; zero before and
  // after a launch.
  uint32_t* tickets;
};

// If an image has few windows, one warp selects in shared memory (select_by_warp.cuh). A key holds
// a window's gain and, in its last kPlaceBits, its place row << column_bits | column. The warp
// reads kPlacesPerTurn keys at a time.
constexpr int32_t kPlaceBits = 10, kPlacesPerTurn = 256;
constexpr uint32_t kPlaces = 1u << kPlaceBits;
// Most windows along an axis that overlap one, and most bins of one.
constexpr int32_t kMostBeside = 8, kMostSpan = 8;

struct WarpLayout {
  int32_t places;  // in whole turns; 0 if a whole block selects instead
  int32_t column_bits;
  int32_t span;  // most bins of a window along an axis
  // Offsets, in bytes, from the start of shared memory, which holds the keys.
  uint32_t rows, columns, bins, across;
};

struct SelectArgs {
  bool wanted;  // false for count_windows
  Strategy strategy;
  int32_t min_pixels;
  int64_t n;
  int32_t* row_best;  // [B, y.windows, 2]: largest gain of a row of windows, its column; scratch
  int32_t* origins;   // [B, n, 2]
  int32_t* counts;    // [B, n]
  int32_t* num;       // [B]
  WarpLayout warp;
  // If a whole block selects, what fits its dynamic shared memory: the bins, sums and gains of the
  // image, or else what warps exchange in each round.
  bool in_shared, rounds_in_shared;
};

struct WindowsArgs {
  CellCountsArgs cells;
  WindowSums sums;
  SelectArgs select;
};

}  // namespace c2f::cuda
