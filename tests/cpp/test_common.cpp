// kernels/common against values computed by hand. `common TOPIC` runs the checks of one topic.
#include <cmath>
#include <initializer_list>

#include "../../kernels/common/bilinear.h"
#include "../../kernels/common/class_bits.h"
#include "../../kernels/common/cubic.h"
#include "../../kernels/common/dtype.h"
#include "../../kernels/common/half.h"
#include "../../kernels/common/merge_rule.h"
#include "../../kernels/common/resample_tap.h"
#include "../../kernels/common/select_key.h"
#include "../../kernels/common/windows.h"
#include "topics.h"

namespace {

bool same(const c2f::BilinearTap& tap, int32_t i0, int32_t i1, float w1) {
  return tap.i0 == i0 && tap.i1 == i1 && tap.w1 == w1;
}

void windows() {
  const c2f::WindowAxis even{512, 128, 32, true};  // (512 - 128) / 32 leaves nothing
  CHECK(even.count() == 13 && even.origin(12) == 384);
  const c2f::WindowAxis flush{500, 128, 50, true}, drop{500, 128, 50, false};
  CHECK(flush.regular() == 8 && flush.count() == 9);
  CHECK(flush.origin(7) == 350 && flush.origin(8) == 372);
  CHECK(drop.count() == 8);
  const c2f::WindowAxis whole{7, 7, 100, true};
  CHECK(whole.count() == 1 && whole.origin(0) == 0);
  const c2f::WindowAxis longest{(int64_t{1} << 31) - 1, 1, 1, true};
  CHECK(longest.count() == (int64_t{1} << 31) - 1);

  // Higher count first, then lower index.
  CHECK(c2f::select_key(2, 9) > c2f::select_key(1, 0));
  CHECK(c2f::select_key(2, 3) > c2f::select_key(2, 4));
  const uint64_t key = c2f::select_key(46340 * 46340, 0xfffffffeu);
  CHECK(c2f::select_key_count(key) == 46340 * 46340);
  CHECK(c2f::select_key_index(key) == 0xfffffffeu);
}

void positions() {
  CHECK(c2f::resize_scale(3, 8) == 0.375f);
  const auto tap = [](int64_t dst) { return c2f::bilinear_tap(dst, 0.25f, 4); };  // 4 -> 16
  CHECK(same(tap(0), 0, 1, 0.0f));                                                // 0.125 - 0.5 < 0
  CHECK(same(tap(2), 0, 1, 0.125f));                                              // 2.5 / 4 - 0.5
  CHECK(same(tap(5), 0, 1, 0.875f));
  CHECK(same(tap(6), 1, 2, 0.125f));
  CHECK(same(tap(13), 2, 3, 0.875f));
  CHECK(same(tap(15), 3, 3, 0.375f));  // its neighbour is itself
  CHECK(same(c2f::bilinear_tap(1, 0.5f, 1), 0, 0, 0.25f));
  CHECK(same(c2f::unresized_tap(7), 7, 7, 0.0f));
  // Positions are rounded once: exactly computed in double, then rounded.
  for (const int64_t dst : {1, 1000, 999999, 4194303}) {
    const float scale = c2f::resize_scale(1, 3);
    const double exact = static_cast<double>(scale) * (static_cast<double>(dst) + 0.5) - 0.5;
    CHECK(c2f::source_position(dst, scale) == static_cast<float>(exact));
  }
  // No tap leaves the axis, whatever rounding does at its end.
  for (int64_t in = 1; in < 40; ++in) {
    for (int64_t out = in; out < 200; ++out) {
      const auto last = c2f::bilinear_tap(out - 1, c2f::resize_scale(in, out), in);
      CHECK(last.i0 >= 0 && last.i1 < in && last.w1 >= 0.0f && last.w1 <= 1.0f);
    }
  }
  // 1 2 above 3 4, a quarter to the right, half way down.
  CHECK(c2f::bilinear_value(1, 2, 3, 4, 0.5f, 0.25f) == 2.25f);
  CHECK(c2f::bilinear_value(5, 6, 7, 8, 0.0f, 0.0f) == 5.0f);
  CHECK(std::isnan(c2f::bilinear_value(5, kNaN, 7, 8, 0.0f, 0.0f)));  // weight 0 counts
}

bool weights(const float (&w)[4], float a, float b, float c, float d) {
  return w[0] == a && w[1] == b && w[2] == c && w[3] == d;
}

void cubic() {
  // Twice as large: positions at quarters. Output 1 lies at 0.25, output 0 at -0.25.
  const c2f::CubicTap first = c2f::cubic_tap(0, 0.5f, 8), second = c2f::cubic_tap(1, 0.5f, 8);
  CHECK(first.first == -2 && second.first == -1);
  // a = -3/4, t = 1/4: a(t+1)^3 - 5a(t+1)^2 + 8a(t+1) - 4a = -27/256, (a+2)t^3 - (a+3)t^2 + 1 =
  // 225/256, the same at 1 - t = 3/4: 67/256, and -9/256.
  CHECK(weights(second.w, -27 / 256.0f, 225 / 256.0f, 67 / 256.0f, -9 / 256.0f));
  CHECK(weights(first.w, -9 / 256.0f, 67 / 256.0f, 225 / 256.0f, -27 / 256.0f));
  CHECK(weights(c2f::cubic_tap(3, 1.0f, 8).w, 0, 1, 0, 0));
  CHECK(c2f::nearest_source(5, 0.5f, 4) == 2);
  CHECK(c2f::nearest_source(9, 0.5f, 4) == 3);  // clamped

  using c2f::Resample;
  CHECK(c2f::resample_taps(Resample::kBicubic, false) == 1);
  CHECK(c2f::resample_taps(Resample::kNearest, true) == 1);
  CHECK(c2f::resample_taps(Resample::kBilinear, true) == 2);
  CHECK(c2f::resample_taps(Resample::kBicubic, true) == 4);
  const c2f::ResampleTap linear = c2f::resample_tap(Resample::kBilinear, true, 2, 0.25f, 4);
  CHECK(linear.first == 0 && weights(linear.w, 0.875f, 0.125f, 0, 0));
  CHECK(c2f::resample_tap(Resample::kBicubic, false, 5, 1.0f, 8).first == 5);
}

uint16_t f16(float value) { return c2f::to_f16(value).bits; }
uint16_t bf16(float value) { return c2f::to_bf16(value).bits; }

void half() {
  CHECK(f16(1.0f) == 0x3c00 && f16(-2.0f) == 0xc000 && f16(-0.0f) == 0x8000);
  CHECK(f16(1.0f + 0x1p-11f) == 0x3c00 && f16(1.0f + 3 * 0x1p-11f) == 0x3c02);  // ties to even
  CHECK(f16(65504.0f) == 0x7bff && f16(65519.996f) == 0x7bff && f16(65520.0f) == 0x7c00);
  CHECK(f16(-kInf) == 0xfc00 && (f16(kNaN) & 0x7fff) > 0x7c00);
  CHECK(f16(0x1p-24f) == 1 && f16(0x1p-25f) == 0 && f16(1.5f * 0x1p-24f) == 2);  // subnormal
  CHECK(f16(0x1p-14f) == 0x0400 && f16(0x1p-14f - 0x1p-25f) == 0x0400);
  CHECK(bf16(1.0f) == 0x3f80 && bf16(1.0f + 0x1p-8f) == 0x3f80);
  CHECK(bf16(1.0f + 3 * 0x1p-8f) == 0x3f82 && bf16(kInf) == 0x7f80 && bf16(kNaN) == 0x7fc0);
  CHECK(bf16(std::numeric_limits<float>::max()) == 0x7f80);  // rounds up to inf
  CHECK(c2f::pack_f16(1.0f, -2.0f) == 0xc0003c00u);
  CHECK(c2f::pack_bf16(1.0f, kInf) == 0x7f803f80u);
  CHECK(c2f::to_float(c2f::F16{0x3555}) == 0.333251953125f);
  CHECK(c2f::to_float(c2f::F16{0x0001}) == 0x1p-24f && c2f::to_float(c2f::F16{0xfc00}) == -kInf);
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float as_f16 = c2f::to_float(c2f::F16{static_cast<uint16_t>(bits)});
    const float as_bf16 = c2f::to_float(c2f::BF16{static_cast<uint16_t>(bits)});
    CHECK(std::isnan(as_f16) || f16(as_f16) == bits);
    CHECK(std::isnan(as_bf16) || bf16(as_bf16) == bits);
  }
}

void classes() {
  uint8_t small[c2f::kMaxClasses] = {};
  small[0] = small[31] = small[32] = small[255] = 1;
  const c2f::ClassBits bits = c2f::class_bits(c2f::ClassTable{small});
  for (int c = 0; c < c2f::kMaxClasses; ++c) CHECK(bits.has(c) == (small[c] != 0));
  CHECK(bits.has_id(255) && !bits.has_id(1));
  for (const int64_t id :
       {int64_t{-1}, int64_t{256}, int64_t{1} << 32, std::numeric_limits<int64_t>::min()}) {
    CHECK(!bits.has_id(id));
  }
  using c2f::DType;
  CHECK(c2f::dtype_bytes(DType::kU8) == 1 && c2f::dtype_bytes(DType::kBF16) == 2);
  CHECK(c2f::dtype_bytes(DType::kF32) == 4 && c2f::dtype_bytes(DType::kI64) == 8);
}

void merge() {
  CHECK(c2f::sigmoid(0.0f) == 0.5f && c2f::sigmoid(-kInf) == 0.0f && c2f::sigmoid(kInf) == 1.0f);
  CHECK(!c2f::is_covered(kNaN) && c2f::is_covered(0.0f));
  CHECK(c2f::sigmoid_at_least_half(0.0f) && c2f::sigmoid_at_least_half(-0x1p-23f));
  CHECK(!c2f::sigmoid_at_least_half(-0x1p-22f) && !c2f::sigmoid_at_least_half(kNaN));
  CHECK(c2f::is_conflict(true, 0.25f) && !c2f::is_conflict(true, 0.5f));
  CHECK(c2f::is_conflict(false, 0.5f) && !c2f::is_conflict(false, 0.25f));
  CHECK(c2f::conflict_addition(true, 0.25f) == 0.75f);
  CHECK(c2f::conflict_addition(false, 0.75f) == 0.75f);

  const auto best_of = [](const float (&logits)[4], unsigned small) {
    c2f::GroupBest best;
    for (int c = 0; c < 4; ++c) best.add(c, (small >> c & 1u) != 0, logits[c]);
    return best;
  };
  // Class 2 is small and ties with class 1: the lower one wins.
  const auto tie = best_of({1, 3, 3, 2}, 1u << 2);
  CHECK(tie.winner() == 1 && !tie.winner_is_small() && tie.top() == 3.0f);
  const auto nan = best_of({kNaN, kNaN, kNaN, kNaN}, 1u << 2);
  CHECK(nan.winner() == 0 && nan.inside.cls == 2);
  CHECK(best_of({-kInf, kNaN, 5, 7}, 1u << 3).winner() == 3);

  // Case 1: the coarse answer is small, the fine one is not. Case 2: the other way round.
  const auto small = best_of({0, 4, 9, 2}, 1u << 2);
  const c2f::Addition one = c2f::addition_of(small, 0.25f);
  CHECK(one.target == 1 && one.value == 0.75f);
  CHECK(c2f::addition_of(small, 0.5f).target == c2f::kNoClass);
  CHECK(c2f::addition_of(small, kNaN).target == c2f::kNoClass);
  const c2f::Addition two = c2f::addition_of(best_of({9, 4, 0, 2}, 1u << 2 | 1u << 3), 0.75f);
  CHECK(two.target == 3 && two.value == 0.75f);
  const auto all_small = best_of({1, 2, 3, 4}, 15u);
  CHECK(all_small.winner_is_small() && c2f::addition_of(all_small, 0.0f).target == c2f::kNoClass);

  CHECK(c2f::merged_label(3, 0.5f, 1, 0.25f, 0.75f) == 1);
  CHECK(c2f::merged_label(3, 1.0f, 1, 0.25f, 0.75f) == 1);  // a tie: the lower class
  CHECK(c2f::merged_label(0, 1.0f, 1, 0.25f, 0.75f) == 0);
  CHECK(c2f::merged_label(0, 1.0f, 1, 0.25f, 0.5f) == 0);

  c2f::RunningExpSum sum;
  for (const float logit : {-kInf, 1.0f, kNaN, 1.0f}) sum.add(logit);
  CHECK(sum.top == 1.0f && sum.sum == 2.0f);
  sum.add(1.0f + std::log(4.0f));  // the others weigh a quarter now
  CHECK(std::fabs(sum.sum - 1.5f) < 1e-6f);
}

constexpr Topic kTopics[] = {{"windows", windows}, {"positions", positions}, {"cubic", cubic},
                             {"half", half},       {"classes", classes},     {"merge", merge}};

}  // namespace

int main(int count, char** words) { return run_topics(kTopics, count, words); }
