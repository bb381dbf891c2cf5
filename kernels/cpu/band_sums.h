// Sums of small-class pixels over one row of cells, collected band of pixel rows by band.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "bytes.h"
#include "scratch.h"
#include "window_cells.h"

namespace c2f::cpu {

// Counts the small-class pixels of pixel rows that belong to one row of cells. Pixels of agreeing
// coarse cells are counted through their coarse column, once per column and group of rows; the
// others one by one.
class BandSums {
 public:
  // Sums are bytes: add at most this many rows before a flush.
  static constexpr int64_t kMaxRows = 255;

  BandSums(int64_t coarse_columns, int64_t W, const CellAxis& cells)
      : coarse_(static_cast<size_t>(coarse_columns + ByteExpander::kReadPadding)),
        members_(static_cast<size_t>(coarse_columns)),
        pixels_(static_cast<size_t>(W + 8)),
        total_(static_cast<size_t>(W)),
        coarse_columns_(coarse_columns),
        W_(W),
        cells_(&cells) {}

  // Adds `rows` rows whose coarse column j has label labels[j], but for columns where mixed[j] is
  // 255.
  void add_columns(const ClassSet& set, const uint8_t* labels, const uint8_t* mixed, int64_t rows) {
    set.members(labels, coarse_columns_, members_.data());
    add_members(members_.data(), mixed, rows);
  }

  void add_members(const uint8_t* members, const uint8_t* mixed, int64_t rows) {
    // Locals, since a store to a byte may alias the members of this object.
    uint8_t* sums = coarse_.data();
    const int64_t columns = coarse_columns_;
    const uint8_t weight = static_cast<uint8_t>(rows);
    if (mixed == nullptr) {
      for (int64_t j = 0; j < columns; ++j) {
        sums[j] = static_cast<uint8_t>(sums[j] + (members[j] != 0 ? weight : 0));
      }
      return;
    }
    for (int64_t j = 0; j < columns; ++j) {
      // Bitwise &: without a branch the loop is vectorised.
      const bool counted = (members[j] != 0) & (mixed[j] == 0);
      sums[j] = static_cast<uint8_t>(sums[j] + (counted ? weight : 0));
    }
  }

  // Adds pixels x .. x + 7 of `rows` <= 4 rows, those whose byte in `lanes` is 255.
  void add_pixels(const ClassSet& set, int64_t x, int rows, uint64_t lanes, const uint8_t* labels) {
    uint8_t members[32];
    set.members32(labels, members);
    uint64_t sum = 0;
    for (int r = 0; r < rows; ++r) {
      uint64_t eight;
      std::memcpy(&eight, members + 8 * r, 8);
      sum += eight;
    }
    uint64_t sums;
    std::memcpy(&sums, pixels_.data() + x, 8);
    sums += sum & lanes;  // no byte carries: each stays at 255 or below
    std::memcpy(pixels_.data() + x, &sums, 8);
    any_pixels_ = true;
  }

  // Adds the sums to a row of cells and zeroes them. `shared`: other workers add to this row, too.
  void flush(const ByteExpander& expand, uint32_t* cell_row, bool shared) {
    expand(coarse_.data(), total_.data());
    std::fill(coarse_.begin(), coarse_.end(), uint8_t{0});
    if (any_pixels_) {
      uint8_t* total = total_.data();
      const uint8_t* pixels = pixels_.data();
      const int64_t W = W_;
      for (int64_t x = 0; x < W; ++x) total[x] = static_cast<uint8_t>(total[x] + pixels[x]);
      std::fill(pixels_.begin(), pixels_.end(), uint8_t{0});
      any_pixels_ = false;
    }
    const Scratch<int32_t>& edge = cells_->edge;
    for (size_t e = 0; e + 1 < edge.size(); ++e) {
      const uint32_t sum =
          static_cast<uint32_t>(sum_bytes(total_.data() + edge[e], edge[e + 1] - edge[e]));
      if (shared) {
        __atomic_fetch_add(&cell_row[e], sum, __ATOMIC_RELAXED);
      } else {
        cell_row[e] += sum;
      }
    }
  }

 private:
  Scratch<uint8_t> coarse_;   // sums per coarse column
  Scratch<uint8_t> members_;  // scratch
  Scratch<uint8_t> pixels_;   // sums per output column
  Scratch<uint8_t> total_;    // scratch
  bool any_pixels_ = false;
  int64_t coarse_columns_, W_;
  const CellAxis* cells_;
};

}  // namespace c2f::cpu
