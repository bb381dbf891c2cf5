// What CUDA gives device code, for a C++ compiler: kernels/cuda compiled with C2F_ON_HOST runs on
// the CPU, one block after the other, the threads of a block as fibers (emulator.cpp). It is for
// tests: slow, and strict where a GPU would hang or race silently. Only what kernels use is here.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __grid_constant__
#define C2F_BOUNDS(...)
#define C2F_SHARED(Type, name)                        \
  static ::c2f::cuda::host::Shared<Type> name##_held; \
  Type& name = name##_held.get()
#define C2F_DYNAMIC_SHARED(name) unsigned char* name = ::c2f::cuda::host::dynamic_shared()

struct uint3 {
  unsigned x, y, z;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(4) uchar4 {
  unsigned char x, y, z, w;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }

extern uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace c2f::cuda::host {

// Where an intrinsic was called: all lanes of a warp, all threads of a block, have to meet there.
struct Place {
  const char* file;
  int line;
};
#define C2F_HERE \
  ::c2f::cuda::host::Place { __builtin_FILE(), __builtin_LINE() }

void block_barrier(Place at);
// Hands in a lane's value; returns those of all 32 lanes once all have come.
const uint64_t* warp_exchange(uint64_t mine, unsigned mask, Place at);
void thread_fence();
// An atomic is about to read and write there.
void atomic_access(const void* at, size_t bytes);
int this_lane();
unsigned char* dynamic_shared();
// Shared memory, to be filled with a pattern now and before every block, for it starts as garbage;
// between two fences nobody may touch.
constexpr size_t kFenceBytes = 256;
void add_shared(void* data, size_t bytes);

template <class T>
class Shared {
 public:
  Shared() { add_shared(bytes_ + kFenceBytes, sizeof(T)); }
  T& get() { return *reinterpret_cast<T*>(bytes_ + kFenceBytes); }

 private:
  alignas(16) unsigned char bytes_[kFenceBytes + sizeof(T) + kFenceBytes];
};

template <auto Function>
struct Callable;
template <class Args, void (*Function)(Args)>
struct Callable<Function> {
  static void run(const void* args) { Function(*static_cast<const Args*>(args)); }
};
// What a Kernel's `function` is here.
template <auto Function>
const void* callable() {
  return reinterpret_cast<const void*>(&Callable<Function>::run);
}

template <class T>
uint64_t pack(T value) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}
template <class T>
T unpack(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace c2f::cuda::host

using C2fPlace = c2f::cuda::host::Place;

inline void __syncthreads(C2fPlace at = C2F_HERE) { c2f::cuda::host::block_barrier(at); }
inline void __syncwarp(unsigned mask = ~0u, C2fPlace at = C2F_HERE) {
  c2f::cuda::host::warp_exchange(0, mask, at);
}
inline void __threadfence() { c2f::cuda::host::thread_fence(); }

inline unsigned __ballot_sync(unsigned mask, int predicate, C2fPlace at = C2F_HERE) {
  const uint64_t* all = c2f::cuda::host::warp_exchange(predicate != 0, mask, at);
  unsigned votes = 0;
  for (int lane = 0; lane < 32; ++lane) votes |= static_cast<unsigned>(all[lane]) << lane;
  return votes;
}
inline int __any_sync(unsigned mask, int predicate, C2fPlace at = C2F_HERE) {
  return __ballot_sync(mask, predicate, at) != 0;
}
inline int __all_sync(unsigned mask, int predicate, C2fPlace at = C2F_HERE) {
  return __ballot_sync(mask, predicate, at) == ~0u;
}
template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32, C2fPlace at = C2F_HERE) {
  const int lane = c2f::cuda::host::this_lane();
  const uint64_t* all = c2f::cuda::host::warp_exchange(c2f::cuda::host::pack(value), mask, at);
  return c2f::cuda::host::unpack<T>(all[(lane & ~(width - 1)) | (from & (width - 1))]);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, C2fPlace at = C2F_HERE) {
  const int lane = c2f::cuda::host::this_lane(), from = lane - static_cast<int>(by);
  const uint64_t* all = c2f::cuda::host::warp_exchange(c2f::cuda::host::pack(value), mask, at);
  return c2f::cuda::host::unpack<T>(all[from < (lane & ~(width - 1)) ? lane : from]);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, C2fPlace at = C2F_HERE) {
  const int lane = c2f::cuda::host::this_lane(), from = lane + static_cast<int>(by);
  const uint64_t* all = c2f::cuda::host::warp_exchange(c2f::cuda::host::pack(value), mask, at);
  return c2f::cuda::host::unpack<T>(all[from > (lane | (width - 1)) ? lane : from]);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32, C2fPlace at = C2F_HERE) {
  const int lane = c2f::cuda::host::this_lane();
  const uint64_t* all = c2f::cuda::host::warp_exchange(c2f::cuda::host::pack(value), mask, at);
  const int from = lane ^ with;
  return c2f::cuda::host::unpack<T>(all[from > (lane | (width - 1)) ? lane : from]);
}

namespace c2f::cuda::host {
template <class T, class Combine>
T warp_reduce(T value, unsigned mask, Place at, const Combine& combine) {
  const uint64_t* all = warp_exchange(pack(value), mask, at);
  T result = unpack<T>(all[0]);
  for (int lane = 1; lane < 32; ++lane) result = combine(result, unpack<T>(all[lane]));
  return result;
}
}  // namespace c2f::cuda::host

#define C2F_WARP_REDUCE(name, T, combined)                                                        \
  inline T name(unsigned mask, T value, C2fPlace at = C2F_HERE) {                                 \
    return c2f::cuda::host::warp_reduce(value, mask, at, [](T a, T b) -> T { return combined; }); \
  }
C2F_WARP_REDUCE(__reduce_add_sync, unsigned, a + b)
C2F_WARP_REDUCE(__reduce_add_sync, int, a + b)
C2F_WARP_REDUCE(__reduce_max_sync, unsigned, std::max(a, b))
C2F_WARP_REDUCE(__reduce_max_sync, int, std::max(a, b))
C2F_WARP_REDUCE(__reduce_min_sync, unsigned, std::min(a, b))
C2F_WARP_REDUCE(__reduce_min_sync, int, std::min(a, b))
C2F_WARP_REDUCE(__reduce_or_sync, unsigned, a | b)
C2F_WARP_REDUCE(__reduce_and_sync, unsigned, a& b)

// Fibers are never interrupted, so plain operations are atomic; they are watched as what they stand
// for.
#define C2F_UNWATCHED __attribute__((no_sanitize("thread"), noinline))
template <class T>
C2F_UNWATCHED T atomicAdd(T* at, T value) {
  c2f::cuda::host::atomic_access(at, sizeof(T));
  const T old = *at;
  *at = old + value;
  return old;
}
template <class T>
C2F_UNWATCHED T atomicMax(T* at, T value) {
  c2f::cuda::host::atomic_access(at, sizeof(T));
  const T old = *at;
  *at = std::max(old, value);
  return old;
}
template <class T>
C2F_UNWATCHED T atomicOr(T* at, T value) {
  c2f::cuda::host::atomic_access(at, sizeof(T));
  const T old = *at;
  *at = old | value;
  return old;
}

template <class T>
void __stcs(T* at, T value) {
  *at = value;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(unsigned bits) { return __builtin_ffs(static_cast<int>(bits)); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned picks) {
  const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
  unsigned word = 0;
  for (int i = 0; i < 4; ++i) {
    word |= static_cast<unsigned>(bytes >> 8 * (picks >> 4 * i & 7u) & 255u) << 8 * i;
  }
  return word;
}
inline float __uint_as_float(unsigned bits) { return c2f::cuda::host::unpack<float>(bits); }
inline unsigned __float_as_uint(float value) {
  return static_cast<unsigned>(c2f::cuda::host::pack(value));
}

#define C2F_MIN_MAX(T)                             \
  inline T min(T a, T b) { return b < a ? b : a; } \
  inline T max(T a, T b) { return a < b ? b : a; }
C2F_MIN_MAX(int)
C2F_MIN_MAX(unsigned)
C2F_MIN_MAX(long)
C2F_MIN_MAX(float)
