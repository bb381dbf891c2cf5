// merge_rule.h for eight pixels at a time. Their logits are stored as [N, 8]: class c of pixel j at
// c * 8 + j. NaN counts as -inf throughout.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "../common/merge_rule.h"
#include "../common/params.h"
#include "scratch.h"
#include "vec.h"

namespace c2f::cpu {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// The N classes, split by membership in C, each group in ascending order.
struct ClassGroups {
  ClassGroups(const ClassTable& classes, int64_t classes_count) : N(classes_count) {
    for (auto& group : members) group.reserve(static_cast<size_t>(N));
    for (int32_t c = 0; c < N; ++c) members[classes.is_small[c] != 0 ? 1 : 0].push_back(c);
    is_small.assign(classes.is_small, classes.is_small + N);
  }
  int64_t N;
  Scratch<uint8_t> is_small;    // [N]
  Scratch<int32_t> members[2];  // [0] outside C, [1] in C
};

// GroupBest of eight pixels; `cls` of an empty group is kNoClass.
struct GroupBest8 {
  Vec8f value[2];
  Vec8i cls[2];

  GroupBest8(const ClassGroups& groups, const float* logits) {
    Vec8f outside = set8(kMinusInfinity), inside = outside;
    Vec8i outside_cls = first_of(groups.members[0]), inside_cls = first_of(groups.members[1]);
    Vec8i id = set8(int32_t{0});
    const uint8_t* is_small = groups.is_small.data();
    for (int64_t c = 0; c < groups.N; ++c) {
      const Vec8f logit = load8(logits + 8 * c);
      if (is_small[c] != 0) {
        inside_cls = select(logit > inside, id, inside_cls);
        inside = max(logit, inside);
      } else {
        outside_cls = select(logit > outside, id, outside_cls);
        outside = max(logit, outside);
      }
      id = id + set8(int32_t{1});
    }
    value[0] = outside, value[1] = inside;
    cls[0] = outside_cls, cls[1] = inside_cls;
  }

  Vec8f top() const { return max(value[0], value[1]); }

  static Vec8i first_of(const Scratch<int32_t>& members) {
    return set8(members.empty() ? kNoClass : members[0]);
  }

  // One bit per pixel: whether c* is in C.
  int small_bits() const {
    const int larger = movemask(value[1] > value[0]);
    int tied = movemask(value[1] == value[0]);
    if (tied == 0) return larger;
    int32_t outside[8], inside[8];
    store8(outside, cls[0]);
    store8(inside, cls[1]);
    for (int j = 0; j < 8; ++j) {
      const bool wins = outside[j] == kNoClass || (inside[j] != kNoClass && inside[j] < outside[j]);
      if (!wins) tied &= ~(1 << j);
    }
    return larger | tied;
  }
};

inline Vec8f largest8(int64_t N, const float* logits) {
  Vec8f top = set8(kMinusInfinity);
  for (int64_t c = 0; c < N; ++c) top = max(load8(logits + 8 * c), top);
  return top;
}

inline Vec8f exp_below(const float* logit, Vec8f top) {
  return exp(max(load8(logit), set8(kMinusInfinity)) - top);
}

// One bit per pixel: whether its largest logit is infinite, where softmax is one-hot at the argmax.
inline int infinite_bits(Vec8f top) {
  return movemask(abs(top) == set8(std::numeric_limits<float>::infinity()));
}

// Replaces logits by softmax probabilities; `top` is the largest logit.
inline void softmax8(int64_t N, Vec8f top, float* logits) {
  const int infinite = infinite_bits(top);
  int64_t hot[8] = {};
  for (int j = 0; j < 8 && infinite != 0; ++j) {
    float best = kMinusInfinity;
    for (int64_t c = 0; c < N; ++c) {
      if (logits[8 * c + j] > best) best = logits[8 * c + j], hot[j] = c;
    }
  }
  Vec8f sum = set8(0.0f);
  for (int64_t c = 0; c < N; ++c) {
    const Vec8f e = exp_below(logits + 8 * c, top);
    sum = sum + e;
    store8(logits + 8 * c, e);
  }
  const Vec8f scale = set8(1.0f) / sum;
  for (int64_t c = 0; c < N; ++c) store8(logits + 8 * c, load8(logits + 8 * c) * scale);
  for (int j = 0; j < 8 && infinite != 0; ++j) {
    if ((infinite >> j & 1) == 0) continue;
    for (int64_t c = 0; c < N; ++c) logits[8 * c + j] = c == hot[j] ? 1.0f : 0.0f;
  }
}

// One bit per pixel, for those in `pixels`: whether the best class of the other group, raised by
// `addition`, beats the coarse label. Decided by the probabilities themselves.
inline int evaluate_winners8(const ClassGroups& groups, const float* logits, const GroupBest8& best,
                             int pixels, int small, Vec8f addition, Vec8i labels) {
  const Vec8f top = best.top();
  Vec8f sum = set8(0.0f);
  for (int64_t c = 0; c < groups.N; ++c) sum = sum + exp_below(logits + 8 * c, top);
  const Vec8f scale = set8(1.0f) / sum;
  const int infinite = infinite_bits(top);
  float p[2][8], added[8];
  int32_t cls[2][8], coarse[8];
  store8(coarse, labels);
  for (int g = 0; g < 2; ++g) {
    store8(p[g], exp(best.value[g] - top) * scale);
    store8(cls[g], best.cls[g]);
  }
  store8(added, addition);
  int wins = 0;
  for (int j = 0; j < 8; ++j) {
    if ((pixels >> j & 1) == 0) continue;
    const int from = small >> j & 1, to = 1 - from;
    const bool one_hot = (infinite >> j & 1) != 0;
    const int32_t merged = merged_label(coarse[j], one_hot ? 1.0f : p[from][j], cls[to][j],
                                        one_hot ? 0.0f : p[to][j], added[j]);
    if (merged == cls[to][j]) wins |= 1 << j;
  }
  return wins;
}

// At least the sum of exp(logit - top) over the classes, and at most 1.0615 times it, for finite
// `top`: 2^(i + f) is taken as 2^i (1 + f) >= 2^(i + f), by writing i + f into a float's exponent
// and mantissa bits. (Terms below 2^-127 count as 0.)
inline Vec8f sum_of_exps_above(int64_t N, const float* logits, Vec8f top) {
  const Vec8f unit = set8(0x1p23f * 1.44269504f), one = set8(0x1p23f * 127.0f), zero = set8(0.0f);
  Vec8f sum = zero;
  for (int64_t c = 0; c < N; ++c) {
    const Vec8i bits = to_int_rounded(max(fma(load8(logits + 8 * c) - top, unit, one), zero));
    Vec8f power;
    static_assert(sizeof power == sizeof bits, "both are 8 lanes of 32 bits");
    std::memcpy(&power, &bits, sizeof power);
    sum = sum + power;
  }
  return sum;
}

// Labels of eight pixels; the row ends after `left` of them.
class Labels8 {
 public:
  Labels8(uint8_t* row, int64_t left) : row_(row), count_(left < 8 ? left : 8) {
    uint8_t bytes[8] = {};
    copy(row, bytes);
    values = load8_bytes(bytes);
  }

  // Writes the labels of the pixels in `pixels` (bits).
  void replace(Vec8i fresh, int pixels) const {
    uint8_t bytes[8];
    store8_bytes(bytes, select(mask_of_bits(pixels), fresh, values));
    copy(bytes, row_);
  }

  Vec8i values;

 private:
  // A copy of a constant 8 bytes is one instruction.
  void copy(const uint8_t* from, uint8_t* to) const {
    if (count_ == 8) {
      std::memcpy(to, from, 8);
    } else {
      std::memcpy(to, from, static_cast<size_t>(count_));
    }
  }

  uint8_t* row_;
  int64_t count_;
};

// Writes the merged labels of the pixels in `conflicts` (bits); `small` says which of the eight
// coarse labels are in C.
//
// With e = exp(logit - top) and S their sum, the target t wins where e_t / S + addition > 1 / S,
// that is S * addition > 1 - e_t. S is at least 1 + e_t, which decides most pixels; bounds on S
// decide nearly all others, and the rest are evaluated as the probabilities are.
inline void merge_labels8(const ClassGroups& groups, const float* logits, Vec8f p_f, int conflicts,
                          int small, const Labels8& labels) {
  if (groups.members[0].empty()) conflicts &= ~small;  // they have no target
  if (groups.members[1].empty()) conflicts &= small;
  const GroupBest8 best(groups, logits);
  const Vec8f top = best.top(), one = set8(1.0f);
  const Mask8 is_small = mask_of_bits(small);
  const Vec8f addition = select(is_small, one - p_f, p_f);
  const Vec8f from = select(is_small, best.value[1], best.value[0]);
  const Vec8f to = select(is_small, best.value[0], best.value[1]);

  // Rounding, of these lines and of the evaluation, stays far below 1e-4.
  const Vec8f e = exp(to - top), slack = set8(1e-4f), needed = one - e;
  const int doubtful = infinite_bits(top) | ~movemask(from == top);
  int wins = movemask((one + e) * addition > needed + slack) & ~doubtful;
  if ((conflicts & ~wins) != 0) {
    const Vec8f raised = sum_of_exps_above(groups.N, logits, top) * addition;
    wins |= movemask(raised * set8(0.94f) > needed + slack) & ~doubtful;
    const int loses = movemask(raised * set8(1.001f) < needed - slack) & ~doubtful;
    const int undecided = conflicts & ~(wins | loses);
    if (undecided != 0) {
      wins |= evaluate_winners8(groups, logits, best, undecided, small, addition, labels.values);
    }
  }
  wins &= conflicts;
  if (wins != 0) labels.replace(select(is_small, best.cls[0], best.cls[1]), wins);
}

// Replaces logits by scores: the softmax p and, where a pixel is covered (p_f is not NaN), the sums
// of Eq. (1) through a second softmax ("paper") or divided by their total ("normalized").
inline void merge_probs8(const ClassGroups& groups, bool second_softmax, Vec8f p_f, float* logits) {
  const GroupBest8 best(groups, logits);
  const int64_t N = groups.N;
  softmax8(N, best.top(), logits);
  const Mask8 covered = p_f == p_f;
  const int small = best.small_bits();
  int conflicts = movemask(covered) & (small ^ movemask(p_f >= set8(0.5f)));
  if (groups.members[0].empty()) conflicts &= ~small;
  const Mask8 demote = mask_of_bits(conflicts & small), promote = mask_of_bits(conflicts & ~small);
  const Vec8f zero = set8(0.0f), one = set8(1.0f);
  const Vec8f addition = select(demote, one - p_f, select(promote, p_f, zero));
  const Vec8i target = select(demote, best.cls[0], best.cls[1]);
  if (!second_softmax) {
    if (conflicts == 0) return;
    const Vec8f scale = one / (one + addition);
    for (int32_t c = 0; c < N; ++c) {
      const Vec8f value = load8(logits + 8 * c) + select(target == set8(c), addition, zero);
      store8(logits + 8 * c, value * scale);
    }
    return;
  }
  // Values lie in [0, 2]: the softmax needs no maximum.
  Vec8f sum = zero;
  for (int32_t c = 0; c < N; ++c) {
    sum = sum + exp(load8(logits + 8 * c) + select(target == set8(c), addition, zero));
  }
  const Vec8f scale = one / sum;
  for (int32_t c = 0; c < N; ++c) {
    const Vec8f p = load8(logits + 8 * c);
    const Vec8f merged = exp(p + select(target == set8(c), addition, zero)) * scale;
    store8(logits + 8 * c, select(covered, merged, p));
  }
}

// The authors' rule: p_f is added to the logits of the small classes of covered pixels.
inline void merge_official8(const ClassGroups& groups, Vec8f p_f, float* logits) {
  const Vec8f addition = select(p_f == p_f, p_f, set8(0.0f));
  for (const int32_t c : groups.members[1]) {
    store8(logits + 8 * c, load8(logits + 8 * c) + addition);
  }
}

}  // namespace c2f::cpu
