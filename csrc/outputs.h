// What the CPU module's functions share: outputs, the table of the small classes, and how they run.
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

// A tensor, kept, and what it is.
struct Viewed {
  pybind11::object tensor;
  TensorView view;
};

// A contiguous CPU tensor, or one of images that is channels_last, its memory garbage:
// torch.empty's, or, where it is small and that would cost more than to fill it, one in memory of
// our own. `like` is any tensor of the call.
Viewed new_tensor(pybind11::handle like, DType dtype, std::initializer_list<int64_t> shape,
                  bool channels_last = false);

// A torch.dtype that patches may have.
DType float_dtype(pybind11::handle dtype, const char* op);

// The tensor itself if it is contiguous, else a copy that is; op and name as for view_tensor.
Viewed contiguous(pybind11::handle tensor, const char* op, const char* name);

// As many threads as torch uses, or 1 where the output is so small that waking another thread, or
// asking torch, costs more than it saves.
int threads_for(int64_t output_elems);

// Whether the handler of a signal raised something, which is Python's error then. Handlers run in
// the main thread alone.
bool signal_raised();

// Runs a kernel without the GIL. Throws what the handler of a signal raises meanwhile (Ctrl-C's:
// KeyboardInterrupt): outputs are unfinished then.
template <class Params>
void run_unlocked(void (*kernel)(const Params&, int), const Params& params, int64_t output_elems) {
  constexpr int64_t kLong = 1 << 22;  // milliseconds; from many classes, tenths of a second
  const int threads = threads_for(output_elems);
  cpu::stop_asked = output_elems < kLong ? nullptr : &signal_raised;
  try {
    const pybind11::gil_scoped_release unlocked;
    kernel(params, threads);
  } catch (const cpu::Stopped&) {
    throw pybind11::error_already_set();
  }
}

// 1 where the id is one of `ids`, a sequence of int.
class IdTable {
 public:
  explicit IdTable(pybind11::handle ids);
  std::string_view bytes() const { return {is_small_, sizeof is_small_}; }

 private:
  char is_small_[kMaxClasses] = {};
};

}  // namespace c2f
