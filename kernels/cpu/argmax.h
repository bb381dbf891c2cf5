// First argmax over the classes of a row of logits.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "logits.h"
#include "vec.h"

namespace c2f::cpu {

// Running maximum at 8 V positions. A strict > keeps the first of equal classes and never takes a
// NaN, which thus counts as -inf; a position with nothing above -inf keeps class 0.
template <int V>
struct RunningArgmax {
  Vec8f best[V];
  Vec8i label[V];

  RunningArgmax() {
    for (int i = 0; i < V; ++i) {
      best[i] = set8(-std::numeric_limits<float>::infinity());
      label[i] = set8(int32_t{0});
    }
  }

  void offer(int i, Vec8f value, Vec8i cls) {
    label[i] = select(value > best[i], cls, label[i]);
    best[i] = max(value, best[i]);
  }
};

namespace detail {

// Labels of 8 V positions; returns whether each best value is finite, one bit per position.
template <int V>
inline uint32_t argmax_block(const float* first_plane, int64_t class_stride, int64_t N,
                             uint8_t* labels) {
  RunningArgmax<V> running;
  Vec8i cls = set8(int32_t{0});
  const float* plane = first_plane;
  for (int64_t c = 0; c < N; ++c, plane += class_stride) {
    for (int i = 0; i < V; ++i) running.offer(i, load8(plane + 8 * i), cls);
    cls = cls + set8(int32_t{1});
  }
  const Vec8f infinity = set8(std::numeric_limits<float>::infinity());
  uint32_t finite = 0;
  for (int i = 0; i < V; ++i) {
    finite |= static_cast<uint32_t>(movemask(abs(running.best[i]) < infinity)) << (8 * i);
  }
  if constexpr (V == 4) {
    store32_bytes(labels, running.label[0], running.label[1], running.label[2], running.label[3]);
  } else {
    for (int i = 0; i < V; ++i) store8_bytes(labels + 8 * i, running.label[i]);
  }
  return finite;
}

}  // namespace detail

// Writes labels[x] for x in [0, w), and 8 - w bytes of garbage behind them if w < 8. Returns
// whether any position is unsafe: its largest value is infinite, or there is none. Only then is
// `unsafe` written: 255 at these positions, 0 elsewhere.
inline bool argmax_row(const LogitRow& row, int64_t N, int64_t w, uint8_t* labels,
                       uint8_t* unsafe) {
  bool any_unsafe = false;
  const auto mark = [&](int64_t x, uint32_t finite, int lanes) {
    if (!any_unsafe) std::memset(unsafe, 0, static_cast<size_t>(w));
    any_unsafe = true;
    for (int i = 0; i < lanes && x + i < w; ++i) {
      if ((finite >> i & 1u) == 0) unsafe[x + i] = 255;
    }
  };
  int64_t x = 0;
  for (; x + 32 <= w; x += 32) {
    const uint32_t finite =
        detail::argmax_block<4>(row.plane(0) + x, row.class_stride, N, labels + x);
    if (finite != 0xffffffffu) mark(x, finite, 32);
  }
  while (x < w) {
    // The last block overlaps the one before, so as not to read past the row.
    if (x + 8 > w) x = w > 8 ? w - 8 : 0;
    const uint32_t finite =
        detail::argmax_block<1>(row.plane(0) + x, row.class_stride, N, labels + x);
    if (finite != 0xffu) mark(x, finite, 8);
    x += 8;
  }
  return any_unsafe;
}

}  // namespace c2f::cpu
