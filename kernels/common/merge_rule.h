// How one pixel's coarse and fine answers are merged: Eq. (1) of the C2FNet paper, read so that
// either network can overrule the other, and the rule of the authors' released code.
//
// With p = softmax of the coarse logits, c* their argmax, C the small classes, p_f the fine
// network's probability of a small object:
//   case 1, c* in C and p_f < 0.5:      1 - p_f is added to the most probable class outside C;
//   case 2, c* not in C and p_f >= 0.5: p_f is added to the most probable class of C;
//   otherwise nothing is added. Without a class outside C case 1 has no target and adds nothing.
// The official rule adds p_f to the logit of every class of C instead.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace c2f {

constexpr int32_t kNoClass = -1;

// A pixel whose p_f is NaN counts as not covered.
C2F_HD bool is_covered(float p_f) { return p_f == p_f; }

C2F_HD float sigmoid(float logit) { return 1.0f / (1.0f + expf(-logit)); }

// sigmoid(logit) >= 0.5 as float32 rounds it, without the exponential: 1 + exp(-l) still rounds to
// 2 while exp(-l) rounds to at most 1 + 2^-23, that is for l > -1.5 * 2^-23. NaN gives false.
constexpr float kBelowLogitOfHalf = -1.5f * 1.1920929e-7f;
C2F_HD bool sigmoid_at_least_half(float logit) { return logit > kBelowLogitOfHalf; }

// Whether the fine answer contradicts the coarse one at a covered pixel.
C2F_HD bool is_conflict(bool coarse_is_small, float p_f) {
  return coarse_is_small != (p_f >= 0.5f);
}

// What a conflict adds to its target class.
C2F_HD float conflict_addition(bool coarse_is_small, float p_f) {
  return coarse_is_small ? 1.0f - p_f : p_f;
}

// The most probable class inside C and the one outside, found by feeding in a pixel's logits in
// ascending class order. A NaN logit counts as -inf. Logits are compared, not probabilities, since
// softmax may round logits far below the largest to equal probabilities.
struct GroupBest {
  struct Group {
    float value = -INFINITY;
    int32_t cls = kNoClass;

    C2F_HD void add(int32_t c, float logit) {
      const bool better = logit > value;
      cls = better || cls == kNoClass ? c : cls;
      value = better ? logit : value;
    }
  };
  Group outside, inside;  // of C

  C2F_HD void add(int32_t c, bool is_small, float logit) {
    if (is_small) {
      inside.add(c, logit);
    } else {
      outside.add(c, logit);
    }
  }

  C2F_HD float top() const { return inside.value > outside.value ? inside.value : outside.value; }

  // Whether c*, the lowest class of the largest logit, is in C.
  C2F_HD bool winner_is_small() const {
    if (outside.cls == kNoClass) return true;
    if (inside.cls == kNoClass) return false;
    if (outside.value != inside.value) return inside.value > outside.value;
    return inside.cls < outside.cls;
  }
  C2F_HD int32_t winner() const { return winner_is_small() ? inside.cls : outside.cls; }
};

// Sum of exp(logit - top) over the classes in one pass, where top is the largest logit so far. -inf
// and NaN add nothing. Meaningless where a logit is +inf or none is above -inf: softmax is one-hot
// there.
struct RunningExpSum {
  float top = -INFINITY;
  float sum = 0.0f;

  C2F_HD void add(float logit) {
    if (!(logit > -INFINITY)) return;
    const bool higher = logit > top;
    const float e = expf(higher ? top - logit : logit - top);
    sum = higher ? fmaf(sum, e, 1.0f) : sum + e;
    top = higher ? logit : top;
  }
};

// What a pixel's p_f adds, and to which class; 0 and kNoClass where it adds nothing.
struct Addition {
  int32_t target = kNoClass;
  float value = 0.0f;
};

C2F_HD Addition addition_of(const GroupBest& best, float p_f) {
  const bool small = best.winner_is_small();
  if (!is_covered(p_f) || !is_conflict(small, p_f)) return {};
  const int32_t target = small ? best.outside.cls : best.inside.cls;
  if (target == kNoClass) return {};
  return {target, conflict_addition(small, p_f)};
}

// Only c* and the class that was raised can be the argmax; the lower one wins a tie.
C2F_HD int32_t merged_label(int32_t coarse, float p_coarse, int32_t target, float p_target,
                            float addition) {
  const float raised = p_target + addition;
  const bool wins = raised > p_coarse || (raised == p_coarse && target < coarse);
  return wins ? target : coarse;
}

}  // namespace c2f
