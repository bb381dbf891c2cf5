// Plain-array half of vec.h, which documents the functions: any processor, left to the compiler's
// vectoriser.
#pragma once

#include <cmath>
#include <cstdint>

#include "../common/half.h"

namespace c2f::cpu {

struct Vec8f {
  float v[8];
};
struct Vec8i {
  int32_t v[8];
};
struct Mask8 {
  int32_t v[8];  // -1 or 0
};

namespace detail {
template <class Out, class F>
inline Out lanes(F f) {
  Out out;
  for (int i = 0; i < 8; ++i) out.v[i] = f(i);
  return out;
}
}  // namespace detail

inline Vec8f set8(float value) {
  return detail::lanes<Vec8f>([=](int) { return value; });
}
inline Vec8i set8(int32_t value) {
  return detail::lanes<Vec8i>([=](int) { return value; });
}

inline Vec8f load8(const float* p) {
  return detail::lanes<Vec8f>([=](int i) { return p[i]; });
}
inline Vec8i load8(const int32_t* p) {
  return detail::lanes<Vec8i>([=](int i) { return p[i]; });
}
inline Vec8f load8(const F16* p) {
  return detail::lanes<Vec8f>([=](int i) { return to_float(p[i]); });
}
inline Vec8f load8(const BF16* p) {
  return detail::lanes<Vec8f>([=](int i) { return to_float(p[i]); });
}
inline Vec8f load8(const uint8_t* p) {
  return detail::lanes<Vec8f>([=](int i) { return static_cast<float>(p[i]); });
}
inline Vec8f load8(const uint16_t* p) {
  return detail::lanes<Vec8f>([=](int i) { return static_cast<float>(p[i]); });
}
inline Vec8f load8(const int16_t* p) {
  return detail::lanes<Vec8f>([=](int i) { return static_cast<float>(p[i]); });
}

inline void store8(float* p, Vec8f a) {
  for (int i = 0; i < 8; ++i) p[i] = a.v[i];
}
inline void store8(int32_t* p, Vec8i a) {
  for (int i = 0; i < 8; ++i) p[i] = a.v[i];
}
inline void store8(F16* p, Vec8f a) {
  for (int i = 0; i < 8; ++i) p[i] = to_f16(a.v[i]);
}
inline void store8(BF16* p, Vec8f a) {
  for (int i = 0; i < 8; ++i) p[i] = to_bf16(a.v[i]);
}

inline Vec8f load8_partial(const float* p, int m) {
  return detail::lanes<Vec8f>([=](int i) { return i < m ? p[i] : 0.0f; });
}
inline void store8_partial(float* p, Vec8f a, int m) {
  for (int i = 0; i < m; ++i) p[i] = a.v[i];
}

inline Vec8i load8_bytes(const uint8_t* p) {
  return detail::lanes<Vec8i>([=](int i) { return int32_t{p[i]}; });
}
inline void store8_bytes(uint8_t* p, Vec8i a) {
  for (int i = 0; i < 8; ++i) p[i] = static_cast<uint8_t>(a.v[i]);
}
inline void store32_bytes(uint8_t* p, Vec8i a, Vec8i b, Vec8i c, Vec8i d) {
  store8_bytes(p, a);
  store8_bytes(p + 8, b);
  store8_bytes(p + 16, c);
  store8_bytes(p + 24, d);
}

inline Vec8f operator+(Vec8f a, Vec8f b) {
  return detail::lanes<Vec8f>([&](int i) { return a.v[i] + b.v[i]; });
}
inline Vec8f operator-(Vec8f a, Vec8f b) {
  return detail::lanes<Vec8f>([&](int i) { return a.v[i] - b.v[i]; });
}
inline Vec8f operator*(Vec8f a, Vec8f b) {
  return detail::lanes<Vec8f>([&](int i) { return a.v[i] * b.v[i]; });
}
inline Vec8f operator/(Vec8f a, Vec8f b) {
  return detail::lanes<Vec8f>([&](int i) { return a.v[i] / b.v[i]; });
}
inline Vec8i operator+(Vec8i a, Vec8i b) {
  return detail::lanes<Vec8i>([&](int i) { return a.v[i] + b.v[i]; });
}
inline Vec8i operator-(Vec8i a, Vec8i b) {
  return detail::lanes<Vec8i>([&](int i) { return a.v[i] - b.v[i]; });
}
inline Vec8f fma(Vec8f a, Vec8f b, Vec8f c) {
  return detail::lanes<Vec8f>([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
inline Vec8f min(Vec8f a, Vec8f b) {
  return detail::lanes<Vec8f>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline Vec8f max(Vec8f a, Vec8f b) {
  return detail::lanes<Vec8f>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Vec8f abs(Vec8f a) {
  return detail::lanes<Vec8f>([&](int i) { return std::fabs(a.v[i]); });
}

inline Mask8 operator>(Vec8f a, Vec8f b) {
  return detail::lanes<Mask8>([&](int i) { return -static_cast<int32_t>(a.v[i] > b.v[i]); });
}
inline Mask8 operator>=(Vec8f a, Vec8f b) {
  return detail::lanes<Mask8>([&](int i) { return -static_cast<int32_t>(a.v[i] >= b.v[i]); });
}
inline Mask8 operator<(Vec8f a, Vec8f b) {
  return detail::lanes<Mask8>([&](int i) { return -static_cast<int32_t>(a.v[i] < b.v[i]); });
}
inline Mask8 operator==(Vec8f a, Vec8f b) {
  return detail::lanes<Mask8>([&](int i) { return -static_cast<int32_t>(a.v[i] == b.v[i]); });
}
inline Mask8 operator==(Vec8i a, Vec8i b) {
  return detail::lanes<Mask8>([&](int i) { return -static_cast<int32_t>(a.v[i] == b.v[i]); });
}
inline int movemask(Mask8 m) {
  int bits = 0;
  for (int i = 0; i < 8; ++i) bits |= (m.v[i] & 1) << i;
  return bits;
}
inline Mask8 mask_of_bits(int bits) {
  return detail::lanes<Mask8>([=](int i) { return -(bits >> i & 1); });
}

inline Vec8f select(Mask8 m, Vec8f yes, Vec8f no) {
  return detail::lanes<Vec8f>([&](int i) { return m.v[i] != 0 ? yes.v[i] : no.v[i]; });
}
inline Vec8i select(Mask8 m, Vec8i yes, Vec8i no) {
  return detail::lanes<Vec8i>([&](int i) { return m.v[i] != 0 ? yes.v[i] : no.v[i]; });
}

inline Vec8f to_float(Vec8i a) {
  return detail::lanes<Vec8f>([&](int i) { return static_cast<float>(a.v[i]); });
}
inline Vec8i to_int_rounded(Vec8f a) {
  return detail::lanes<Vec8i>([&](int i) {
    const bool fits = a.v[i] >= -0x1p31f && a.v[i] < 0x1p31f;
    return fits ? static_cast<int32_t>(std::nearbyintf(a.v[i])) : INT32_MIN;
  });
}
inline Vec8f pow2(Vec8i n) {
  return detail::lanes<Vec8f>(
      [&](int i) { return float_of_bits(static_cast<uint32_t>(n.v[i] + 127) << 23); });
}

inline Vec8f permute(Vec8f a, Vec8i index) {
  return detail::lanes<Vec8f>([&](int i) { return a.v[index.v[i] & 7]; });
}
inline Vec8f gather(const float* base, Vec8i index) {
  return detail::lanes<Vec8f>([&](int i) { return base[index.v[i]]; });
}

inline void transpose8(Vec8f r[8]) {
  for (int i = 0; i < 8; ++i) {
    for (int j = i + 1; j < 8; ++j) {
      const float t = r[i].v[j];
      r[i].v[j] = r[j].v[i];
      r[j].v[i] = t;
    }
  }
}

}  // namespace c2f::cpu
