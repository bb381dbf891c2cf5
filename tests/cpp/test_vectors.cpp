// kernels/cpu/vec.h and bytes.h, the half that the compiler targets, against scalar C++.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../../kernels/cpu/bytes.h"
#include "../../kernels/cpu/vec.h"
#include "topics.h"

namespace {

using c2f::cpu::Mask8;
using c2f::cpu::Vec8f;
using c2f::cpu::Vec8i;

constexpr float kValues[] = {0.0f,       -0.0f,    1.0f,    -1.0f,  0.5f,     2.5f,
                             -3.5f,      1e-40f,   -1e-40f, kInf,   -kInf,    kNaN,
                             65504,      65520,    1e30f,   -7e4f,  0x1p-24f, 6e-8f,
                             3.3895e38f, -3.4e38f, 0.333f,  88.37f, -88.0f,   1.0078125f};
constexpr int kNumValues = sizeof kValues / sizeof kValues[0];

// Equal bits, or both NaN.
bool same(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) || c2f::bits_of_float(a) == c2f::bits_of_float(b);
}

struct Lanes {
  float at[8];
  explicit Lanes(Vec8f a) { store8(at, a); }
};
struct IntLanes {
  int32_t at[8];
  explicit IntLanes(Vec8i a) { store8(at, a); }
};

// All pairs of values, eight at a time: f(a, b) of vectors against g(a, b) of numbers.
template <class F, class G>
bool agree(F f, G g) {
  for (int i = 0; i < kNumValues; ++i) {
    for (int j = 0; j + 8 <= kNumValues; j += 8) {
      const Lanes found(f(c2f::cpu::set8(kValues[i]), c2f::cpu::load8(kValues + j)));
      for (int k = 0; k < 8; ++k) {
        if (!same(found.at[k], g(kValues[i], kValues[j + k]))) return false;
      }
    }
  }
  return true;
}

// The same for comparisons, by all three ways to read a mask.
template <class F, class G>
bool agree_masks(F f, G g) {
  for (int i = 0; i < kNumValues; ++i) {
    for (int j = 0; j + 8 <= kNumValues; j += 8) {
      const Mask8 found = f(c2f::cpu::set8(kValues[i]), c2f::cpu::load8(kValues + j));
      int bits = 0;
      for (int k = 0; k < 8; ++k) bits |= static_cast<int>(g(kValues[i], kValues[j + k])) << k;
      const Mask8 again = c2f::cpu::mask_of_bits(bits);
      if (movemask(found) != bits || movemask(again) != bits) return false;
      const Lanes chosen(select(again, c2f::cpu::set8(1.0f), c2f::cpu::set8(2.0f)));
      const IntLanes ints(select(found, c2f::cpu::set8(int32_t{1}), c2f::cpu::set8(int32_t{2})));
      for (int k = 0; k < 8; ++k) {
        if (chosen.at[k] != ((bits >> k & 1) != 0 ? 1.0f : 2.0f)) return false;
        if (static_cast<float>(ints.at[k]) != chosen.at[k]) return false;
      }
    }
  }
  return true;
}

void arithmetic() {
  using V = Vec8f;
  CHECK(agree([](V a, V b) { return a + b; }, [](float a, float b) { return a + b; }));
  CHECK(agree([](V a, V b) { return a - b; }, [](float a, float b) { return a - b; }));
  CHECK(agree([](V a, V b) { return a * b; }, [](float a, float b) { return a * b; }));
  CHECK(agree([](V a, V b) { return a / b; }, [](float a, float b) { return a / b; }));
  CHECK(agree([](V a, V b) { return min(a, b); }, [](float a, float b) { return a < b ? a : b; }));
  CHECK(agree([](V a, V b) { return max(a, b); }, [](float a, float b) { return a > b ? a : b; }));
  CHECK(agree([](V, V b) { return abs(b); }, [](float, float b) { return std::fabs(b); }));
  const V half = c2f::cpu::set8(0.5f);
#if defined(C2F_VECTORS)
  CHECK(agree([=](V a, V b) { return fma(a, b, half); },
              [](float a, float b) { return std::fma(a, b, 0.5f); }));
#else
  CHECK(agree([=](V a, V b) { return fma(a, b, half); },
              [](float a, float b) { return a * b + 0.5f; }));
#endif
  const auto sum = IntLanes(c2f::cpu::set8(int32_t{7}) + c2f::cpu::set8(int32_t{-9}));
  const auto difference = IntLanes(c2f::cpu::set8(int32_t{7}) - c2f::cpu::set8(int32_t{-9}));
  CHECK(sum.at[0] == -2 && sum.at[7] == -2 && difference.at[0] == 16 && difference.at[7] == 16);
}

void masks() {
  using V = Vec8f;
  CHECK(agree_masks([](V a, V b) { return a > b; }, [](float a, float b) { return a > b; }));
  CHECK(agree_masks([](V a, V b) { return a >= b; }, [](float a, float b) { return a >= b; }));
  CHECK(agree_masks([](V a, V b) { return a < b; }, [](float a, float b) { return a < b; }));
  CHECK(agree_masks([](V a, V b) { return a == b; }, [](float a, float b) { return a == b; }));
  const int32_t counts[8] = {0, 1, 2, 3, 4, 5, 6, 7};
  CHECK(movemask(c2f::cpu::load8(counts) == c2f::cpu::set8(int32_t{5})) == 32);
}

// Every bit pattern of 16 bits, read and written.
void conversions() {
  bool read = true, written = true;
  for (uint32_t first = 0; first < 0x10000u; first += 8) {
    c2f::F16 halves[8], halves_again[8];
    c2f::BF16 brains[8], brains_again[8];
    uint16_t words[8];
    for (uint32_t k = 0; k < 8; ++k) {
      words[k] = static_cast<uint16_t>(first + k);
      halves[k] = {words[k]};
      brains[k] = {words[k]};
    }
    int16_t shorts[8];
    std::memcpy(shorts, words, sizeof words);
    const Lanes h(c2f::cpu::load8(halves)), b(c2f::cpu::load8(brains));
    const Lanes u(c2f::cpu::load8(words)), i(c2f::cpu::load8(shorts));
    store8(halves_again, c2f::cpu::load8(h.at));
    store8(brains_again, c2f::cpu::load8(b.at));
    for (int k = 0; k < 8; ++k) {
      read &= same(h.at[k], to_float(halves[k])) && same(b.at[k], to_float(brains[k]));
      read &= u.at[k] == static_cast<float>(words[k]) && i.at[k] == static_cast<float>(shorts[k]);
      if (!std::isnan(h.at[k])) written &= halves_again[k].bits == words[k];
      if (!std::isnan(b.at[k])) written &= brains_again[k].bits == words[k];
    }
  }
  CHECK(read);
  CHECK(written);

  // Rounding: values between those of 16 bits, and ties.
  bool rounded = true;
  for (uint32_t bits = 0; bits < 0xff800000u; bits += 0x0fff * 8) {
    float values[8];
    for (uint32_t k = 0; k < 8; ++k) values[k] = c2f::float_of_bits(bits + k * 0x0fff);
    values[7] = c2f::float_of_bits(bits & 0xffff8000u);
    c2f::F16 halves[8];
    c2f::BF16 brains[8];
    store8(halves, c2f::cpu::load8(values));
    store8(brains, c2f::cpu::load8(values));
    for (int k = 0; k < 8; ++k) {
      if (std::isnan(values[k])) {
        rounded &= std::isnan(to_float(halves[k])) && brains[k].bits == 0x7fc0;
      } else {
        rounded &= halves[k].bits == c2f::to_f16(values[k]).bits;
        rounded &= brains[k].bits == c2f::to_bf16(values[k]).bits;
      }
    }
  }
  CHECK(rounded);

  const float numbers[8] = {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 254.75f, -1e6f};
  const IntLanes ints(c2f::cpu::to_int_rounded(c2f::cpu::load8(numbers)));
  const int32_t nearest[8] = {0, 2, 2, 0, -2, -2, 255, -1000000};
  CHECK(std::memcmp(ints.at, nearest, sizeof nearest) == 0);
  const Lanes back(c2f::cpu::to_float(c2f::cpu::load8(nearest)));
  const int32_t powers[8] = {-126, -1, 0, 1, 2, 10, 100, 127};
  const Lanes two(c2f::cpu::pow2(c2f::cpu::load8(powers)));
  for (int k = 0; k < 8; ++k) {
    CHECK(back.at[k] == static_cast<float>(nearest[k]));
    CHECK(two.at[k] == std::ldexp(1.0f, powers[k]));
  }
}

void lanes() {
  float numbers[64];
  for (int i = 0; i < 64; ++i) numbers[i] = static_cast<float>(i) + 0.25f;
  const int32_t order[8] = {7, 0, 0, 3, 12, 2, 6, -1};  // the lowest three bits count
  const Lanes permuted(c2f::cpu::permute(c2f::cpu::load8(numbers), c2f::cpu::load8(order)));
  const int32_t places[8] = {63, 0, 9, 31, 32, 5, 5, 62};
  const Lanes gathered(c2f::cpu::gather(numbers, c2f::cpu::load8(places)));
  Vec8f rows[8];
  for (int i = 0; i < 8; ++i) rows[i] = c2f::cpu::load8(numbers + 8 * i);
  c2f::cpu::transpose8(rows);
  for (int i = 0; i < 8; ++i) {
    CHECK(permuted.at[i] == numbers[order[i] & 7]);
    CHECK(gathered.at[i] == numbers[places[i]]);
    const Lanes row(rows[i]);
    for (int j = 0; j < 8; ++j) CHECK(row.at[j] == numbers[8 * j + i]);
  }
  // In blocks of their own, so that a sanitizer sees a step over the end.
  for (int m = 0; m <= 8; ++m) {
    std::vector<float> some(numbers, numbers + m), stored(static_cast<size_t>(m));
    const Vec8f part = c2f::cpu::load8_partial(some.data(), m);
    c2f::cpu::store8_partial(stored.data(), part, m);
    CHECK(stored == some);
    const Lanes whole(part);
    for (int k = 0; k < 8; ++k) CHECK(whole.at[k] == (k < m ? numbers[k] : 0.0f));
  }
}

void bytes() {
  uint8_t in[64], out[64];
  for (int i = 0; i < 64; ++i) in[i] = static_cast<uint8_t>(251 * i + 3);
  const Lanes floats(c2f::cpu::load8(in + 1));
  Vec8i parts[4];
  for (int i = 0; i < 4; ++i) parts[i] = c2f::cpu::load8_bytes(in + 8 * i);
  c2f::cpu::store32_bytes(out, parts[0], parts[1], parts[2], parts[3]);
  CHECK(std::memcmp(in, out, 32) == 0);
  c2f::cpu::store8_bytes(out, parts[2]);
  CHECK(std::memcmp(in + 16, out, 8) == 0);
  for (int i = 0; i < 8; ++i) CHECK(floats.at[i] == in[1 + i]);
#if defined(C2F_VECTORS)
  const std::vector<uint8_t> pixels(in, in + 7 * 7 + 4);  // of 7 bytes, to the last that is read
  const Vec8i words = c2f::cpu::gather_words(pixels.data(), 7);
  const IntLanes low(low_bytes(words)), next(low_bytes(without_low_bytes(words)));
  const IntLanes none(without_low_bytes(without_low_bytes(without_low_bytes(words))));
  for (int i = 0; i < 8; ++i) {
    CHECK(low.at[i] == in[7 * i] && next.at[i] == in[7 * i + 1] && none.at[i] == in[7 * i + 3]);
  }
#endif
}

void label_rows() {
  uint8_t small[256] = {}, labels[256 + 40];
  for (int id : {0, 1, 15, 16, 40, 127, 128, 143, 144, 200, 254, 255}) small[id] = 1;
  for (int i = 0; i < 296; ++i) labels[i] = static_cast<uint8_t>(i);
  const c2f::cpu::ClassSet set(c2f::ClassTable{small});
  for (int64_t n : {0, 1, 31, 32, 33, 64, 255, 256}) {
    std::vector<uint8_t> of(labels, labels + n), found(static_cast<size_t>(n));
    set.members(of.data(), n, found.data());
    int64_t members = 0, total = 0;
    for (int64_t i = 0; i < n; ++i) {
      CHECK(found[static_cast<size_t>(i)] == small[i]);
      members += small[i];
      total += i;
    }
    CHECK(c2f::cpu::sum_bytes(found.data(), n) == members);
    CHECK(c2f::cpu::sum_bytes(of.data(), n) == total);
  }
  for (int first = 0; first < 256; ++first) {
    for (int64_t n : {1, 7, 31, 32}) {
      const std::vector<uint8_t> of(labels + first, labels + first + n);
      const uint32_t bits = set.bits(of.data(), n);
      for (int64_t i = 0; i < n; ++i) CHECK((bits >> i & 1u) == small[(first + i) & 255]);
    }
  }
  const std::vector<uint8_t> much(100000, 255);
  CHECK(c2f::cpu::sum_bytes(much.data(), 100000) == 25500000);

  for (int64_t width : {1, 15, 16, 17, 48, 61}) {
    for (int scale : {1, 2, 3, 40}) {
      std::vector<int32_t> column(static_cast<size_t>(width));
      for (int64_t x = 0; x < width; ++x) {
        column[static_cast<size_t>(x)] = static_cast<int32_t>(x / scale);
      }
      const size_t columns = static_cast<size_t>(column.back()) + 1;
      std::vector<uint8_t> in(columns + c2f::cpu::ByteExpander::kReadPadding), out(column.size());
      for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint8_t>(3 * i + 1);
      c2f::cpu::ByteExpander(column.data(), width)(in.data(), out.data());
      for (size_t x = 0; x < out.size(); ++x) {
        CHECK(out[x] == in[static_cast<size_t>(column[x])]);
      }
    }
  }
}

// exp and sigmoid to their stated errors; where e^x is not a normal number: 0, as is said there.
void exponentials() {
  bool close = true;
  for (float x = -87.0f; x < 88.3f; x += 0.0137f) {
    const float e = Lanes(c2f::cpu::exp(c2f::cpu::set8(x))).at[3];
    const float s = Lanes(c2f::cpu::sigmoid(c2f::cpu::set8(x))).at[5];
    const double truth = std::exp(static_cast<double>(x));
    close &= std::fabs(e - truth) <= 2e-7 * truth;
    close &= std::fabs(s - truth / (1.0 + truth)) <= 4e-7 * truth / (1.0 + truth);
  }
  CHECK(close);
  const float ends[8] = {-kInf, -200.0f, kNaN, kInf, 0.0f, -88.0f, 100.0f, -0.0f};
  const Lanes e(c2f::cpu::exp(c2f::cpu::load8(ends)));
  const Lanes s(c2f::cpu::sigmoid(c2f::cpu::load8(ends)));
  CHECK(e.at[0] == 0.0f && e.at[1] == 0.0f && std::isnan(e.at[2]) && e.at[3] == e.at[6]);
  CHECK(e.at[4] == 1.0f && e.at[5] == 0.0f && std::isfinite(e.at[6]) && e.at[7] == 1.0f);
  CHECK(s.at[0] == 0.0f && s.at[1] == 0.0f && std::isnan(s.at[2]) && s.at[3] == 1.0f);
  CHECK(s.at[4] == 0.5f && s.at[5] > 0.0f && s.at[6] == 1.0f && s.at[7] == 0.5f);
}

constexpr Topic kTopics[] = {{"arithmetic", arithmetic},
                             {"masks", masks},
                             {"conversions", conversions},
                             {"lanes", lanes},
                             {"bytes", bytes},
                             {"label_rows", label_rows},
                             {"exponentials", exponentials}};

}  // namespace

int main(int count, char** words) {
#if defined(__AVX2__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 77;  // skipped
#endif
  return run_topics(kTopics, count, words);
}
