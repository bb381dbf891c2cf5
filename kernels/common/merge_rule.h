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

// A pixel is not covered where its p_f is NaN.
C2F_HD bool is_covered(float p_f) { return p_f == p_f; }

C2F_HD float sigmoid(float logit) { return 1.0f / (1.0f + expf(-logit)); }

// sigmoid(logit) >= 0.5 as float32 rounds it, without the exponential: 1 + exp(-l) still rounds to
// 2 while exp(-l) rounds to at most 1 + 2^-23, that is for l > -1.5 * 2^-23. NaN gives false.
C2F_HD bool sigmoid_at_least_half(float logit) { return logit > -1.5f * 1.1920929e-7f; }

// Whether the fine answer contradicts the coarse one; p_f of a covered pixel.
C2F_HD bool is_conflict(bool coarse_is_small, float p_f) {
  return coarse_is_small != (p_f >= 0.5f);
}

// What a conflict adds to its target class.
C2F_HD float conflict_addition(bool coarse_is_small, float p_f) {
  return coarse_is_small ? 1.0f - p_f : p_f;
}

// The most probable class of C and of the rest, fed with a pixel's logits in ascending class order.
// A NaN logit counts as -inf. Kept by logit, since softmax may round far smaller ones to equal
// probabilities.
struct GroupBest {
  float value[2] = {-INFINITY, -INFINITY};  // [0] outside C, [1] in C
  int32_t cls[2] = {kNoClass, kNoClass};

  C2F_HD void add(int32_t c, bool is_small, float logit) {
    const int group = is_small ? 1 : 0;
    if (cls[group] == kNoClass || logit > value[group]) {
      value[group] = logit == logit ? logit : -INFINITY;
      cls[group] = c;
    }
  }

  // Which group holds c*, the lowest class winning a tie.
  C2F_HD int winner_group() const {
    if (cls[0] == kNoClass) return 1;
    if (cls[1] == kNoClass) return 0;
    if (value[0] != value[1]) return value[1] > value[0] ? 1 : 0;
    return cls[1] < cls[0] ? 1 : 0;
  }
};

// Only c* and the class that was added to can be the argmax; the lowest class wins a tie.
C2F_HD int32_t merged_label(int32_t coarse, float p_coarse, int32_t target, float p_target,
                            float addition) {
  const float raised = p_target + addition;
  const bool wins = raised > p_coarse || (raised == p_coarse && target < coarse);
  return wins ? target : coarse;
}

}  // namespace c2f
