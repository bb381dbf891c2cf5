// Argmax labels of bilinearly upsampled logits without upsampling most of them.
//
// A cell is the set of output pixels with the same source rows and columns (i0, i1 on both axes).
// Where the four source pixels at its corners have the same first argmax c, with finite values, all
// its pixels have label c: every corner has value_c >= value_d for any other class d, weights are
// not negative, and every rounding step (multiply, add, fused or not) is monotone, so the
// interpolated value of c is at least that of d. Should both round to the same number the label is
// c, where evaluation would give the lower of c and d: the only difference, at ties that rounding
// makes. Only the remaining, mixed cells are evaluated.
#pragma once

#include <cstdint>
#include <cstring>

#include "argmax.h"
#include "bytes.h"
#include "logits.h"
#include "scratch.h"
#include "upsample.h"
#include "vec.h"

namespace c2f::cpu {

// What the workers of one call share.
struct CoarseLabelTables {
  CoarseLabelTables(const Seg& seg, int64_t H, int64_t W)
      : taps(seg.h, seg.w, H, W), expand_columns(taps.x.i0.data(), W) {}
  UpsampleTaps taps;
  ByteExpander expand_columns;
};

// One per worker.
class CoarseLabels {
 public:
  CoarseLabels(const Seg& seg, const CoarseLabelTables& tables)
      : rows_(seg), tables_(&tables), w_(seg.w), N_(seg.N), W_(tables.taps.x.out) {
    const size_t padded = static_cast<size_t>(seg.w + kPadding);
    for (int slot = 0; slot < 2; ++slot) {
      labels_[slot].resize(padded);
      unsafe_[slot].resize(padded);
    }
    mixed_.resize(padded);
    blocks_.reserve(
        static_cast<size_t>(W_ / 8 + 2));  // enough: all blocks but the last are disjoint
  }

  // Visits output rows [y0, y1) of image b from top to bottom, in groups [ya, yb) that share their
  // source rows. For each group it calls
  //   on_cells(ya, yb, labels, mixed)   once: pixels of these rows in columns x.first[j] ..
  //       x.first[j + 1] - 1 have label labels[j], unless mixed[j] is 255 (it is 0 elsewhere);
  //       `mixed` is null if no cell is mixed. Both are padded for ByteExpander.
  //   on_pixels(y, rows, x, lanes, labels)   then, for the mixed cells: labels[8 * r + j] is the
  //       label of pixel (y + r, x + j) where byte j of `lanes` is 255 (it is 0 elsewhere). rows is
  //       1..4; labels always has 32 bytes. x + 8 <= W unless W < 8.
  template <class OnCells, class OnPixels>
  void visit(int64_t b, int64_t y0, int64_t y1, const OnCells& on_cells,
             const OnPixels& on_pixels) {
    const AxisTaps& taps = tables_->taps.y;
    for (int64_t ya = y0; ya < y1;) {
      const int64_t i = taps.i0[static_cast<size_t>(ya)];
      const int64_t group_end = taps.first[static_cast<size_t>(i + 1)];
      const int64_t yb = group_end < y1 ? group_end : y1;
      prepare(b, i);
      on_cells(ya, yb, labels_[i & 1].data(), blocks_.empty() ? nullptr : mixed_.data());
      if (!blocks_.empty()) evaluate_mixed(b, ya, yb, on_pixels);
      ya = yb;
    }
  }

  // Labels of rows [y0, y1); out is row y0.
  void write_rows(int64_t b, int64_t y0, int64_t y1, uint8_t* out, int64_t row_stride) {
    visit(
        b, y0, y1,
        [&](int64_t ya, int64_t yb, const uint8_t* labels, const uint8_t*) {
          write_cells(labels, yb - ya, out + (ya - y0) * row_stride, row_stride);
        },
        [&](int64_t y, int rows, int64_t x, uint64_t lanes, const uint8_t* labels) {
          write_pixels(labels, rows, lanes, W_ - x, out + (y - y0) * row_stride + x, row_stride);
        });
  }

  // The two steps of write_rows, for visitors that do more than write labels.
  void write_cells(const uint8_t* labels, int64_t rows, uint8_t* out, int64_t row_stride) const {
    tables_->expand_columns(labels, out);
    for (int64_t r = 1; r < rows; ++r) {
      std::memcpy(out + r * row_stride, out, static_cast<size_t>(W_));
    }
  }
  static void write_pixels(const uint8_t* labels, int rows, uint64_t lanes, int64_t columns_left,
                           uint8_t* out, int64_t row_stride) {
    if (columns_left >= 8) {
      for (int r = 0; r < rows; ++r) blend_bytes(labels + 8 * r, lanes, out + r * row_stride, 8);
    } else {
      const size_t bytes = static_cast<size_t>(columns_left);
      for (int r = 0; r < rows; ++r)
        blend_bytes(labels + 8 * r, lanes, out + r * row_stride, bytes);
    }
  }

 private:
  static constexpr int64_t kPadding = 32;

  // 8 columns from x on; byte j of `lanes` is 255 where column x + j is to be evaluated here.
  struct Block {
    int32_t x;
    uint64_t lanes;
  };

  // Inlined, so that `bytes` is the constant 8 in nearly all calls.
  static inline void blend_bytes(const uint8_t* fresh8, uint64_t lanes, uint8_t* out,
                                 size_t bytes) {
    uint64_t fresh, old = 0;
    std::memcpy(&fresh, fresh8, 8);
    std::memcpy(&old, out, bytes);
    old = (old & ~lanes) | (fresh & lanes);
    std::memcpy(out, &old, bytes);
  }

  // The second source row of the output rows whose first one is i.
  int64_t lower_row(int64_t i) const {
    const AxisTaps& y = tables_->taps.y;
    const size_t at = static_cast<size_t>(y.first[static_cast<size_t>(i)]);
    return y.i1[at];
  }

  // Labels source row i, unless its slot holds it already.
  void label_source_row(int64_t b, int64_t i) {
    const int slot = static_cast<int>(i & 1);
    if (held_b_[slot] == b && held_i_[slot] == i) return;
    uint8_t* labels = labels_[slot].data();
    uint8_t* unsafe = unsafe_[slot].data();
    any_unsafe_[slot] = argmax_row(rows_.row(b, i), N_, w_, labels, unsafe);
    labels[w_] = labels[w_ - 1];
    if (any_unsafe_[slot]) unsafe[w_] = unsafe[w_ - 1];
    held_b_[slot] = b;
    held_i_[slot] = i;
  }

  void prepare(int64_t b, int64_t i) {
    if (prepared_b_ == b && prepared_i_ == i) return;
    prepared_b_ = b;
    prepared_i_ = i;
    blocks_.clear();
    label_source_row(b, i);
    if (tables_->taps.identity) return;
    const int64_t below = lower_row(i);
    label_source_row(b, below);
    const uint8_t* upper = labels_[i & 1].data();
    const uint8_t* lower = labels_[below & 1].data();
    uint8_t* mixed = mixed_.data();
    const int64_t w = w_;  // a local, since a store to a byte may alias the member
    for (int64_t j = 0; j < w; ++j) {
      const bool same =
          (upper[j] == upper[j + 1]) & (upper[j] == lower[j]) & (upper[j] == lower[j + 1]);
      mixed[j] = same ? 0 : 255;
    }
    for (const int64_t row : {i, below}) {
      if (!any_unsafe_[row & 1]) continue;
      const uint8_t* unsafe = unsafe_[row & 1].data();
      for (int64_t j = 0; j < w; ++j) mixed[j] |= unsafe[j] | unsafe[j + 1];
    }
    std::memset(mixed + w, 0, 8);
    list_blocks();
  }

  // Covers the columns of mixed cells with blocks, greedily from left to right.
  void list_blocks() {
    const int32_t* first = tables_->taps.x.first.data();
    const int32_t last_x = static_cast<int32_t>(W_ > 8 ? W_ - 8 : 0);
    for (int64_t j = 0; j < w_;) {
      uint64_t eight;
      std::memcpy(&eight, mixed_.data() + j, 8);
      if (eight == 0) {
        j += 8;
        continue;
      }
      if (mixed_[static_cast<size_t>(j)] == 0) {
        ++j;
        continue;
      }
      int64_t end = j + 1;
      while (end < w_ && mixed_[static_cast<size_t>(end)] != 0) ++end;
      int32_t x = first[j];
      const int32_t x_end = first[end];
      if (!blocks_.empty() && blocks_.back().x + 8 > x) x = add_lanes(blocks_.back(), x, x_end);
      while (x < x_end) {
        blocks_.push_back({x < last_x ? x : last_x, 0});
        x = add_lanes(blocks_.back(), x, x_end);
      }
      j = end;
    }
  }

  // Marks columns [x, x_end) as far as the block reaches; returns the first one not reached.
  static int32_t add_lanes(Block& block, int32_t x, int32_t x_end) {
    const int32_t reach = block.x + 8 < x_end ? block.x + 8 : x_end;
    for (int32_t column = x; column < reach; ++column) {
      block.lanes |= uint64_t{255} << (8 * (column - block.x));
    }
    return x > reach ? x : reach;
  }

  template <class OnPixels>
  void evaluate_mixed(int64_t b, int64_t ya, int64_t yb, const OnPixels& on_pixels) {
    const LogitRow top = rows_.row(b, prepared_i_);
    const LogitRow bottom = rows_.row(b, lower_row(prepared_i_));
    for (int64_t y = ya; y < yb; y += 4) {
      const int rows = static_cast<int>(yb - y < 4 ? yb - y : 4);
      switch (rows) {
        case 1:
          evaluate<1>(top, bottom, y, on_pixels);
          break;
        case 2:
          evaluate<2>(top, bottom, y, on_pixels);
          break;
        case 3:
          evaluate<3>(top, bottom, y, on_pixels);
          break;
        default:
          evaluate<4>(top, bottom, y, on_pixels);
      }
    }
  }

  // Horizontal taps first, as F.interpolate orders them, and once for the R rows that share them.
  template <int R, class OnPixels>
  void evaluate(const LogitRow& top, const LogitRow& bottom, int64_t y,
                const OnPixels& on_pixels) const {
    const UpsampleTaps& taps = tables_->taps;
    Vec8f w0[R], w1[R];
    for (int r = 0; r < R; ++r) {
      const float weight = taps.y.w1[static_cast<size_t>(y + r)];
      w0[r] = set8(1.0f - weight);
      w1[r] = set8(weight);
    }
    for (const Block& block : blocks_) {
      const ColumnTaps8 columns(taps.x, block.x);
      RunningArgmax<R> running;
      Vec8i cls = set8(int32_t{0});
      for (int64_t c = 0; c < N_; ++c) {
        const Vec8f above = columns(top.plane(c));
        const Vec8f below = columns(bottom.plane(c));
        for (int r = 0; r < R; ++r) running.offer(r, fma(below, w1[r], above * w0[r]), cls);
        cls = cls + set8(int32_t{1});
      }
      uint8_t labels[32] = {};
      for (int r = 0; r < R; ++r) store8_bytes(labels + 8 * r, running.label[r]);
      on_pixels(y, R, block.x, block.lanes, labels);
    }
  }

  LogitRows rows_;
  const CoarseLabelTables* tables_;
  int64_t w_, N_, W_;
  Scratch<uint8_t> labels_[2], unsafe_[2];  // of two source rows, each in slot row & 1
  bool any_unsafe_[2] = {false, false};
  int64_t held_b_[2] = {-1, -1};
  int64_t held_i_[2] = {-1, -1};
  Scratch<uint8_t> mixed_;
  Scratch<Block> blocks_;  // of the prepared cell row
  int64_t prepared_b_ = -1;
  int64_t prepared_i_ = -1;
};

}  // namespace c2f::cpu
