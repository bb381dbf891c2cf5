// aggregate: the coarse and the fine answer, merged; one launch, for labels or for scores.
#pragma once

#include "aggregate_labels.cuh"
#include "aggregate_probs.cuh"
