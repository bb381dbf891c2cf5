// Plain parameter structs, one per op. Pointers, sizes and strides (in elements) only: kernels
// never see a tensor library. Shapes use the glossary of the reference: B images, N classes, H x W
// full size, h x w the coarse map's own size, k the window side, n patches per image, p the patch
// side after zoom.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace c2f {

constexpr int kMaxClasses = 256;

// Coarse answer: float logits [B, N, h, w], or an integer label map [B, H, W] (then N = 1, stride_n
// = 0).
struct Seg {
  const void* data;
  DType dtype;
  bool is_logits;
  int64_t B, N, h, w;
  int64_t stride_b, stride_n, stride_y, stride_x;  // elements
};

// 1 where a class is in C; ids outside 0..255 never are.
struct ClassTable {
  const uint8_t* is_small;  // [256]
};

struct Image {
  const void* data;
  DType dtype;
  int64_t B, C, H, W;
  int64_t stride_b, stride_c, stride_y, stride_x;  // elements
};

// Windows of a batch as select_windows writes them: slots j >= num[b] are unused.
struct WindowList {
  const int32_t* origins;  // [B, n, 2] as (y, x), contiguous
  const int32_t* num;      // [B]
  int64_t B, n, window_px;
};

struct CountWindowsParams {
  Seg seg;
  ClassTable classes;
  int64_t H, W, window_px, stride_px;
  bool flush;
  int32_t* counts;  // [B, R, S] contiguous
  uint8_t* labels;  // [B, H, W] contiguous argmax labels, or nullptr when not wanted
};

enum class Strategy : int32_t { kTop, kCover, kAll };

struct SelectWindowsParams {
  Seg seg;
  ClassTable classes;
  int64_t H, W, window_px, stride_px;
  bool flush;
  Strategy strategy;
  int64_t n, min_pixels;
  int32_t* origins;  // [B, n, 2] contiguous
  int32_t* counts;   // [B, n] contiguous
  int32_t* num;      // [B]
  uint8_t* labels;   // [B, H, W] contiguous, as in CountWindowsParams
};

enum class Resample : int32_t { kNearest, kBilinear, kBicubic };

struct ExtractPatchesParams {
  Image image;
  WindowList windows;
  Resample mode;
  // Patch value = resampled * gain[c] + bias[c]: (v * scale - mean) / std folded, [C] each.
  const float* gain;
  const float* bias;
  // Output [B*n, C, p, p] in any strides.
  void* out;
  DType out_dtype;
  int64_t p;
  int64_t out_stride_patch, out_stride_c, out_stride_y, out_stride_x;  // elements
};

struct ExtractPatchesBackwardParams {
  Image grad_patches;  // [B*n, C, p, p], B field = B*n
  WindowList windows;
  Resample mode;
  const float* gain;  // [C]
  float* grad_image;  // [B, C, H, W] contiguous, every element written
  int64_t B, C, H, W;
};

struct ExtractTargetsParams {
  Seg labels;  // integer label map
  WindowList windows;
  ClassTable classes;
  int64_t ignore_index;  // compared with the label as an integer; written as uint8
  uint8_t* out;          // [B*n, k, k] contiguous
};

enum class MergeRule : int32_t { kPaper, kNormalized, kOfficial };

struct AggregateParams {
  Seg coarse;  // logits
  Image fine;  // logits [B*n, 1 or 2, hf, wf]
  WindowList windows;
  ClassTable classes;
  int64_t H, W;
  MergeRule rule;
  uint8_t* labels;    // [B, H, W] contiguous, or nullptr
  bool labels_given;  // `labels` already holds the coarse argmax: edit it inside the windows only
  float* probs;       // [B, N, H, W] contiguous, or nullptr; exactly one of labels and probs is set
};

}  // namespace c2f
