// aggregate to labels, in one launch.
//
// Coarse labels come first. They are given, or a block finds them for a tile of the image, as
// counting does (upsampled_tile.cuh), and stores them. The same block then reads those that windows
// cover again and edits them, in parts of kTilePixels; no two blocks touch the same label. In large
// tiles, which have many parts, the parts that windows reach are left to blocks of their own:
// windows often lie side by side, and one block would go on merging long after the others have
// finished.
//
// Where labels are given a block takes a tile of a window, so that the cost does not depend on the
// image's size. A pixel under several windows is decided by the block of the first of them.
//
// Pixels whose p_f contradicts their coarse label are listed before any exponential is taken or any
// logit read for them: with one window over a pixel, the sign of its fine logit is enough. What the
// threads of a block have in common is found by one warp; p_f stays in its thread's registers.
#pragma once

#include <cstdint>

#include "argmax.cuh"
#include "merged_label.cuh"
#include "patch_foreground.cuh"
#include "upsampled_tile.cuh"

namespace c2f::cuda {

// A pixel whose label may change.
struct ListedPixel {
  float value;    // as in Foreground
  uint32_t what;  // number of the pixel, its coarse label, and whether the value is a mean

  static constexpr int kLabel = 16, kMean = 31;  // where these begin; the number is the low 16 bits
  __device__ __forceinline__ int pixel() const { return static_cast<int>(what & 0xffffu); }
  __device__ __forceinline__ int32_t label() const {
    return static_cast<int32_t>(what >> kLabel & 0xffu);
  }
  __device__ __forceinline__ float p_f() const {
    return what >> kMean != 0 ? value : sigmoid(value);
  }
};

// What a block merges, in shared memory; written by one warp, read by all.
struct LabelTile {
  ListedPixel listed[kTilePixels];
  int32_t num_listed;
  int32_t own_slot;  // pixels that an earlier slot covers are left to that one's block; 0: none are
  WindowVotes votes;
  MergeTile at;
  int64_t first_label;  // index of the tile's first pixel in the label map
  ImageWindows windows;
};
static_assert(sizeof(LabelTile) == kLabelTileBytes);

// Lists those of this thread's pixels whose labels may change. Called by whole warps.
template <int N>
__device__ __forceinline__ void list_pixels(const MergeArgs& a, const MergeTile& at,
                                            const ThreadPixels& pixels, const Foreground& fine,
                                            const uint8_t* labels, LabelTile& tile) {
  const uint8_t* label_at = labels + pixels.row * a.coarse.W + pixels.column;
  const bool official = a.rule == MergeRule::kOfficial;
  int32_t label[kRowsOfThread];
  uint32_t votes[kRowsOfThread], any = 0;
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r, label_at += a.coarse.W) {
    label[r] = 0;
    // Reads only labels that no other block may change.
    if (fine.covered(r)) label[r] = *label_at;
    const bool conflict = is_small<N>(a.small, label[r]) != fine.is_small(r);
    // All lanes are here: the loop has the same bounds in all, and nothing leaves it.
    votes[r] = __ballot_sync(kWarp, fine.covered(r) && (official || conflict));
    any |= votes[r];
  }
  if (any == 0) return;  // the same in all lanes
  int count = 0;
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) count += __popc(votes[r]);
  int place = 0;
  if (lane_of_thread() == 0) place = atomicAdd(&tile.num_listed, count);
  place = __shfl_sync(kWarp, place, 0);  // all lanes again
  const uint32_t first = static_cast<uint32_t>((pixels.row << at.stride_log2) + pixels.column);
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) {
    if ((votes[r] >> lane_of_thread() & 1u) != 0) {
      const uint32_t pixel = first + (static_cast<uint32_t>(r) << at.stride_log2);
      tile.listed[place + __popc(votes[r] & lanes_below())] = {
          fine.value[r], pixel | static_cast<uint32_t>(label[r]) << ListedPixel::kLabel |
                             (fine.is_mean(r) ? 1u : 0u) << ListedPixel::kMean};
    }
    place += __popc(votes[r]);
  }
}

// Writes what is to be merged into `tile`. Called by one whole warp; merge_tile follows a barrier
// later.
__device__ __forceinline__ void place_merge(const MergeArgs& a, const MergeTile& at,
                                            const ImageWindows& windows, int32_t own_slot,
                                            LabelTile& tile) {
  const uint32_t votes = vote_of_warp(a, windows, at, 0);
  if (lane_of_thread() != 0) return;
  tile.num_listed = 0;
  tile.own_slot = own_slot;
  tile.votes.first = votes;
  tile.at = at;
  tile.first_label = (at.b * a.coarse.H + at.y0) * a.coarse.W + at.x0;
  tile.windows = windows;
}

// Merges the pixels of a tile that windows cover into the stored labels. Called by all threads of
// the block, with a barrier since the tile was placed and the labels were stored.
template <class T, int N, LabelKind kKind>
__device__ __forceinline__ void merge_tile(const MergeArgs& a, LabelTile& tile) {
  MergeTile at = tile.at;
  if (kKind == LabelKind::kGiven) at.stride_log2 = kWideTileLog2;
  const ThreadPixels pixels(at, kRowsOfThread);
  Foreground fine;
  if (!find_foreground(a, at, tile.windows, pixels, tile.own_slot, tile.votes, &fine)) {
    return;  // the same answer in all threads
  }
  uint8_t* out = a.coarse.labels + tile.first_label;
  list_pixels<N>(a, at, pixels, fine, out, tile);
  __syncthreads();  // the list is complete
  for (int i = threadIdx.x; i < tile.num_listed; i += kMergeThreads) {
    const ListedPixel listed = tile.listed[i];
    const int p = listed.pixel();
    PixelLogits<T> logits(a.coarse, at, p);
    int32_t label;
    if constexpr (N == 0) {
      label = merge_any(a, logits, listed.p_f(), listed.label());
    } else {
      label = merge_pixel<T, N>(a, logits, listed.p_f(), listed.label());
    }
    out[at.row(p) * a.coarse.W + at.column(p)] = static_cast<uint8_t>(label);
  }
}

// The tile of a window that a block edits: of no pixels where the window's slot is not used. Called
// by one whole warp.
__device__ __forceinline__ void place_window(const MergeArgs& a, LabelTile& tile) {
  const TileNumber number(a, static_cast<int32_t>(blockIdx.x));
  const Slot slot = slot_of(a.windows, a.by_slots, number.owner);
  const ImageWindows windows(a, slot.b);
  const Origin origin = windows.at(a, slot.j);
  if (!origin.used) {  // the same in all lanes
    if (lane_of_thread() == 0) tile.at.height = 0;
    return;
  }
  const int32_t top = number.y * kWideTileY, left = number.x * kWideTileX;
  const int32_t k = static_cast<int32_t>(a.windows.window_px);
  const MergeTile at{slot.b,
                     origin.y + top,
                     origin.x + left,
                     min(kWideTileY, k - top),
                     min(kWideTileX, k - left),
                     kWideTileLog2};
  place_merge(a, at, windows, slot.j, tile);
}

// A block's tile of an image, in shared memory (why: see find_tile in bin_tile.cuh).
struct ImageTile {
  int32_t image;
  TilePart y, x;
  uint32_t taken;  // a bit for each part that another block merges

  // The part from row `top` on, kTilePixels at most. For tiles no wider than a part.
  __device__ __forceinline__ MergeTile part(const MergeArgs& a, int32_t top) const {
    return {image,    y.start + top, x.start, min(kTilePixels >> a.tile_x_log2, y.length - top),
            x.length, a.tile_x_log2};
  }
};

// Sets a block's tile, with no parts taken by others. Called by all threads of the block.
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

// Bits from .. to.
__device__ __forceinline__ uint32_t bits_between(int32_t from, int32_t to) {
  return (2u << to) - (1u << from);
}

// Marks the parts of a tile that windows reach as taken.
__device__ __forceinline__ void note_windows(const MergeArgs& a, ImageTile& tile) {
  const int32_t k = static_cast<int32_t>(a.windows.window_px);
  const MergeTile whole{tile.image,    tile.y.start,  tile.x.start,
                        tile.y.length, tile.x.length, a.tile_x_log2};
  const ImageWindows windows(a, tile.image);
  for (int32_t j = threadIdx.x; j < windows.num; j += kMergeThreads) {
    const Origin origin = windows.at(a, j);
    if (!reaches(a, origin, whole)) continue;
    const int32_t top = max(origin.y - tile.y.start, 0), left = max(origin.x - tile.x.start, 0);
    const int32_t bottom = min(origin.y - tile.y.start + k, tile.y.length);
    const int32_t right = min(origin.x - tile.x.start + k, tile.x.length);
    const uint32_t rows = bits_between(top / kWideTileY, (bottom - 1) / kWideTileY);
    for (int32_t x = left / kWideTileX; x <= (right - 1) / kWideTileX; ++x) {
      atomicOr(&tile.taken, rows << (x << kPartsLog2));
    }
  }
}

// For the window blocks, which come before the tiles' blocks: finds the part of an image that this
// block labels and merges, one that its window reaches and no window of an earlier slot does.
// Returns whether there is one, the same answer in all threads. Called by all threads of the block.
__device__ __forceinline__ bool find_part(const MergeArgs& a, ImageTile* tile) {
  const int32_t part = static_cast<int32_t>(blockIdx.x);
  const int32_t row_of_all = a.by_window_parts_x.quotient(part);
  const int32_t patch = a.by_window_parts_y.quotient(row_of_all);
  const Slot slot = slot_of(a.windows, a.by_slots, patch);
  const ImageWindows windows(a, slot.b);
  const Origin origin = windows.at(a, slot.j);
  if (!origin.used) return false;
  const int32_t row = row_of_all - patch * a.window_parts_y;
  const int32_t column = part - row_of_all * a.window_parts_x;
  const int32_t top = (origin.y / kWideTileY + row) * kWideTileY;
  const int32_t left = (origin.x / kWideTileX + column) * kWideTileX;
  const int32_t k = static_cast<int32_t>(a.windows.window_px);
  if (top >= origin.y + k || left >= origin.x + k) return false;
  place_tile(a, static_cast<int32_t>(slot.b), top, kWideTileY, left, kWideTileX, tile);
  const MergeTile merged = tile->part(a, 0);
  for (int32_t j = threadIdx.x; j < slot.j; j += kMergeThreads) {
    if (reaches(a, windows.at(a, j), merged)) atomicOr(&tile->taken, 1u);
  }
  // All threads are here, as the returns above are the same for all. Earlier slots have been
  // checked.
  __syncthreads();
  return tile->taken == 0;
}

// Coarse labels of a tile where logits have the image's size; a thread takes four neighbouring
// pixels.
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

// UpsampledTile's Counts where nothing is counted, and other blocks take some parts of a tile.
struct LabelsOnly {
  static constexpr bool kWanted = false;
  uint32_t parts;  // ImageTile::taken

  struct Columns {
    __device__ __forceinline__ Columns(const LabelsOnly&, const Span&, const Span&, int32_t) {}
    __device__ __forceinline__ void add(uint32_t, uint32_t, int32_t) {}
    __device__ __forceinline__ void flush() {}
  };

  // Bits of the taken parts that a column crosses, from top to bottom.
  __device__ __forceinline__ uint32_t taken(int32_t column) const {
    constexpr uint32_t kBelow = (1u << (1 << kPartsLog2)) - 1u;
    return parts >> (static_cast<uint32_t>(column) / kWideTileX << kPartsLog2) & kBelow;
  }
  static __device__ __forceinline__ bool stores(uint32_t taken, int32_t row) {
    return (taken >> static_cast<uint32_t>(row) / kWideTileY & 1u) == 0;
  }
};

// Labels and merges this block's tile of an image.
template <class T, int N, LabelKind kKind>
__device__ __forceinline__ void label_image(const MergeArgs& a, unsigned char* shared) {
  C2F_SHARED(ImageTile, tile);
  // Whether parts that windows reach have blocks of their own. All branches below are uniform over
  // the block.
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
      // All threads are here; the parts are marked.
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
    // All threads take every turn. Before this barrier, labels are stored that other threads read
    // next; and the shared memory that is reused now, of labelling or of the part before, was read.
    __syncthreads();
    auto& merged = *reinterpret_cast<LabelTile*>(shared);
    if (warp_of_thread() == 0) {
      place_merge(a, tile.part(a, top), ImageWindows(a, tile.image), 0, merged);
    }
    // All threads again; the part is placed.
    __syncthreads();
    merge_tile<T, N, kKind>(a, merged);
  }
}

template <class T, int N, LabelKind kKind>
__global__ void C2F_BOUNDS(kMergeThreads, kKind == LabelKind::kUpsampled ? 3 : 4)
    aggregate_labels_kernel(const __grid_constant__ MergeArgs a) {
  C2F_DYNAMIC_SHARED(shared);
  if constexpr (kKind == LabelKind::kGiven) {
    auto& tile = *reinterpret_cast<LabelTile*>(shared);
    if (warp_of_thread() == 0) place_window(a, tile);
    // All threads are here; the tile is placed.
    __syncthreads();
    if (tile.at.height > 0) merge_tile<T, N, kKind>(a, tile);  // the same answer in all threads
  } else {
    label_image<T, N, kKind>(a, shared);
  }
}

}  // namespace c2f::cuda
