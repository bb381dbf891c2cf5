// Small-class pixels per cell of a window grid, which count_windows and select_windows share.
// Threads take strips of rows; no temporary is larger than a few rows per worker.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "../common/params.h"
#include "band_sums.h"
#include "bytes.h"
#include "coarse_labels.h"
#include "label_rows.h"
#include "parallel.h"
#include "scratch.h"
#include "window_cells.h"

namespace c2f::cpu {

class CellSums {
 public:
  // `labels` as in CountWindowsParams: [B, H, W] labels to write as well, or nullptr.
  CellSums(const Seg& seg, const ClassTable& classes, int64_t H, int64_t W, const CellGrid& grid,
           uint8_t* labels, int threads)
      : seg_(seg), set_(classes), H_(H), W_(W), grid_(&grid), labels_(labels), tables_(seg, H, W) {
    split_rows(threads);
    const int64_t tasks = seg.B * strips();
    threads_ = worker_count(tasks, threads);
    for (int i = 0; i < threads_; ++i) {
      workers_.push_back(std::make_unique<Worker>(seg, tables_, W, grid.x));
    }
  }

  // sums: [B, cells_y, cells_x], zero on entry.
  void run(uint32_t* sums) {
    parallel_for(seg_.B * strips(), threads_, [&](int64_t task, int worker) {
      const int64_t b = task / strips();
      run_strip(*workers_[static_cast<size_t>(worker)], b, task % strips(),
                sums + b * grid_->cells());
    });
  }

 private:
  struct Worker {
    Worker(const Seg& seg, const CoarseLabelTables& tables, int64_t W, const CellAxis& columns)
        : band(seg.w, W, columns), members(static_cast<size_t>(seg.is_logits ? 0 : W)) {
      if (seg.is_logits) {
        coarse = std::make_unique<CoarseLabels>(seg, tables);
      } else {
        map = std::make_unique<LabelRows>(seg);
      }
    }
    BandSums band;
    std::unique_ptr<CoarseLabels> coarse;
    std::unique_ptr<LabelRows> map;
    Scratch<uint8_t> members;
  };

  int64_t strips() const { return static_cast<int64_t>(strip_.size()) - 1; }

  // Strips start where a source row does, so that no two workers label the same row of coarse
  // cells. Each strip labels one source row more than it owns, hence the least height. The bound on
  // pixels lets a call end early in time (parallel_for).
  void split_rows(int threads) {
    constexpr int64_t kLeastSourceRows = 16;
    constexpr int64_t kStripsPerThread = 4;
    constexpr int64_t kMostPixels = int64_t{1} << 24;
    const int64_t fair =
        threads <= 1 || seg_.B == 0 ? 1 : (threads * kStripsPerThread + seg_.B - 1) / seg_.B;
    const int64_t wanted = std::max(fair, H_ * W_ / kMostPixels);
    const int64_t strips = std::max<int64_t>(1, std::min(wanted, seg_.h / kLeastSourceRows));
    strip_.push_back(0);
    for (int64_t i = 1; i < strips; ++i) {
      strip_.push_back(tables_.taps.y.first[static_cast<size_t>(i * seg_.h / strips)]);
    }
    strip_.push_back(static_cast<int32_t>(H_));
  }

  void run_strip(Worker& worker, int64_t b, int64_t strip, uint32_t* sums) {
    const int64_t begin = strip_[static_cast<size_t>(strip)];
    const int64_t end = strip_[static_cast<size_t>(strip + 1)];
    const Scratch<int32_t>& edge = grid_->y.edge;
    // The row of cells that holds the strip's first row; past the last one rows are in no window.
    int64_t e = std::upper_bound(edge.begin(), edge.end(), begin) - edge.begin() - 1;
    for (int64_t y = begin; y < end;) {
      if (e >= grid_->y.cells()) {
        if (labels_ != nullptr) add_rows(worker, b, y, end, false);
        return;
      }
      const int64_t top = edge[static_cast<size_t>(e)];
      const int64_t bottom = edge[static_cast<size_t>(e + 1)];
      const int64_t band_end = std::min({bottom, end, y + BandSums::kMaxRows});
      add_rows(worker, b, y, band_end, true);
      worker.band.flush(tables_.expand_columns, sums + e * grid_->x.cells(),
                        top < begin || bottom > end);
      y = band_end;
      if (y == bottom) ++e;
    }
  }

  // Adds rows [y0, y1) to the worker's band if `count`, and writes their labels if they are wanted.
  void add_rows(Worker& worker, int64_t b, int64_t y0, int64_t y1, bool count) {
    BandSums& band = worker.band;
    if (worker.map != nullptr) {
      for (int64_t y = y0; y < y1; ++y) {
        worker.map->row(set_, b, y, worker.members.data(), label_row(b, y));
        if (count) band.add_members(worker.members.data(), nullptr, 1);
      }
      return;
    }
    CoarseLabels& coarse = *worker.coarse;
    coarse.visit(
        b, y0, y1,
        [&](int64_t ya, int64_t yb, const uint8_t* labels, const uint8_t* mixed) {
          if (count) band.add_columns(set_, labels, mixed, yb - ya);
          if (labels_ != nullptr) coarse.write_cells(labels, yb - ya, label_row(b, ya), W_);
        },
        [&](int64_t y, int rows, int64_t x, uint64_t lanes, const uint8_t* labels) {
          if (count) band.add_pixels(set_, x, rows, lanes, labels);
          if (labels_ != nullptr) {
            CoarseLabels::write_pixels(labels, rows, lanes, W_ - x, label_row(b, y) + x, W_);
          }
        });
  }

  uint8_t* label_row(int64_t b, int64_t y) const {
    return labels_ != nullptr ? labels_ + (b * H_ + y) * W_ : nullptr;
  }

  Seg seg_;
  ClassSet set_;
  int64_t H_, W_;
  const CellGrid* grid_;
  uint8_t* labels_;
  CoarseLabelTables tables_;
  Scratch<int32_t> strip_;  // first rows, then H
  int threads_ = 1;
  Scratch<std::unique_ptr<Worker>> workers_;
};

}  // namespace c2f::cpu
