// Kernels on threads of their own, as in builds without OpenMP: no worker's sums may get lost.
#include <cstdint>
#include <vector>

#include "../../kernels/cpu/count_windows.h"
#include "topics.h"

namespace {

// Each window is as high as the map, so that all strips of rows add to the same row of cells, one
// for each column of windows.
void counts() {
  constexpr int64_t kSide = 512, kWidth = 4096, kWindows = kWidth - kSide + 1;
  const std::vector<uint8_t> labels(kSide * kWidth, 1);
  const uint8_t is_small[c2f::kMaxClasses] = {0, 1};
  std::vector<int32_t> found(kWindows);
  c2f::CountWindowsParams params{};
  params.seg = {labels.data(), c2f::DType::kU8, false, 1, 1, kSide, kWidth, 0, 0, kWidth, 1};
  params.classes = {is_small};
  params.H = params.window_px = kSide;
  params.W = kWidth;
  params.stride_px = 1;
  params.counts = found.data();
  int wrong = 0;
  for (int turn = 0; turn < 50; ++turn) {
    c2f::cpu::count_windows(params, turn == 0 ? 1 : 8);  // one adds more rows than a byte can hold
    for (const int32_t count : found) wrong += count != kSide * kSide;
  }
  CHECK(wrong == 0);
}

constexpr Topic kTopics[] = {{"counts", counts}};

}  // namespace

int main(int count, char** words) { return run_topics(kTopics, count, words); }
