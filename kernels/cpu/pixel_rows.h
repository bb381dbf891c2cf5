// Rows of pixels between memory of any element type and stride, and planar fp32.
#pragma once

#include <cstdint>

#include "../common/params.h"
#include "vec.h"

namespace c2f::cpu {

inline float scalar_to_float(float value) { return value; }
inline float scalar_to_float(F16 value) { return to_float(value); }
inline float scalar_to_float(BF16 value) { return to_float(value); }
template <class T>
inline float scalar_to_float(T value) {
  return static_cast<float>(value);
}

inline void store_scalar(float* p, float value) { *p = value; }
inline void store_scalar(F16* p, float value) { *p = to_f16(value); }
inline void store_scalar(BF16* p, float value) { *p = to_bf16(value); }

// Stores the first min(8, left) lanes; all eight by a plain store, since masked ones are slow on
// some processors.
template <class T>
inline void store8_first(T* p, Vec8f a, int64_t left) {
  if (left >= 8) return store8(p, a);
  store8_partial(p, a, static_cast<int>(left));
}

// Calls f with a null pointer to the element type, one of those an image may have.
template <class F>
inline void visit_pixel_type(DType dtype, const F& f) {
  switch (dtype) {
    case DType::kU8:
      return f(static_cast<const uint8_t*>(nullptr));
    case DType::kU16:
      return f(static_cast<const uint16_t*>(nullptr));
    case DType::kI16:
      return f(static_cast<const int16_t*>(nullptr));
    case DType::kF16:
      return f(static_cast<const F16*>(nullptr));
    case DType::kBF16:
      return f(static_cast<const BF16*>(nullptr));
    case DType::kF32:
      return f(static_cast<const float*>(nullptr));
    default:
      return;  // refused by the binding
  }
}

// The same for the float types a patch may have.
template <class F>
inline void visit_float_type(DType dtype, const F& f) {
  switch (dtype) {
    case DType::kF16:
      return f(static_cast<F16*>(nullptr));
    case DType::kBF16:
      return f(static_cast<BF16*>(nullptr));
    case DType::kF32:
      return f(static_cast<float*>(nullptr));
    default:
      return;  // refused by the binding
  }
}

// The same for the integer types a label map may have.
template <class F>
inline void visit_label_type(DType dtype, const F& f) {
  switch (dtype) {
    case DType::kU8:
      return f(static_cast<const uint8_t*>(nullptr));
    case DType::kI16:
      return f(static_cast<const int16_t*>(nullptr));
    case DType::kI32:
      return f(static_cast<const int32_t*>(nullptr));
    case DType::kI64:
      return f(static_cast<const int64_t*>(nullptr));
    default:
      return;  // refused by the binding
  }
}

// out[i] = row[i * stride] for i in [0, n).
template <class T>
inline void load_strided(const T* row, int64_t stride, int64_t n, float* out) {
  int64_t i = 0;
  if (stride == 1) {
    for (; i + 8 <= n; i += 8) store8(out + i, load8(row + i));
  }
  for (; i < n; ++i) out[i] = scalar_to_float(row[i * stride]);
}

// out[i] = row[i] * gain + bias for i in [0, n).
template <class In, class Out>
inline void convert_row(const In* row, int64_t n, float gain, float bias, Out* out) {
  const Vec8f g = set8(gain), b = set8(bias);
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) store8(out + i, fma(load8(row + i), g, b));
  if (i == n) return;
  const int left = static_cast<int>(n - i);
  store8_partial(out + i, fma(load8_partial(row + i, left), g, b), left);
}

// out[i * stride] = row[i] for i in [0, n).
template <class T>
inline void store_strided(const float* row, int64_t stride, int64_t n, T* out) {
  for (int64_t i = 0; i < n; ++i) store_scalar(out + i * stride, row[i]);
}

#if defined(C2F_VECTORS)
// Interleaved bytes (HWC): one gather brings up to four channels of 8 pixels. It reads 4 bytes at
// each pixel, so the last pixels, behind which memory may end, are left to the caller. Returns how
// many pixels were done.
inline int64_t deinterleave_bytes(const uint8_t* pixels, int64_t pixel_stride, int channels,
                                  int64_t n, float* out, int64_t out_stride) {
  if (pixel_stride < 1 || pixel_stride > 64) return 0;
  const int step = static_cast<int>(pixel_stride);
  const int64_t safe = n - (4 - channels + step - 1) / step;
  int64_t i = 0;
  for (; i + 8 <= safe; i += 8) {
    Vec8i four = gather_words(pixels + i * pixel_stride, step);
    for (int c = 0; c < channels; ++c) {
      store8(out + c * out_stride + i, to_float(low_bytes(four)));
      four = without_low_bytes(four);
    }
  }
  return i;
}
#endif

// out[c * out_stride + i] = channel c of pixel i: n pixels of `channels` planes.
template <class T>
inline void load_pixels(const T* row, int64_t stride_c, int64_t stride_x, int64_t channels,
                        int64_t n, float* out, int64_t out_stride) {
  int64_t done = 0;
#if defined(C2F_VECTORS)
  if constexpr (sizeof(T) == 1) {
    if (stride_c == 1 && channels >= 2 && channels <= 4) {
      done = deinterleave_bytes(row, stride_x, static_cast<int>(channels), n, out, out_stride);
    }
  }
#endif
  for (int64_t c = 0; c < channels; ++c) {
    load_strided(row + c * stride_c + done * stride_x, stride_x, n - done,
                 out + c * out_stride + done);
  }
}

namespace detail {

// Lane l of vector m holds pixel (8m + l) / C, channel (8m + l) % C: one permutation and one
// selection per channel.
template <int kChannels>
inline void interleave8(const float* planes, int64_t stride, float* out) {
  Vec8f plane[kChannels];
  for (int c = 0; c < kChannels; ++c) plane[c] = load8(planes + c * stride);
  for (int m = 0; m < kChannels; ++m) {
    int32_t pixel[8], channel[8];
    for (int l = 0; l < 8; ++l) {
      pixel[l] = (8 * m + l) / kChannels;
      channel[l] = (8 * m + l) % kChannels;
    }
    const Vec8i from = load8(pixel), which = load8(channel);
    Vec8f interleaved = permute(plane[0], from);
    for (int c = 1; c < kChannels; ++c) {
      interleaved = select(which == set8(c), permute(plane[c], from), interleaved);
    }
    store8(out + 8 * m, interleaved);
  }
}

template <int kChannels>
inline void interleave_fixed(const float* planes, int64_t stride, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += 8) {
    interleave8<kChannels>(planes + i, stride, out + i * kChannels);
  }
}

}  // namespace detail

// out[i * channels + c] = planes[c * stride + i] for i in [0, n), n a multiple of 8.
inline void interleave(const float* planes, int64_t stride, int64_t channels, int64_t n,
                       float* out) {
  if (channels == 2) return detail::interleave_fixed<2>(planes, stride, n, out);
  if (channels == 3) return detail::interleave_fixed<3>(planes, stride, n, out);
  if (channels == 4) return detail::interleave_fixed<4>(planes, stride, n, out);
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t i = 0; i < n; ++i) out[i * channels + c] = planes[c * stride + i];
  }
}

}  // namespace c2f::cpu
