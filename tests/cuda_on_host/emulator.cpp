// Runs kernels on the CPU: blocks one after the other, the threads of a block as fibers that are
// switched at barriers and warp intrinsics only. The order of blocks and of threads varies from
// launch to launch and block to block, so that an answer which depends on it, for want of a
// barrier, comes out wrong. A block whose threads wait for each other for ever is an error, and so
// are threads that meet in different barriers, leave before one, or call a warp intrinsic without
// all lanes. What the threads load and store is watched (watch.h); a misaligned address, an
// overflow and what else the compiler's sanitizer finds fails the block as well.
#include <dlfcn.h>
#include <ucontext.h>

#include <cstdlib>
#include <memory>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../csrc/cuda/launch.h"
#include "../../csrc/tensor.h"
#include "device_on_host.h"
#include "watch.h"

uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace c2f::cuda {
namespace host {
namespace {

constexpr int kMaxThreads = 1024;
constexpr size_t kStackBytes = 64 << 10;
constexpr size_t kDynamicBytes = 227 << 10;
// What shared memory holds when a block begins: different everywhere, so that a table that nobody
// has filled has no two equal entries; as integers large, negative in one block and positive in the
// next, and in a third small and ascending, as the block before may have left them.
void poison(void* data, size_t bytes, unsigned block) {
  constexpr unsigned char kHigh[] = {0xCD, 0x7B, 0};
  const unsigned char high = kHigh[block % 3];
  auto* const at = static_cast<unsigned char*>(data);
  for (size_t i = 0; i < bytes; ++i) {
    const size_t low = high == 0 ? i / 2 % 16 : high + i / 2;
    at[i] = i % 2 == 0 ? static_cast<unsigned char>(low) : high;
  }
}

enum class State { kReady, kAtBarrier, kInWarp, kDone };

struct Warp {
  uint64_t values[2][32];
  unsigned arrived = 0, phase = 0;
  Place at{};
};

struct Region {
  void* data;
  size_t bytes;
};

class Block {
 public:
  // Runs all threads of block `index` to their end.
  void run(void (*function)(const void*), const void* args, unsigned index, int threads,
           size_t dynamic_bytes) {
    function_ = function;
    args_ = args;
    threads_ = threads;
    blockIdx = {index, 0, 0};
    at_barrier_ = done_ = 0;
    error_.clear();
    std::fill(warps_, warps_ + threads / 32, Warp{});
    for (const Region& region : poisoned) poison(region.data, region.bytes, index);
    poison(dynamic.get(), dynamic_bytes, index);
    watch().set_dynamic(dynamic.get(), dynamic_bytes, kDynamicBytes);
    watch().begin_block(static_cast<int32_t>(index), threads / 32);
    for (int t = 0; t < threads; ++t) {
      state_[t] = State::kReady;
      getcontext(&contexts_[t]);
      contexts_[t].uc_stack.ss_sp = stacks_.get() + static_cast<size_t>(t) * kStackBytes;
      contexts_[t].uc_stack.ss_size = kStackBytes;
      contexts_[t].uc_link = nullptr;
      makecontext(&contexts_[t], &Block::enter, 0);
    }
    while (done_ < threads) {
      bool moved = false;
      for (int i = 0; i < threads && error_.empty(); ++i) {
        const int t = thread_at(i, index);
        if (state_[t] != State::kReady) continue;
        moved = true;
        current_ = t;
        watch().run_thread(t);
        threadIdx = {static_cast<unsigned>(t), 0, 0};
        swapcontext(&scheduler_, &contexts_[t]);
        current_ = -1;
        watch().end_block();
      }
      if (!error_.empty()) throw std::runtime_error(error_);
      if (!moved) throw std::runtime_error("threads of a block wait for each other for ever");
    }
  }

  void barrier(Place at) {
    if (done_ > 0) fail("a thread has left the kernel before this barrier", at);
    if (at_barrier_ > 0 && !same(at, barrier_)) fail("threads meet in different barriers", at);
    barrier_ = at;
    if (++at_barrier_ < threads_) {
      wait(State::kAtBarrier);
      return;
    }
    at_barrier_ = 0;
    watch().block_met();
    for (int t = 0; t < threads_; ++t) state_[t] = State::kReady;
  }

  const uint64_t* exchange(uint64_t mine, unsigned mask, Place at) {
    if (mask != ~0u) fail("a warp intrinsic without all lanes", at);
    Warp& warp = warps_[current_ / 32];
    const unsigned slot = warp.phase & 1u;
    warp.values[slot][current_ % 32] = mine;
    if (warp.arrived != 0 && !same(at, warp.at)) fail("lanes meet in different intrinsics", at);
    warp.at = at;
    warp.arrived |= 1u << (current_ % 32);
    if (warp.arrived != ~0u) {
      wait(State::kInWarp);
      return warp.values[slot];
    }
    warp.arrived = 0;
    ++warp.phase;  // the next exchange writes the other slot: this one stays until all have read it
    watch().warp_met(current_ / 32);
    const int first = current_ / 32 * 32;
    for (int t = first; t < first + 32; ++t) state_[t] = State::kReady;
    return warp.values[slot];
  }

  int current() const { return current_; }  // -1: no thread runs

  // Never returns: the fibers of this block are given up.
  void fail(const char* what, const std::string& where) {
    error_ = std::string(what) + ": " + where + ", thread " + std::to_string(current_) +
             " of block " + std::to_string(blockIdx.x);
    swapcontext(&contexts_[current_], &scheduler_);
    std::abort();
  }
  const unsigned char* stacks() const { return stacks_.get(); }

  std::vector<Region> poisoned;
  std::unique_ptr<unsigned char[]> dynamic{new (std::align_val_t{16}) unsigned char[kDynamicBytes]};

 private:
  static void enter();

  void wait(State state) {
    state_[current_] = state;
    swapcontext(&contexts_[current_], &scheduler_);
  }

  void fail(const char* what, Place at) {
    fail(what, std::string(at.file) + ":" + std::to_string(at.line));
  }

  static bool same(Place a, Place b) {
    return a.line == b.line && std::strcmp(a.file, b.file) == 0;
  }

  // Forwards, backwards, or jumping about (37 is odd, and threads are a multiple of 32).
  int thread_at(int i, unsigned block) const {
    switch (block % 3) {
      case 0:
        return i;
      case 1:
        return threads_ - 1 - i;
      default:
        return (i * 37 + 11) % threads_;
    }
  }

  void (*function_)(const void*) = nullptr;
  const void* args_ = nullptr;
  int threads_ = 0, current_ = -1, at_barrier_ = 0, done_ = 0;
  Place barrier_{};
  std::string error_;
  State state_[kMaxThreads];
  Warp warps_[kMaxThreads / 32];
  ucontext_t contexts_[kMaxThreads], scheduler_;
  std::unique_ptr<unsigned char[]> stacks_{new unsigned char[kMaxThreads * kStackBytes]};
};

Block& block() {
  static Block only;
  return only;
}

void Block::enter() {
  Block& b = block();
  b.function_(b.args_);
  ++b.done_;
  if (b.at_barrier_ > 0) b.fail("a thread leaves the kernel while others wait", b.barrier_);
  b.wait(State::kDone);
}

// Where in this module an access was compiled: for addr2line.
void fail_access(const char* what, const void* code) {
  Dl_info module{};
  dladdr(code, &module);
  std::ostringstream where;
  where << module.dli_fname << " + 0x" << std::hex
        << static_cast<const char*>(code) - static_cast<const char*>(module.dli_fbase);
  block().fail(what, where.str());
}

}  // namespace

Watch& watch() {
  static Watch only(&fail_access);
  return only;
}
void thread_fence() { watch().fence(); }
void atomic_access(const void* at, size_t bytes) {
  watch().access(at, bytes, true, true, __builtin_return_address(0));
}

void block_barrier(Place at) { block().barrier(at); }
const uint64_t* warp_exchange(uint64_t mine, unsigned mask, Place at) {
  return block().exchange(mine, mask, at);
}
int this_lane() { return block().current() % 32; }
unsigned char* dynamic_shared() { return block().dynamic.get(); }
void add_shared(void* data, size_t bytes) {
  poison(data, bytes, blockIdx.x);
  watch().add_shared(data, bytes, kFenceBytes);
  block().poisoned.push_back({data, bytes});
}

// A tensor that a call was handed: what its kernels may touch.
void allow(const TensorView& view) {
  int64_t low = 0, high = 1;
  for (int i = 0; i < view.ndim; ++i) {
    if (view.shape[i] == 0) return;
    const int64_t reach = (view.shape[i] - 1) * view.strides[i];
    (reach < 0 ? low : high) += reach;
  }
  const int64_t bytes = dtype_bytes(view.dtype);
  watch().add_tensor(static_cast<const char*>(view.data) + low * bytes,
                     static_cast<size_t>((high - low) * bytes));
}

}  // namespace host

Queue::Queue(pybind11::handle) {}
Queue::~Queue() { host::watch().forget_tensors(); }
std::string missing() { return ""; }

void launch_bytes(const Launch& launch, const void* args, size_t bytes, const Queue&) {
  static unsigned launches = 0;
  const Kernel& kernel = launch.table.kernels[launch.table.find(launch.key)];
  if (launch.threads % 32 != 0 || launch.threads > host::kMaxThreads) {
    throw std::runtime_error(std::string(kernel.name) + ": threads must be a multiple of 32");
  }
  if (launch.dynamic_shared > host::kDynamicBytes) {
    throw std::runtime_error(std::string(kernel.name) + ": too much shared memory");
  }
  const auto function = reinterpret_cast<void (*)(const void*)>(const_cast<void*>(kernel.function));
  blockDim = {launch.threads, 1, 1};
  gridDim = {static_cast<unsigned>(launch.blocks), 1, 1};
  host::watch().begin_launch();
  host::watch().set_private(host::block().stacks(), host::kMaxThreads * host::kStackBytes, args,
                            bytes);
  const bool backwards = ++launches % 2 == 0;
  for (unsigned i = 0; i < gridDim.x; ++i) {
    const unsigned index = backwards ? gridDim.x - 1 - i : i;
    try {
      host::block().run(function, args, index, static_cast<int>(launch.threads),
                        launch.dynamic_shared);
    } catch (const std::runtime_error& error) {
      throw std::runtime_error(std::string(kernel.name) + ": " + error.what());
    }
  }
}

}  // namespace c2f::cuda

// The sanitizer's runtime calls this for what it finds. The lock that it holds meanwhile is kept,
// so that the next finding ends the process, as one outside of kernels does.
extern "C" void __ubsan_get_current_report_data(const char**, const char**, const char**, unsigned*,
                                                unsigned*, char**);
extern "C" void __ubsan_on_report() {
  if (c2f::cuda::host::block().current() < 0) return;
  const char *kind, *message, *file;
  unsigned line, column;
  char* address;
  __ubsan_get_current_report_data(&kind, &message, &file, &line, &column, &address);
  c2f::cuda::host::block().fail(message, std::string(file) + ":" + std::to_string(line));
}
