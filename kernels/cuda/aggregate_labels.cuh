// aggregate to labels, in one launch.
//
// Coarse labels come first: given, or found here as counting finds them (upsampled_tile.cuh), a
// tile of the image at a time, and stored. What windows cover of the tile is then read again and
// edited by the same block, in parts of kTilePixels; no two blocks touch the same label. Of large
// tiles, which have many parts, those that windows reach are left to blocks of their own: windows
// often lie beside each other, and one block would merge for long while others have gone.
//
// Where labels are given a block takes a tile of a window, so that the cost does not depend on the
// image's size; of the windows over a pixel the first one's block decides it.
//
// Pixels whose p_f contradicts their coarse label are listed before any exponential is taken or any
// logit is read for them: with one window over a pixel the sign of its fine logit tells.
#pragma once

#include <cstdint>

#include "argmax.cuh"
#include "patch_foreground.cuh"
#include "upsampled_tile.cuh"

namespace c2f::cuda {

struct LabelTile {
  ForegroundTile fine;
  int32_t first_slot[kTilePixels];
  uint8_t label[kTilePixels];
  uint16_t listed[kTilePixels];
  alignas(16) int32_t num_listed;
};
static_assert(sizeof(LabelTile) == kLabelTileBytes);

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

// The merged label of a listed pixel.
template <class T, int N>
__device__ __forceinline__ int32_t merge_pixel(const MergeArgs& a, PixelLogits<T>& logits,
                                               float p_f, int32_t coarse) {
  const int32_t classes = N != 0 ? N : static_cast<int32_t>(a.coarse.seg.N);
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

// Merges the pixels of a tile that windows cover, in the labels that are stored. Called by all
// threads of the block, a barrier after those labels were stored.
template <class T, int N, LabelKind kKind>
__device__ __forceinline__ void merge_tile(const MergeArgs& a, const MergeTile& at,
                                           int32_t own_slot, LabelTile& tile) {
  constexpr bool kGiven = kKind == LabelKind::kGiven;
  const CoarseArgs& coarse = a.coarse;
  uint8_t* out = coarse.labels + (at.b * coarse.H + at.y0) * coarse.W + at.x0;
  // The list grows behind barriers of find_foreground, which it has where a window reaches a tile.
  if (threadIdx.x == 0) tile.num_listed = 0;
  if (!find_foreground(a, at, tile.fine, kGiven ? tile.first_slot : nullptr)) {
    return;  // the same answer in all threads
  }
  for (int p = threadIdx.x; p < kTilePixels; p += kMergeThreads) {
    bool wanted = at.holds(p) && tile.fine.covered(p);
    if constexpr (kGiven) wanted = wanted && tile.first_slot[p] == own_slot;
    // Only labels that this block alone may change are read.
    if (wanted) tile.label[p] = out[at.row(p) * coarse.W + at.column(p)];
    if (wanted && a.rule != MergeRule::kOfficial) {
      wanted = a.small.has(tile.label[p]) != tile.fine.foreground(p);
    }
    list_pixel(wanted, p, tile);
  }
  __syncthreads();  // the list is complete
  const Axis y(coarse.seg.h, static_cast<int32_t>(coarse.H), coarse.scale_y);
  const Axis x(coarse.seg.w, static_cast<int32_t>(coarse.W), coarse.scale_x);
  for (int i = threadIdx.x; i < tile.num_listed; i += kMergeThreads) {
    const int p = tile.listed[i];
    const int32_t row = at.row(p), column = at.column(p);
    PixelLogits<T> logits(coarse.seg, at.b, y.tap(at.y0 + row), x.tap(at.x0 + column),
                          y.resized() || x.resized());
    out[row * coarse.W + column] = static_cast<uint8_t>(
        merge_pixel<T, N>(a, logits, tile.fine.p_f(p), static_cast<int32_t>(tile.label[p])));
  }
}

// Which tile of which owner, an image or a slot of the batch.
struct TileNumber {
  int32_t owner, y, x;

  __device__ __forceinline__ TileNumber(const MergeArgs& a, int32_t tile) {
    const int32_t row_of_all = a.by_tiles_x.quotient(tile);
    owner = a.by_tiles_y.quotient(row_of_all);
    y = row_of_all - owner * a.tiles_y;
    x = tile - row_of_all * a.tiles_x;
  }
};

// The window of a slot of the batch; not used where the slot is not.
__device__ __forceinline__ Origin window_of(const MergeArgs& a, const Slot& slot) {
  if (slot.j >= windows_of_image(a.windows, slot.b)) return {0, 0, false};
  return origin_of(a.windows, slot.b, slot.j, a.coarse.H, a.coarse.W);
}

// The tile of a window that this block edits.
template <class T, int N>
__device__ __forceinline__ void edit_window(const MergeArgs& a, LabelTile& tile) {
  const TileNumber number(a, static_cast<int32_t>(blockIdx.x));
  const Slot slot = slot_of(a.windows, number.owner);
  const Origin origin = window_of(a, slot);
  if (!origin.used) return;  // all threads of the block, before any barrier
  const int32_t top = number.y * a.tile_y, left = number.x * a.tile_x;
  const int32_t k = static_cast<int32_t>(a.windows.window_px);
  const MergeTile at{slot.b,
                     origin.y + top,
                     origin.x + left,
                     min(a.tile_y, k - top),
                     min(a.tile_x, k - left),
                     a.tile_x_log2};
  merge_tile<T, N, LabelKind::kGiven>(a, at, slot.j, tile);
}

// A block's tile of an image, in shared memory: see find_tile of bin_tile.cuh.
struct ImageTile {
  int32_t image;
  TilePart y, x;
  uint32_t taken;  // parts that other blocks take, by bits

  // From a row on; the columns are those of a part at most.
  __device__ __forceinline__ MergeTile part(const MergeArgs& a, int32_t top) const {
    return {image,    y.start + top, x.start, min(kTilePixels >> a.tile_x_log2, y.length - top),
            x.length, a.tile_x_log2};
  }
};

// Says where a block's tile is, and that all of it is its own. Called by all threads of the block.
__device__ __forceinline__ void place_tile(const MergeArgs& a, int32_t image, int32_t top,
                                           int32_t height, int32_t left, int32_t width,
                                           ImageTile* tile) {
  const CoarseArgs& coarse = a.coarse;
  if (threadIdx.x == 0) {
    const Axis y(coarse.seg.h, static_cast<int32_t>(coarse.H), coarse.scale_y);
    tile->image = image;
    tile->y = tile_part(y, top, min(height, y.out - top));
    tile->taken = 0;
  } else if (threadIdx.x == kWarpSize) {
    const Axis x(coarse.seg.w, static_cast<int32_t>(coarse.W), coarse.scale_x);
    tile->x = tile_part(x, left, min(width, x.out - left));
  }
  // All threads are here; the tile is written.
  __syncthreads();
}

// Bits of the parts `from` .. `to`, of those below each other.
__device__ __forceinline__ uint32_t bits_between(int32_t from, int32_t to) {
  return (2u << to) - (1u << from);
}

// Notes the parts of a tile that windows reach.
__device__ __forceinline__ void note_windows(const MergeArgs& a, ImageTile& tile) {
  const int64_t k = a.windows.window_px;
  const MergeTile whole{tile.image,    tile.y.start,  tile.x.start,
                        tile.y.length, tile.x.length, a.tile_x_log2};
  for (int32_t j = threadIdx.x; j < a.windows.n; j += kMergeThreads) {
    const Origin origin = window_of(a, {tile.image, j});
    if (!reaches(origin, k, whole)) continue;
    const int32_t top = max(origin.y - tile.y.start, 0), left = max(origin.x - tile.x.start, 0);
    const int32_t bottom = min(origin.y - tile.y.start + static_cast<int32_t>(k), tile.y.length);
    const int32_t right = min(origin.x - tile.x.start + static_cast<int32_t>(k), tile.x.length);
    const uint32_t rows = bits_between(top / kWideTileY, (bottom - 1) / kWideTileY);
    for (int32_t x = left / kWideTileX; x <= (right - 1) / kWideTileX; ++x) {
      atomicOr(&tile.taken, rows << (x << kPartsLog2));
    }
  }
}

// The part of an image that a block before those of the tiles takes: one that a window reaches, and
// none of an earlier slot. Called by all threads of the block, which get the same answer: whether
// there is one.
__device__ __forceinline__ bool find_part(const MergeArgs& a, ImageTile* tile) {
  const uint32_t parts_x = static_cast<uint32_t>(a.window_parts_x);
  const uint32_t row_of_all = blockIdx.x / parts_x;
  const uint32_t patch = row_of_all / static_cast<uint32_t>(a.window_parts_y);
  const Slot slot = slot_of(a.windows, patch);
  const Origin origin = window_of(a, slot);
  if (!origin.used) return false;
  const int32_t row = static_cast<int32_t>(row_of_all - patch * a.window_parts_y);
  const int32_t column = static_cast<int32_t>(blockIdx.x - row_of_all * parts_x);
  const int32_t top = (origin.y / kWideTileY + row) * kWideTileY;
  const int32_t left = (origin.x / kWideTileX + column) * kWideTileX;
  const int64_t k = a.windows.window_px;
  if (top >= origin.y + k || left >= origin.x + k) return false;
  place_tile(a, static_cast<int32_t>(slot.b), top, kWideTileY, left, kWideTileX, tile);
  const MergeTile part = tile->part(a, 0);
  for (int32_t j = threadIdx.x; j < slot.j; j += kMergeThreads) {
    const Origin other = origin_of(a.windows, slot.b, j, a.coarse.H, a.coarse.W);
    if (reaches(other, k, part)) atomicOr(&tile->taken, 1u);
  }
  // All threads are here: none has left alone. Earlier slots have been looked at.
  __syncthreads();
  return tile->taken == 0;
}

// Coarse labels of a tile, by the logits' own pixels, four beside each other a thread.
template <class T, int N>
__device__ __forceinline__ void label_pixels(const CoarseArgs& a, const ImageTile& tile) {
  const T* image = static_cast<const T*>(a.seg.data) + tile.image * a.seg.stride_b;
  for (int item = threadIdx.x;; item += kMergeThreads) {
    const int32_t row = a.by_quads.quotient(item);
    if (row >= tile.y.length) break;
    const int32_t column = (item - row * a.quads_across) * kQuad;
    const int32_t inside = min(kQuad, tile.x.length - column);
    if (inside <= 0) continue;
    const int64_t y = tile.y.start + row, x = tile.x.start + column;
    store_labels(a.labels + (tile.image * a.H + y) * a.W + x,
                 labels_of_four<N>(a, image, y, x, inside), inside);
  }
}

// What UpsampledTile is told where nothing is counted, and other blocks take parts of a tile.
struct LabelsOnly {
  static constexpr bool kWanted = false;
  uint32_t parts;  // that are taken

  struct Columns {
    __device__ __forceinline__ Columns(const LabelsOnly&, const Span&, const Span&, int32_t) {}
    __device__ __forceinline__ void add(uint32_t, uint32_t, int32_t) {}
    __device__ __forceinline__ void flush() {}
  };

  // Of those below each other around a column.
  __device__ __forceinline__ uint32_t taken(int32_t column) const {
    constexpr uint32_t kBelow = (1u << (1 << kPartsLog2)) - 1u;
    return parts >> (static_cast<uint32_t>(column) / kWideTileX << kPartsLog2) & kBelow;
  }
  static __device__ __forceinline__ bool stores(uint32_t taken, int32_t row) {
    return (taken >> static_cast<uint32_t>(row) / kWideTileY & 1u) == 0;
  }
};

// The tile of an image that this block labels and merges.
template <class T, int N, LabelKind kKind>
__device__ __forceinline__ void label_image(const MergeArgs& a, unsigned char* shared) {
  C2F_SHARED(ImageTile, tile);
  // Whether windows' parts have blocks of their own. Every way is the same for all threads of one.
  const bool apart = kKind == LabelKind::kUpsampled && a.window_blocks > 0;
  const int32_t block = static_cast<int32_t>(blockIdx.x) - (apart ? a.window_blocks : 0);
  if (block < 0) {
    if (!find_part(a, &tile)) return;
  } else {
    const TileNumber number(a, block);
    place_tile(a, number.owner, number.y * a.tile_y, a.tile_y, number.x * a.tile_x, a.tile_x,
               &tile);
    if (apart) {
      note_windows(a, tile);
      // All threads are here; the parts are noted.
      __syncthreads();
    }
  }
  if constexpr (kKind == LabelKind::kUpsampled) {
    const Tile cells(a.coarse.layout, tile.image, tile.y, tile.x, shared);
    label_upsampled<T, N>(a.coarse, cells, LabelsOnly{tile.taken});
  } else {
    label_pixels<T, N>(a.coarse, tile);
  }
  if (apart && block >= 0) return;
  for (int32_t top = 0; top < tile.y.length; top += kTilePixels >> a.tile_x_log2) {
    // All threads take every turn. Labels are stored that others read; and neither what they were
    // found with nor the list of the part before, in the same memory, is read any more.
    __syncthreads();
    merge_tile<T, N, kKind>(a, tile.part(a, top), -1, *reinterpret_cast<LabelTile*>(shared));
  }
}

template <class T, int N, LabelKind kKind>
__global__ void C2F_BOUNDS(kMergeThreads, kKind == LabelKind::kUpsampled ? 3 : 4)
    aggregate_labels_kernel(const __grid_constant__ MergeArgs a) {
  C2F_DYNAMIC_SHARED(shared);
  if constexpr (kKind == LabelKind::kGiven) {
    edit_window<T, N>(a, *reinterpret_cast<LabelTile*>(shared));
  } else {
    label_image<T, N, kKind>(a, shared);
  }
}

}  // namespace c2f::cuda
