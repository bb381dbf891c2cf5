// extract_patches: windows of an image, resampled and normalised.
//
// A task is a strip of rows of one patch, for one channel or, where channels lie side by side in
// the image or in the patches, for all of them. Each source row is converted to fp32 once and
// resampled horizontally with gain and bias applied (which commutes with the vertical pass, whose
// weights add up to 1), and kept while vertical taps need it. Rows that are not resampled are
// converted straight into the patch if their pixels lie side by side in both.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "parallel.h"
#include "pixel_rows.h"
#include "resample.h"
#include "scratch.h"

namespace c2f::cpu {

namespace detail {

enum class PatchLayout { kPlanar, kInterleaved, kStrided };

class PatchWriter {
 public:
  PatchWriter(const ExtractPatchesParams& params, int threads)
      : p_(params),
        taps_(params.mode, params.windows.window_px, params.p),
        layout_(layout_of(params)),
        straight_(taps_.identity && layout_ == PatchLayout::kPlanar && params.image.stride_x == 1),
        group_(layout_ == PatchLayout::kInterleaved || params.image.stride_c == 1 ? params.image.C
                                                                                  : 1),
        source_stride_(padded_row_size(params.windows.window_px)),
        row_size_(group_ * taps_.padded_out),
        groups_(params.image.C / group_) {
    // More than one strip only where patches alone leave threads idle, since every strip resamples
    // the source rows at its start again.
    const int64_t whole = params.image.B * params.windows.n * groups_;
    const int64_t wanted = (int64_t{4} * threads + whole - 1) / whole;
    strips_ = threads == 1 ? 1 : std::clamp<int64_t>(params.p / 32, 1, wanted);
    tasks_ = whole * strips_;
    // Source rows, a resampled row before interleaving, the kept rows, and a combined row before a
    // strided store.
    const int64_t per_worker =
        straight_ ? 0 : group_ * source_stride_ + (2 + taps_.taps) * row_size_;
    scratch_.resize(static_cast<size_t>(worker_count(tasks_, threads)));
    for (auto& worker : scratch_) worker.resize(static_cast<size_t>(per_worker));
  }

  int64_t tasks() const { return tasks_; }

  void run(int64_t task, int worker) {
    const int64_t strip = task % strips_, g = task / strips_ % groups_;
    write(task / strips_ / groups_, g, p_.p * strip / strips_, p_.p * (strip + 1) / strips_,
          worker);
  }

 private:
  // Rows [begin, end) of slot `patch` of the batch, channels of group `g`.
  void write(int64_t patch, int64_t g, int64_t begin, int64_t end, int worker) {
    const int64_t b = patch / p_.windows.n, slot = patch % p_.windows.n;
    const int64_t c0 = g * group_;
    if (slot >= p_.windows.num[b]) return clear(patch, c0, begin, end);
    if (straight_) return convert(patch, c0, begin, end);
    float* source = scratch_[static_cast<size_t>(worker)].data();
    float* planar = source + group_ * source_stride_;
    float* kept = planar + row_size_;
    float* combined = kept + taps_.taps * row_size_;
    int64_t held[4] = {-1, -1, -1, -1};
    for (int64_t y = begin; y < end; ++y) {
      const float* rows[4] = {};
      float w[4] = {};
      for (int t = 0; t < taps_.taps; ++t) {
        // Sources of an output are neighbours, so they differ modulo the number of taps.
        const int64_t from = taps_.source(y, t), at = from % taps_.taps;
        float* row = kept + at * row_size_;
        if (held[at] != from) {
          resample_source_row(patch, c0, from, source, planar, row);
          held[at] = from;
        }
        rows[t] = row;
        w[t] = taps_.w(y, t);
      }
      store(patch, c0, y, rows, w, combined);
    }
  }

  static PatchLayout layout_of(const ExtractPatchesParams& p) {
    if (p.out_stride_x == 1) return PatchLayout::kPlanar;
    const bool interleaved = p.out_stride_c == 1 && p.out_stride_x == p.image.C;
    return interleaved ? PatchLayout::kInterleaved : PatchLayout::kStrided;
  }

  int64_t out_offset(int64_t patch, int64_t c, int64_t y) const {
    return patch * p_.out_stride_patch + c * p_.out_stride_c + y * p_.out_stride_y;
  }

  // Offset of the first pixel in row y of a window, channel c.
  int64_t image_offset(int64_t patch, int64_t c, int64_t y) const {
    const Image& image = p_.image;
    const int32_t* origin = p_.windows.origins + 2 * patch;
    return patch / p_.windows.n * image.stride_b + c * image.stride_c +
           (origin[0] + y) * image.stride_y + origin[1] * image.stride_x;
  }

  // Rows [begin, end) straight from the image, where nothing is resampled.
  void convert(int64_t patch, int64_t c0, int64_t begin, int64_t end) const {
    visit_pixel_type(p_.image.dtype, [&](auto* from) {
      visit_float_type(p_.out_dtype, [&](auto* to) {
        for (int64_t c = c0; c < c0 + group_; ++c) {
          const auto* row =
              static_cast<decltype(from)>(p_.image.data) + image_offset(patch, c, begin);
          auto* out = static_cast<decltype(to)>(p_.out) + out_offset(patch, c, begin);
          for (int64_t y = begin; y < end; ++y) {
            convert_row(row, p_.p, p_.gain[c], p_.bias[c], out);
            row += p_.image.stride_y;
            out += p_.out_stride_y;
          }
        }
      });
    });
  }

  void resample_source_row(int64_t patch, int64_t c0, int64_t y, float* source, float* planar,
                           float* out) const {
    const Image& image = p_.image;
    const int64_t k = p_.windows.window_px;
    const int64_t offset = image_offset(patch, c0, y);
    visit_pixel_type(image.dtype, [&](auto* type) {
      const auto* row = static_cast<decltype(type)>(image.data) + offset;
      load_pixels(row, image.stride_c, image.stride_x, group_, k, source + kRowPadLeft,
                  source_stride_);
    });
    float* resampled = layout_ == PatchLayout::kInterleaved ? planar : out;
    for (int64_t c = 0; c < group_; ++c) {
      float* row = source + c * source_stride_ + kRowPadLeft;
      pad_row(row, k);
      resample_row(row, taps_, p_.gain[c0 + c], p_.bias[c0 + c], resampled + c * taps_.padded_out);
    }
    if (layout_ == PatchLayout::kInterleaved) {
      interleave(planar, taps_.padded_out, group_, taps_.padded_out, out);
    }
  }

  void store(int64_t patch, int64_t c0, int64_t y, const float* const rows[4], const float w[4],
             float* combined) const {
    visit_float_type(p_.out_dtype, [&](auto* type) {
      auto* out = static_cast<decltype(type)>(p_.out) + out_offset(patch, c0, y);
      if (layout_ == PatchLayout::kInterleaved) {
        return combine_rows(rows, w, taps_.taps, p_.p * group_, out);
      }
      for (int64_t c = 0; c < group_; ++c) {
        const float* plane[4] = {};
        for (int t = 0; t < taps_.taps; ++t) plane[t] = rows[t] + c * taps_.padded_out;
        if (layout_ == PatchLayout::kPlanar) {
          combine_rows(plane, w, taps_.taps, p_.p, out + c * p_.out_stride_c);
        } else {
          combine_rows(plane, w, taps_.taps, p_.p, combined);
          store_strided(combined, p_.out_stride_x, p_.p, out + c * p_.out_stride_c);
        }
      }
    });
  }

  // Zeros in rows [begin, end) of an unused slot.
  void clear(int64_t patch, int64_t c0, int64_t begin, int64_t end) const {
    visit_float_type(p_.out_dtype, [&](auto* type) {
      auto* out = static_cast<decltype(type)>(p_.out) + out_offset(patch, c0, begin);
      for (int64_t y = begin; y < end; ++y, out += p_.out_stride_y) {
        if (layout_ == PatchLayout::kInterleaved) {
          std::memset(out, 0, static_cast<size_t>(p_.p * group_) * sizeof *out);
          continue;
        }
        for (int64_t c = 0; c < group_; ++c) {
          auto* row = out + c * p_.out_stride_c;
          for (int64_t x = 0; x < p_.p; ++x) store_scalar(row + x * p_.out_stride_x, 0.0f);
        }
      }
    });
  }

  const ExtractPatchesParams& p_;
  ResampleTaps taps_;
  PatchLayout layout_;
  bool straight_;
  int64_t group_;          // channels a task handles together
  int64_t source_stride_;  // floats between the source rows of two channels
  int64_t row_size_;       // floats of one resampled row, all channels of the group
  int64_t groups_, strips_ = 1, tasks_ = 0;
  Scratch<Scratch<float>> scratch_;
};

}  // namespace detail

inline void extract_patches(const ExtractPatchesParams& params, int threads) {
  if (params.image.B == 0 || params.windows.n == 0 || params.image.C == 0) return;
  const ScratchRoom room(threads);
  detail::PatchWriter writer(params, threads);
  parallel_for(writer.tasks(), threads,
               [&](int64_t task, int worker) { writer.run(task, worker); });
}

}  // namespace c2f::cpu
