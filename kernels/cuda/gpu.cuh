// What the device code in this folder builds on, compiled by nvcc, NVRTC, or (C2F_ON_HOST) a C++
// compiler for the emulator of tests/cuda_on_host. Kernels use CUDA's own names; whatever differs
// between the three is defined here.
#pragma once

#include <cstdint>

#if defined(C2F_ON_HOST)
#include "device_on_host.h"
#else
#define C2F_BOUNDS(...) __launch_bounds__(__VA_ARGS__)
// Static shared memory of a block.
#define C2F_SHARED(Type, name) __shared__ Type name
// Dynamic shared memory, whose size the launch gives, as bytes.
#define C2F_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

namespace c2f::cuda {

constexpr unsigned kWarp = 0xffffffffu;  // mask of all lanes
constexpr int kWarpSize = 32;

__device__ __forceinline__ int lane_of_thread() { return threadIdx.x % kWarpSize; }
__device__ __forceinline__ int warp_of_thread() { return threadIdx.x / kWarpSize; }

// Lanes below this one.
__device__ __forceinline__ unsigned lanes_below() { return (1u << lane_of_thread()) - 1u; }

// Programmatic dependent launch, where the architecture has it: a kernel launched `early` runs up
// to here while its predecessor ends, and may touch memory only afterwards. It must come first in a
// kernel, since the predecessor may still read what this one writes (scratch, tickets, labels). As
// no kernel triggers its successor before it ends, what this saves is launch latency.
__device__ __forceinline__ void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Adds to a counter in global memory and releases what the block stored before its last barrier, to
// whoever adds after this and then fences. A fence and an atomicAdd would do as well, but a release
// does not invalidate the L1, from which other blocks of the multiprocessor go on working.
__device__ __forceinline__ uint32_t add_and_release(uint32_t* counter, uint32_t value) {
#if defined(C2F_ON_HOST)
  __threadfence();  // the instruction's release, for the emulator to check
  return atomicAdd(counter, value);
#else
  uint32_t before;
  asm volatile("atom.release.gpu.global.add.u32 %0, [%1], %2;"
               : "=r"(before)
               : "l"(counter), "r"(value)
               : "memory");
  return before;
#endif
}

}  // namespace c2f::cuda
