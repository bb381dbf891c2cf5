// Rows of an integer label map as bytes.
#pragma once

#include <cstdint>
#include <cstring>

#include "../common/params.h"
#include "bytes.h"
#include "pixel_rows.h"
#include "scratch.h"

namespace c2f::cpu {

// One per worker: holds the scratch.
class LabelRows {
 public:
  explicit LabelRows(const Seg& seg)
      : seg_(seg),
        in_place_(seg.dtype == DType::kU8 && seg.stride_x == 1),
        bytes_(static_cast<size_t>(in_place_ ? 0 : seg.w)),
        valid_(bytes_.size()) {}

  // members[x] = 1 where label (b, y, x) is in the set, else 0; an id outside 0..255 never is.
  // labels_out, which may be null, gets the low byte of every id.
  void row(const ClassSet& set, int64_t b, int64_t y, uint8_t* members, uint8_t* labels_out) {
    const int64_t offset = b * seg_.stride_b + y * seg_.stride_y;
    if (in_place_) {
      const uint8_t* labels = static_cast<const uint8_t*>(seg_.data) + offset;
      set.members(labels, seg_.w, members);
      if (labels_out != nullptr) std::memcpy(labels_out, labels, static_cast<size_t>(seg_.w));
      return;
    }
    visit_label_type(seg_.dtype,
                     [&](auto* type) { convert(static_cast<decltype(type)>(seg_.data) + offset); });
    set.members(bytes_.data(), seg_.w, members);
    const uint8_t* valid = valid_.data();
    const int64_t w = seg_.w;
    for (int64_t x = 0; x < w; ++x) members[x] &= valid[x];
    if (labels_out != nullptr) std::memcpy(labels_out, bytes_.data(), bytes_.size());
  }

 private:
  template <class T>
  void convert(const T* row) {
    if (seg_.stride_x == 1) return convert(row, 1);
    convert(row, seg_.stride_x);
  }

  // Inlined twice, so that the compiler can vectorise the one with a constant stride of 1.
  template <class T>
  inline void convert(const T* row, int64_t stride) {
    uint8_t* bytes = bytes_.data();
    uint8_t* valid = valid_.data();
    const int64_t w = seg_.w;  // a local, since a store to a byte may alias the member
    for (int64_t x = 0; x < w; ++x) {
      const int64_t id = row[x * stride];
      bytes[x] = static_cast<uint8_t>(id);
      valid[x] = (id & ~int64_t{255}) == 0 ? 1 : 0;
    }
  }

  Seg seg_;
  bool in_place_;
  Scratch<uint8_t> bytes_, valid_;
};

}  // namespace c2f::cpu
