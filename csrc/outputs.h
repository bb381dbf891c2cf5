// What the CPU module's functions share: outputs, the table of small classes, running a kernel.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <string_view>

#include "../kernels/common/dtype.h"
#include "../kernels/common/params.h"
#include "../kernels/cpu/parallel.h"
#include "tensor.h"

namespace c2f {

// A tensor, kept alive, and its view.
struct Viewed {
  pybind11::object tensor;
  TensorView view;
};

// An uninitialised CPU tensor, contiguous or channels_last: torch.empty's, or, if it is so small
// that torch.empty would take longer than filling it, one in memory of our own. `like` is any
// tensor of the call.
Viewed new_tensor(pybind11::handle like, DType dtype, std::initializer_list<int64_t> shape,
                  bool channels_last = false);

// The DType of a torch.dtype that patches may have; others are a TypeError.
DType float_dtype(pybind11::handle dtype, const char* op);

// The tensor itself if it is contiguous, else a contiguous copy; op and name as for view_tensor.
Viewed contiguous(pybind11::handle tensor, const char* op, const char* name);

// As many threads as torch uses, or 1 if the output is so small that waking another thread, or
// asking torch, would cost more than it saves.
int threads_for(int64_t output_elems);

// Runs pending signal handlers, which Python does in the main thread only. Returns whether one
// raised an exception, which is then Python's current error.
bool signal_raised();

// Runs a kernel without the GIL. If a signal handler raises meanwhile (Ctrl-C: KeyboardInterrupt),
// the kernel ends early, with unfinished outputs, and the exception is thrown.
template <class Params>
void run_unlocked(void (*kernel)(const Params&, int), const Params& params, int64_t output_elems) {
  constexpr int64_t kLong = 1 << 22;  // takes milliseconds, or tenths of a second for many classes
  const int threads = threads_for(output_elems);
  cpu::stop_asked = output_elems < kLong ? nullptr : &signal_raised;
  try {
    const pybind11::gil_scoped_release unlocked;
    kernel(params, threads);
  } catch (const cpu::Stopped&) {
    throw pybind11::error_already_set();
  }
}

// The class table: 1 where an id is one of `ids`, a sequence of int.
class IdTable {
 public:
  explicit IdTable(pybind11::handle ids);
  std::string_view bytes() const { return {is_small_, sizeof is_small_}; }

 private:
  char is_small_[kMaxClasses] = {};
};

}  // namespace c2f
