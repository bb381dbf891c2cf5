// Eight floats at a time: AVX2 + FMA or NEON if the compiler targets it, else plain arrays. The
// same sources are compiled into one module per instruction set; nothing here decides at run time.
//
//   Vec8f, Vec8i, Mask8        8 lanes of float, int32, true / false
//   set8(v)                    v in all lanes
//   load8(p)                   8 elements, any alignment: float, int32_t (-> Vec8i), F16, BF16,
//                              uint8_t, uint16_t, int16_t (-> Vec8f)
//   store8(p, a)               float, int32_t, F16 and BF16 (round to nearest even)
//   load8_partial(p, m)        the first m lanes (0..8), the others 0; never reads past p[m - 1]
//   store8_partial(p, a, m)    the first m lanes; never writes past p[m - 1]
//   load8_bytes(p)             8 bytes as int lanes
//   store8_bytes, store32_bytes  int lanes of 0..255 as bytes, in lane order
//   + - * /  fma(a, b, c)      a * b + c, rounded once; plain arrays round twice
//   min, max                   (a < b ? a : b), (a > b ? a : b): the second operand if one is NaN
//   > >= < ==                  ordered: false on NaN
//   select(m, yes, no), movemask(m), mask_of_bits(bits)  lane i is bit i
//   to_float, to_int_rounded (to nearest even; any int where it does not fit)
//   pow2(n)                    for -126 <= n <= 127
//   permute(a, index)          lane i = a[index[i] & 7]
//   gather(base, index)        lane i = base[index[i]]
//   transpose8(rows)           8 x 8 in place
// and, unless they are plain arrays, where C2F_VECTORS is defined:
//   gather_words(p, step)      lane i = the four bytes from p + i * step on, the lowest first
//   low_bytes, without_low_bytes(words)  words & 255; words >> 8, zeros shifted in
#pragma once

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define C2F_VECTORS
#include "vec_avx2.h"
#elif defined(__aarch64__)
#define C2F_VECTORS
#include "vec_neon.h"
#else
#include "vec_portable.h"
#endif

namespace c2f::cpu {

template <class T>
inline Vec8f load8_partial(const T* p, int m) {
  T lanes[8] = {};
  for (int i = 0; i < m; ++i) lanes[i] = p[i];
  return load8(lanes);
}

template <class T>
inline void store8_partial(T* p, Vec8f a, int m) {
  T lanes[8];
  store8(lanes, a);
  for (int i = 0; i < m; ++i) p[i] = lanes[i];
}

// e^x with a relative error of about 1.1e-7 (Cephes: reduction by ln 2 in two parts, polynomial of
// degree 5). Below the smallest normal result, -inf included: 0. Above 88.37: e^88.37, finite. NaN
// stays NaN.
inline Vec8f exp(Vec8f x) {
  const Vec8f lowest = set8(-87.3365402f);  // ln(2^-126)
  const Vec8f highest = set8(88.3762589f);  // keeps the exponent of 2 at 127
  // Constants first, so that min and max return a NaN in x.
  const Vec8f clamped = min(highest, max(lowest, x));
  const Vec8i n = to_int_rounded(clamped * set8(1.44269504088896341f));
  const Vec8f nf = to_float(n);
  Vec8f r = fma(nf, set8(-0.693359375f), clamped);
  r = fma(nf, set8(2.12194440e-4f), r);
  Vec8f p = set8(1.9875691500e-4f);
  p = fma(p, r, set8(1.3981999507e-3f));
  p = fma(p, r, set8(8.3334519073e-3f));
  p = fma(p, r, set8(4.1665795894e-2f));
  p = fma(p, r, set8(1.6666665459e-1f));
  p = fma(p, r, set8(5.0000001201e-1f));
  p = fma(p, r * r, r + set8(1.0f));
  return select(x < lowest, set8(0.0f), p * pow2(n));
}

// 1 / (1 + e^-x); 0 where e^-x overflows float32, as exp saturates there instead of giving inf.
inline Vec8f sigmoid(Vec8f x) {
  const Vec8f zero = set8(0.0f), one = set8(1.0f);
  return select(x < set8(-88.7228394f), zero, one / (one + exp(zero - x)));
}

}  // namespace c2f::cpu
