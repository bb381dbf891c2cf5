// Kernels with one fault each, and their sound twins: what the emulator has to find, and to leave.
#include "../../csrc/cuda/kernel_table.h"
#include "../../kernels/cuda/count_windows.cuh"
#include "faults.h"

namespace c2f::cuda {

// Every thread reads what a thread of another warp has written.
template <bool kBarrier>
__global__ void shared_kernel(const __grid_constant__ FaultArgs a) {
  using Numbers = int32_t[64];
  C2F_SHARED(Numbers, numbers);
  const int t = threadIdx.x;
  numbers[t] = t;
  if (kBarrier) __syncthreads();
  a.out[64 * blockIdx.x + t] = numbers[63 - t];
}

// Every lane reads what another lane of its warp has written.
template <bool kMeeting>
__global__ void lanes_kernel(const __grid_constant__ FaultArgs a) {
  using Numbers = int32_t[64];
  C2F_SHARED(Numbers, numbers);
  const int t = threadIdx.x;
  numbers[t] = t;
  if (kMeeting) __syncwarp();
  a.out[64 * blockIdx.x + t] = numbers[t ^ 1];
}

// The last block adds up what all have written.
enum class Ticket { kSound, kNoFence, kResetBeforeFence };
template <Ticket kTicket>
__global__ void blocks_kernel(const __grid_constant__ FaultArgs a) {
  C2F_SHARED(int32_t, last);
  const int t = threadIdx.x;
  const int blocks = static_cast<int>(gridDim.x);
  a.out[64 * blockIdx.x + t] = t;
  __syncthreads();
  if (t == 0) {
    if (kTicket == Ticket::kSound) {
      last = last_ticket(a.ticket, gridDim.x);
    } else {
      last = add_and_release(a.ticket, 1) + 1 == gridDim.x;
      if (last != 0 && kTicket == Ticket::kResetBeforeFence) {
        *a.ticket = 0;
        __threadfence();
      }
    }
  }
  __syncthreads();
  if (last == 0) return;
  int32_t sum = 0;
  for (int b = 0; b < blocks; ++b) sum += a.out[64 * b + t];
  __syncthreads();
  a.out[t] = sum;
}

// Two neighbours of all that a call was handed.
__global__ void before_kernel(const __grid_constant__ FaultArgs a) { a.out[-1] = 0; }
__global__ void behind_kernel(const __grid_constant__ FaultArgs a) {
  a.out[0] = a.out[64 * gridDim.x];
}

__global__ void dynamic_kernel(const __grid_constant__ FaultArgs a) {
  C2F_DYNAMIC_SHARED(bytes);
  if (threadIdx.x < 2) bytes[127 + threadIdx.x] = 1;  // 128 are asked for
  a.out[threadIdx.x] = 0;
}

__global__ void variable_kernel(const __grid_constant__ FaultArgs a) {
  using Numbers = int32_t[64];
  C2F_SHARED(Numbers, numbers);
  int32_t* at = numbers;
  at[threadIdx.x + 1] = 0;
  a.out[threadIdx.x] = 0;
}

// 16 bytes at once, stored where a multiple of 16 begins or not; loaded where none does.
template <int kSkipped>
__global__ void vector_kernel(const __grid_constant__ FaultArgs a) {
  if (threadIdx.x >= 15) return;
  int32_t* at = a.out + 64 * blockIdx.x + 4 * threadIdx.x + kSkipped;
  *reinterpret_cast<uint4*>(at) = make_uint4(1, 2, 3, 4);
}
__global__ void shared_vector_kernel(const __grid_constant__ FaultArgs a) {
  using Numbers = int32_t[64];
  C2F_SHARED(Numbers, numbers);
  if (threadIdx.x < 6) numbers[threadIdx.x] = 0;
  __syncthreads();
  const uint4 read = *reinterpret_cast<const uint4*>(numbers + 2);
  a.out[64 * blockIdx.x + threadIdx.x] = static_cast<int32_t>(read.x);
}

}  // namespace c2f::cuda

#define C2F_FAULTS(K)                             \
  K(0, shared_kernel<true>)                       \
  K(1, shared_kernel<false>)                      \
  K(2, lanes_kernel<true>)                        \
  K(3, lanes_kernel<false>)                       \
  K(4, blocks_kernel<Ticket::kSound>)             \
  K(5, blocks_kernel<Ticket::kNoFence>)           \
  K(13, blocks_kernel<Ticket::kResetBeforeFence>) \
  K(6, before_kernel)                             \
  K(7, behind_kernel)                             \
  K(8, dynamic_kernel)                            \
  K(9, variable_kernel)                           \
  K(10, vector_kernel<4>)                         \
  K(11, vector_kernel<2>)                         \
  K(12, shared_vector_kernel)

#include "../../csrc/cuda/define_kernels.h"
C2F_KERNEL_TABLE(faults, C2F_FAULTS)
