// Watches every load and store of the kernels: the compiler calls a function for each
// (-fsanitize=thread; the functions are ours, watch.cpp), which fails the block where
//
// - two threads of a block touch a byte, one of them writes, and neither a barrier of the block nor
//   a meeting of their warp lies between, in whatever order the emulator happens to run them;
// - two blocks do so without a fence, an atomic, an atomic and a fence between them;
// - a thread touches what is no tensor of the call and no shared memory of its block.
//
// Two atomics never race. Blocks of different launches do not, either: they are of one stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

namespace c2f::cuda::host {

// Of every block the first epoch (barriers it has passed) that is not yet visible.
using Clock = std::unordered_map<int32_t, int32_t>;

class Watch {
 public:
  // Called on the stack of the thread that is at fault; never returns.
  using Fail = void (*)(const char* what, const void* code);
  explicit Watch(Fail fail) : fail_(fail) {}

  void begin_launch();
  void begin_block(int32_t block, int warps);
  void end_block() { thread_ = -1; }
  void run_thread(int thread) { thread_ = thread; }

  void block_met();
  void warp_met(int warp);
  void fence();
  void access(const void* at, size_t bytes, bool write, bool atomic, const void* code);

  // Stacks of threads, and the launch's arguments.
  void set_private(const void* stacks, size_t stack_bytes, const void* args, size_t arg_bytes) {
    private_[0] = range(stacks, stack_bytes);
    private_[1] = range(args, arg_bytes);
  }
  void add_shared(const void* from, size_t bytes, size_t fence) {
    shared_.push_back(range(from, bytes));
    fenced_in_.push_back(range(static_cast<const char*>(from) - fence, bytes + 2 * fence));
  }
  // Shared memory whose size the launch says, within `room` bytes.
  void set_dynamic(const void* from, size_t bytes, size_t room);
  void add_tensor(const void* from, size_t bytes) { tensors_.push_back(range(from, bytes)); }
  void forget_tensors() {
    tensors_.clear();
    anywhere_ = false;
  }
  // For a launch whose tensors are not known here: places outside shared memory are not watched.
  void allow_anywhere() { anywhere_ = true; }

 private:
  struct Range {
    uintptr_t from, end;
    bool has(uintptr_t at) const { return at >= from && at < end; }
  };
  static Range range(const void* from, size_t bytes) {
    const auto at = reinterpret_cast<uintptr_t>(from);
    return {at, at + bytes};
  }
  // What a warp does between two meetings. Numbers ascend; 0 is none.
  struct Segment {
    int32_t block, warp, epoch;
  };
  struct By {
    uint32_t segment = 0;
    uint16_t thread = 0;
    bool atomic = false, others = false;  // others: of the warp, in the same segment
  };
  struct Byte {
    By write, read[2];  // the readers of two warps
  };
  struct Page {
    Byte bytes[4096];
  };

  bool ordered(const By& before, bool shared) const;
  int32_t seen(int32_t block) const;
  bool visible(const By& before, const Segment& its) const;
  bool atomics_seen(uintptr_t at) const;
  void note_read(Byte& byte) const;
  void check_place(uintptr_t at, size_t bytes, bool* watched, bool* shared, const void* code) const;
  Byte& byte_at(uintptr_t at);

  Fail fail_;
  int thread_ = -1;
  int32_t block_ = 0, epoch_ = 0;
  std::vector<Segment> segments_;
  uint32_t segment_[32] = {};  // of each warp of the block
  int warps_ = 0;
  std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages_;

  // What atomics have handed on, by address; what threads got by atomics, and by fences after them.
  std::unordered_map<uintptr_t, Clock> handed_on_;
  Clock of_block_;
  std::unordered_map<int, Clock> got_, fenced_;
  std::unordered_map<int, int32_t> fence_epoch_;

  Range dynamic_{}, room_{}, private_[2] = {};
  std::vector<Range> shared_, fenced_in_, tensors_;
  bool anywhere_ = false;
};

Watch& watch();

}  // namespace c2f::cuda::host
