// select_windows: up to n windows per image by count ("top"), by greedy coverage ("cover") or in
// raster order ("all").
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>

#include "../common/params.h"
#include "../common/select_key.h"
#include "cell_sums.h"
#include "cover.h"
#include "parallel.h"
#include "scratch.h"
#include "window_cells.h"

namespace c2f::cpu {

// Selects for one image at a time; one per worker, holds the scratch.
class WindowSelector {
 public:
  WindowSelector(const SelectWindowsParams& params, const CellGrid& grid)
      : p_(params),
        grid_(&grid),
        sums_(grid),
        counts_(static_cast<size_t>(grid.windows())),
        cover_(params.strategy == Strategy::kCover ? std::make_unique<Cover>(grid) : nullptr) {
    if (p_.strategy == Strategy::kTop) {
      best_.reserve(static_cast<size_t>(std::min(p_.n, grid.windows())));
    }
  }

  // cells: the image's cell sums; "cover" consumes them.
  void run(int64_t b, uint32_t* cells) {
    b_ = b;
    taken_ = 0;
    sums_.run(cells, counts_.data());
    switch (p_.strategy) {
      case Strategy::kTop:
        take_top();
        break;
      case Strategy::kCover:
        cover_->run(cells, counts_.data(), p_.n, p_.min_pixels,
                    [&](int64_t index, int32_t gain) { take(index, gain); });
        break;
      case Strategy::kAll:
        for (int64_t i = 0; i < grid_->windows() && taken_ < p_.n; ++i) {
          const int32_t count = counts_[static_cast<size_t>(i)];
          if (count >= p_.min_pixels) take(i, count);
        }
        break;
    }
    p_.num[b] = static_cast<int32_t>(taken_);
    std::fill(p_.origins + (b * p_.n + taken_) * 2, p_.origins + (b + 1) * p_.n * 2, 0);
    std::fill(p_.counts + b * p_.n + taken_, p_.counts + (b + 1) * p_.n, 0);
  }

 private:
  void take(int64_t index, int32_t count) {
    const int64_t S = grid_->x.windows();
    const int64_t slot = b_ * p_.n + taken_++;
    p_.origins[slot * 2] = grid_->y.origin(index / S);
    p_.origins[slot * 2 + 1] = grid_->x.origin(index % S);
    p_.counts[slot] = count;
  }

  // Keeps the n best keys so far in a heap with the least of them in front, so that one comparison
  // rejects nearly every window.
  void take_top() {
    const std::greater<uint64_t> above;
    const size_t capacity = static_cast<size_t>(std::min(p_.n, grid_->windows()));
    best_.clear();
    int64_t least = p_.min_pixels;  // smallest count that may still enter
    for (int64_t i = 0; i < grid_->windows(); ++i) {
      const int32_t count = counts_[static_cast<size_t>(i)];
      if (count < least) continue;
      const uint64_t key = select_key(count, static_cast<uint32_t>(i));
      if (best_.size() < capacity) {
        best_.push_back(key);
        if (best_.size() == capacity) std::make_heap(best_.begin(), best_.end(), above);
      } else if (key > best_.front()) {
        std::pop_heap(best_.begin(), best_.end(), above);
        best_.back() = key;
        std::push_heap(best_.begin(), best_.end(), above);
      }
      if (best_.size() == capacity) least = select_key_count(best_.front());
    }
    std::sort(best_.begin(), best_.end(), above);
    for (const uint64_t key : best_) take(select_key_index(key), select_key_count(key));
  }

  SelectWindowsParams p_;
  const CellGrid* grid_;
  WindowSums sums_;
  Scratch<int32_t> counts_;
  std::unique_ptr<Cover> cover_;
  Scratch<uint64_t> best_;
  int64_t b_ = 0, taken_ = 0;
};

inline void select_windows(const SelectWindowsParams& p, int threads) {
  const ScratchRoom room(threads);
  const int64_t stride = p.strategy == Strategy::kAll ? p.window_px : p.stride_px;
  const CellGrid grid(p.H, p.W, p.window_px, stride, p.flush);
  Scratch<uint32_t> sums(static_cast<size_t>(p.seg.B * grid.cells()));
  CellSums(p.seg, p.classes, p.H, p.W, grid, p.labels, threads).run(sums.data());
  Scratch<WindowSelector> selectors;
  for (int i = 0; i < worker_count(p.seg.B, threads); ++i) selectors.emplace_back(p, grid);
  parallel_for(p.seg.B, threads, [&](int64_t b, int worker) {
    selectors[static_cast<size_t>(worker)].run(b, sums.data() + b * grid.cells());
  });
}

}  // namespace c2f::cpu
