// Windows along an axis, and the bins of which they are unions, in closed form, so that kernels
// need no table.
//
// Starts and ends of all windows cut an axis into intervals, so that every window is a union of
// whole intervals and counts over intervals give exact counts over windows, whatever window, stride
// and edge are. With s the stride and k the window, starts lie at i * s and ends at offset rest = k
// mod s into a period of s; a flush window adds its start F = H - k. A period consists of [0, rest)
// and [rest, s), each cut into bins of `unit` pixels (the last may be shorter). Bins are numbered
// consecutively, from F on one higher. Where F falls on a cut the bin before it is empty, which
// does no harm.
#pragma once

#include <cstdint>

#include "../common/host_device.h"
#include "divider.h"

namespace c2f::cuda {

constexpr int32_t kNoFlush = 0x7fffffff;

struct BinAxis {
  int32_t size_px, window_px, stride_px;
  int32_t windows;
  int32_t regular;   // windows at i * stride; a further one, if any, starts at flush_px
  int32_t flush_px;  // kNoFlush without one
  int32_t flush_bin;
  int32_t rest_px;    // k mod s
  int32_t rest_bins;  // bins of [0, rest)
  int32_t period_bins;
  int32_t unit_px;
  int32_t bins;
  int32_t span_bins;   // bins of a window, without the flush cut
  int32_t beside;      // windows on either side that overlap one, the flush window aside
  int32_t flush_from;  // the first window that overlaps the flush one; kNoFlush without one
  Divider by_stride, by_period, by_unit;
  // A tile is the bins that one block counts; tiles never share a bin.
  int32_t tile_bins, tile_px, tiles;  // tile_px: most pixels of one
  Divider by_tiles;

  C2F_HD int32_t bin_of(int32_t px) const {
    const int32_t period = by_stride.quotient(px);
    const int32_t at = px - period * stride_px;
    const bool in_rest = at < rest_px;
    const int32_t inside =
        by_unit.quotient(in_rest ? at : at - rest_px) + (in_rest ? 0 : rest_bins);
    return period * period_bins + inside + (px >= flush_px ? 1 : 0);
  }

  // First pixel of bin e; the axis' end for bins past the last.
  C2F_HD int32_t bin_start(int32_t e) const {
    if (e == flush_bin) return flush_px;
    if (e >= bins) return size_px;
    const int32_t base = e > flush_bin ? e - 1 : e;
    const int32_t period = by_period.quotient(base);
    const int32_t inside = base - period * period_bins;
    const int32_t offset =
        inside < rest_bins ? inside * unit_px : rest_px + (inside - rest_bins) * unit_px;
    // A bin of the last period may start past the end. Its period begins before the end, so the sum
    // is below 2^32: unsigned arithmetic does not overflow.
    const uint32_t start = static_cast<uint32_t>(period) * static_cast<uint32_t>(stride_px) +
                           static_cast<uint32_t>(offset);
    return start < static_cast<uint32_t>(size_px) ? static_cast<int32_t>(start) : size_px;
  }

  C2F_HD int32_t origin(int32_t i) const { return i < regular ? i * stride_px : flush_px; }

  // Window i is the bins first .. last - 1. Every round of a selection waits for this function and
  // the next, so they neither divide nor branch: a window starts with a period, and consists of
  // whole periods and a rest.
  C2F_HD void window_bins(int32_t i, int32_t* first, int32_t* last) const {
    const int32_t start = i * period_bins;
    const int32_t end = start + span_bins + (i >= flush_from ? 1 : 0);
    *first = i < regular ? start : flush_bin;
    *last = i < regular ? end : bins;
  }

  // Windows first .. last - 1 share pixels with window i.
  C2F_HD void overlapping(int32_t i, int32_t* first, int32_t* last) const {
    const int32_t before = i - beside, after = i + beside + 1;
    const int32_t low = before > 0 ? before : 0, high = after < regular ? after : regular;
    *first = i < regular ? low : flush_from;
    *last = i < flush_from ? high : windows;
  }
};

// How many tiles, bins or units of `part` cover `whole`.
inline int32_t parts_of(int64_t whole, int64_t part) {
  return static_cast<int32_t>((whole + part - 1) / part);
}

// Makes the axis, with tiles of at most tile_px pixels. size < 2^31.
inline BinAxis make_bin_axis(int64_t size, int64_t window, int64_t stride, bool flush,
                             int32_t tile_px) {
  BinAxis axis{};
  axis.size_px = static_cast<int32_t>(size);
  axis.window_px = static_cast<int32_t>(window);
  // A stride past the last fitting start gives the same windows as the first one past it.
  axis.stride_px = static_cast<int32_t>(stride < size - window + 1 ? stride : size - window + 1);
  const int32_t s = axis.stride_px;
  axis.regular = (axis.size_px - axis.window_px) / s + 1;
  const bool flushed = flush && (axis.size_px - axis.window_px) % s != 0;
  axis.windows = axis.regular + (flushed ? 1 : 0);
  axis.flush_px = flushed ? axis.size_px - axis.window_px : kNoFlush;
  axis.rest_px = axis.window_px % s;
  axis.unit_px = s > tile_px ? tile_px : s;
  axis.rest_bins = parts_of(axis.rest_px, axis.unit_px);
  axis.period_bins = axis.rest_bins + parts_of(s - axis.rest_px, axis.unit_px);
  axis.span_bins = axis.window_px / s * axis.period_bins + axis.rest_bins;
  axis.beside = (axis.window_px - 1) / s;
  axis.by_stride = make_divider(s);
  axis.by_period = make_divider(axis.period_bins);
  axis.by_unit = make_divider(axis.unit_px);
  // One bin per tile, or as many whole periods as fit.
  axis.tile_bins = 2 * static_cast<int64_t>(s) > tile_px ? 1 : tile_px / s * axis.period_bins;
  axis.flush_bin = flushed ? axis.bin_of(axis.flush_px) : kNoFlush;
  const int32_t before = axis.flush_px - axis.window_px;  // windows that start after it overlap
  axis.flush_from = !flushed ? kNoFlush : before < 0 ? 0 : before / s + 1;
  axis.bins = axis.bin_of(axis.size_px - 1) + 1;
  const int32_t periods = axis.tile_bins / axis.period_bins;
  axis.tile_px = axis.tile_bins == 1 ? axis.unit_px : s * periods;
  if (axis.tile_px > axis.size_px) axis.tile_px = axis.size_px;
  axis.tiles = parts_of(axis.bins, axis.tile_bins);
  axis.by_tiles = make_divider(axis.tiles);
  return axis;
}

}  // namespace c2f::cuda
