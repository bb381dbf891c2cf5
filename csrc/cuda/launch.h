// Launching a kernel, whoever compiled it: launch_runtime.cpp does it for kernels compiled by nvcc
// (module _cuda_prebuilt), launch_jit.cpp for those compiled when first needed (_cuda_jit), the
// emulator of the tests for kernels that run on the CPU.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "kernel_table.h"

namespace c2f::cuda {

// Multiprocessors of an H100 or H200. A launch should have a few blocks for each, or some idle.
constexpr int64_t kMultiprocessors = 132;

constexpr int64_t kInt32Max = 0x7fffffff;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Launch {
  const KernelTable& table;
  uint32_t key;
  int64_t blocks;  // all along x, since y and z end at 65535
  uint32_t threads;
  uint32_t dynamic_shared = 0;  // bytes
  bool early = false;  // may start before the previous launch ends: wait_for_previous in gpu.cuh
};

// The caller's device and stream. The device is made current while this lives.
class Queue {
 public:
  // The stream of the device that `tensor` is on.
  explicit Queue(pybind11::handle tensor);
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  int device = 0;
  void* stream = nullptr;

 private:
  [[maybe_unused]] int restore_ = -1;  // launch_runtime.cpp alone changes the device
};

// Raises NotImplementedError if there are more blocks than a launch can have.
void require_blocks(const Launch& launch);

// Starts a kernel that takes one argument, by value. Throws std::runtime_error with CUDA's reason.
void launch_bytes(const Launch& launch, const void* args, size_t bytes, const Queue& queue);

template <class Args>
void launch(const Launch& launch, const Args& args, const Queue& queue) {
  static_assert(sizeof(Args) <= 4096, "kernel arguments are limited to 4 KB");
  require_blocks(launch);
  launch_bytes(launch, &args, sizeof(Args), queue);
}

// Device memory of a call, which PyTorch allocates (Workspace in c2fcore/_cuda.py). References to
// it are kept while this lives, which must be until the launches that use it are enqueued.
class Workspace {
 public:
  explicit Workspace(pybind11::handle python) : python_(python) {}

  // Uninitialised memory, for use on the current stream only; calls with the same name share it.
  template <class T>
  T* scratch(const char* name, int64_t count) {
    return static_cast<T*>(bytes(name, count * static_cast<int64_t>(sizeof(T))));
  }

  // Counters that are zero, and that the kernel must leave zero.
  uint32_t* tickets(int64_t count);

 private:
  void* bytes(const char* name, int64_t count);

  pybind11::handle python_;
  pybind11::list held_;
};

// Raises NotImplementedError: "<op>: backend 'cuda' <what>; 'reference' can run this".
[[noreturn]] void lacking(const char* op, const std::string& what);

// Why kernels cannot run on this machine, "" if they can.
std::string missing();

// Adds what this launcher offers Python besides the ops.
void bind_launcher(pybind11::module_& m);

}  // namespace c2f::cuda
