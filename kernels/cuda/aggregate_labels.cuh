// aggregate to labels, in one launch.
//
// Labels of the coarse answer come first: given, or found here by corner agreement (see
// kernels/cpu/coarse_labels.h), a tile of the image at a time. Where they are given a block takes a
// tile of a window instead, so that the cost does not depend on the image's size; of the windows
// over a pixel the first one's block decides it.
//
// Pixels whose p_f contradicts their coarse label are listed before any exponential is taken or any
// logit is read for them: with one window over a pixel the sign of its fine logit tells.
#pragma once

#include <cstdint>

#include "argmax.cuh"
#include "patch_foreground.cuh"

namespace c2f::cuda {

struct LabelTile {
  ForegroundTile fine;
  int32_t first_slot[kTilePixels];
  int16_t point[kPointElems];  // first argmax of the source pixels, -1 where it proves nothing
  uint8_t label[kTilePixels];
  uint16_t listed[kTilePixels];
  int32_t num_listed;
};

// Coarse logits of one output pixel, class after class.
template <class T>
class PixelLogits {
 public:
  __device__ __forceinline__ PixelLogits(const Seg& seg, int64_t b, BilinearTap y, BilinearTap x,
                                         bool resized)
      : stride_n_(seg.stride_n), w1_y_(y.w1), w1_x_(x.w1), resized_(resized) {
    const T* base = static_cast<const T*>(seg.data) + b * seg.stride_b;
    p00_ = base + y.i0 * seg.stride_y + x.i0 * seg.stride_x;
    p10_ = base + y.i1 * seg.stride_y + x.i0 * seg.stride_x;
    right_ = (x.i1 - x.i0) * seg.stride_x;
  }

  __device__ __forceinline__ float next() {
    float value = to_float(*p00_);
    if (resized_) {
      value = bilinear_value(value, to_float(p00_[right_]), to_float(*p10_), to_float(p10_[right_]),
                             w1_y_, w1_x_);
    }
    p00_ += stride_n_;
    p10_ += stride_n_;
    return value;
  }

 private:
  const T *p00_, *p10_;
  int64_t right_, stride_n_;
  float w1_y_, w1_x_;
  bool resized_;
};

// Adds this thread's pixel to the list if `wanted`. Called by whole warps.
__device__ __forceinline__ void list_pixel(bool wanted, int pixel, LabelTile& tile) {
  // All lanes are here: the loops around this run over whole multiples of the block's threads.
  const unsigned votes = __ballot_sync(kWarp, wanted);
  int first = 0;
  if (lane_of_thread() == 0 && votes != 0) first = atomicAdd(&tile.num_listed, __popc(votes));
  first = __shfl_sync(kWarp, first, 0);  // all lanes again: nothing has branched for long
  if (wanted) tile.listed[first + __popc(votes & lanes_below())] = static_cast<uint16_t>(pixel);
}

// Coarse labels of the tile into shared memory. Called by all threads of the block; the caller has
// zeroed num_listed, and a barrier lies between that and this.
template <class T, int N>
__device__ __forceinline__ void find_coarse_labels(const MergeArgs& a, const MergeTile& at,
                                                   const Axis& y, const Axis& x, LabelTile& tile) {
  const Seg& seg = a.coarse;
  const int32_t classes = N != 0 ? N : static_cast<int32_t>(seg.N);
  const T* image = static_cast<const T*>(seg.data) + at.b * seg.stride_b;
  const int32_t top = y.tap(at.y0).i0, left = x.tap(at.x0).i0;
  const int32_t rows = y.tap(at.y0 + at.height - 1).i1 - top + 1;
  const int32_t columns = x.tap(at.x0 + at.width - 1).i1 - left + 1;
  for (int i = threadIdx.x; i < rows * columns; i += kMergeThreads) {
    const T* source =
        image + (top + i / columns) * seg.stride_y + (left + i % columns) * seg.stride_x;
    const auto found = first_argmax<T, N>(source, seg.stride_n, classes, a.packed);
    // Unresized, the label is the pixel's own, whatever its value.
    const bool proves = found.finite() || !(y.resized() || x.resized());
    tile.point[i] = static_cast<int16_t>(proves ? found.label : -1);
  }
  __syncthreads();  // pixels look at points that other threads found
  for (int p = threadIdx.x; p < kTilePixels; p += kMergeThreads) {
    bool mixed = false;
    if (at.holds(p)) {
      const BilinearTap ty = y.tap(at.y0 + at.row(p)), tx = x.tap(at.x0 + at.column(p));
      const int16_t* upper = tile.point + (ty.i0 - top) * columns;
      const int16_t* lower = tile.point + (ty.i1 - top) * columns;
      const int32_t x0 = tx.i0 - left, x1 = tx.i1 - left;
      const int16_t label = upper[x0];
      mixed = label < 0 || upper[x1] != label || lower[x0] != label || lower[x1] != label;
      tile.label[p] = static_cast<uint8_t>(label);
    }
    list_pixel(mixed, p, tile);
  }
  __syncthreads();  // the list is complete
  const int listed = tile.num_listed;
  for (int i = threadIdx.x; i < listed; i += kMergeThreads) {
    const int p = tile.listed[i];
    PixelLogits<T> logits(seg, at.b, y.tap(at.y0 + at.row(p)), x.tap(at.x0 + at.column(p)), true);
    FirstArgmax found;
#pragma unroll(N != 0 ? 4 : 2)
    for (int32_t c = 0; c < classes; ++c) found.offer(logits.next(), c);
    tile.label[p] = static_cast<uint8_t>(found.label);
  }
  __syncthreads();  // labels are complete, the list and its length are no longer read
}

// The merged label of a listed pixel.
template <class T, int N>
__device__ __forceinline__ int32_t merge_pixel(const MergeArgs& a, PixelLogits<T>& logits,
                                               float p_f, int32_t coarse) {
  const int32_t classes = N != 0 ? N : static_cast<int32_t>(a.coarse.N);
  if (a.rule == MergeRule::kOfficial) {
    FirstArgmax found;
#pragma unroll(N != 0 ? 4 : 2)
    for (int32_t c = 0; c < classes; ++c) {
      const float logit = logits.next();
      found.offer(a.small.has(c) ? logit + p_f : logit, c);
    }
    return found.label;
  }
  GroupBest best;
  RunningExpSum exps;
#pragma unroll(N != 0 ? 4 : 2)
  for (int32_t c = 0; c < classes; ++c) {
    const float logit = logits.next();
    best.add(c, a.small.has(c), logit);
    exps.add(logit);
  }
  const bool small = a.small.has(coarse);
  const GroupBest::Group from = small ? best.inside : best.outside;
  const GroupBest::Group to = small ? best.outside : best.inside;
  if (to.cls == kNoClass) return coarse;
  const bool one_hot = !(fabsf(exps.top) < INFINITY);
  const float p_from = one_hot ? 1.0f : expf(from.value - exps.top) / exps.sum;
  const float p_to = one_hot ? 0.0f : expf(to.value - exps.top) / exps.sum;
  return merged_label(coarse, p_from, to.cls, p_to, conflict_addition(small, p_f));
}

template <class T, int N>
__global__ void C2F_BOUNDS(kMergeThreads, 4)
    aggregate_labels_kernel(const __grid_constant__ MergeArgs a) {
  C2F_SHARED(LabelTile, tile);
  const int32_t tiles = a.tiles_y * a.tiles_x;
  const int64_t owner = blockIdx.x / tiles;  // image, or slot of the batch
  const int32_t inside = static_cast<int32_t>(blockIdx.x - owner * tiles);
  MergeTile at{owner,
               inside / a.tiles_x * a.tile_y,
               inside % a.tiles_x * a.tile_x,
               a.tile_y,
               a.tile_x,
               a.tile_x_log2};
  int64_t end_y = a.H, end_x = a.W;
  int32_t own_slot = -1;
  if (a.labels_given) {
    const Slot slot = slot_of(a.windows, owner);
    at.b = slot.b;
    own_slot = slot.j;
    Origin origin{0, 0, false};
    if (own_slot < windows_of_image(a.windows, at.b)) {
      origin = origin_of(a.windows, at.b, own_slot, a.H, a.W);
    }
    if (!origin.used) return;  // all threads of the block, before any barrier
    at.y0 += origin.y;
    at.x0 += origin.x;
    end_y = origin.y + a.windows.window_px;
    end_x = origin.x + a.windows.window_px;
  }
  if (end_y - at.y0 < at.height) at.height = static_cast<int32_t>(end_y - at.y0);
  if (end_x - at.x0 < at.width) at.width = static_cast<int32_t>(end_x - at.x0);

  const Axis y(a.coarse.h, a.H), x(a.coarse.w, a.W);
  uint8_t* out = a.labels + (at.b * a.H + at.y0) * a.W + at.x0;
  if (threadIdx.x == 0) tile.num_listed = 0;
  __syncthreads();  // before the list grows
  if (!a.labels_given) {
    find_coarse_labels<T, N>(a, at, y, x, tile);
    if (threadIdx.x == 0) tile.num_listed = 0;
    __syncthreads();  // before the list grows again
  }

  if (find_foreground(a, at, tile.fine, tile.first_slot)) {  // the same answer in all threads
    for (int p = threadIdx.x; p < kTilePixels; p += kMergeThreads) {
      bool wanted =
          at.holds(p) && tile.fine.covered(p) && (own_slot < 0 || tile.first_slot[p] == own_slot);
      // Of given labels only those that this block alone may change are read.
      if (wanted && a.labels_given) tile.label[p] = out[at.row(p) * a.W + at.column(p)];
      if (wanted && a.rule != MergeRule::kOfficial) {
        wanted = a.small.has(tile.label[p]) != tile.fine.foreground(p);
      }
      list_pixel(wanted, p, tile);
    }
    __syncthreads();  // the list is complete
    for (int i = threadIdx.x; i < tile.num_listed; i += kMergeThreads) {
      const int p = tile.listed[i];
      const int32_t row = at.row(p), column = at.column(p);
      PixelLogits<T> logits(a.coarse, at.b, y.tap(at.y0 + row), x.tap(at.x0 + column),
                            y.resized() || x.resized());
      const int32_t merged =
          merge_pixel<T, N>(a, logits, tile.fine.p_f(p), static_cast<int32_t>(tile.label[p]));
      tile.label[p] = static_cast<uint8_t>(merged);
      if (a.labels_given) out[row * a.W + column] = static_cast<uint8_t>(merged);
    }
    __syncthreads();  // labels are stored by other threads than those that merged them
  }
  if (a.labels_given) return;  // no barrier follows
  for (int p = threadIdx.x; p < at.pixels(); p += kMergeThreads) {
    if (at.holds(p)) out[at.row(p) * a.W + at.column(p)] = tile.label[p];
  }
}

}  // namespace c2f::cuda
