#include "watch.h"

#include <link.h>

#include <algorithm>

namespace c2f::cuda::host {
namespace {

void merge(Clock& into, const Clock& from) {
  for (const auto& [block, epoch] : from) into[block] = std::max(into[block], epoch);
}

int32_t epoch_in(const Clock& clock, int32_t block) {
  const auto found = clock.find(block);
  return found == clock.end() ? -1 : found->second;
}

struct Image {
  uintptr_t from = 0, end = 0;
};

// Where this module is loaded. Its variables and constants are no device memory, but for what is
// added as shared.
Image find_module() {
  Image image;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* out) {
        const auto here = reinterpret_cast<uintptr_t>(&find_module);
        uintptr_t low = UINTPTR_MAX, high = 0;
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& part = info->dlpi_phdr[i];
          if (part.p_type != PT_LOAD) continue;
          low = std::min<uintptr_t>(low, info->dlpi_addr + part.p_vaddr);
          high = std::max<uintptr_t>(high, info->dlpi_addr + part.p_vaddr + part.p_memsz);
        }
        if (here < low || here >= high) return 0;
        *static_cast<Image*>(out) = {low, high};
        return 1;
      },
      &image);
  return image;
}

bool in_module(uintptr_t at) {
  static const Image image = find_module();
  return at >= image.from && at < image.end;
}

}  // namespace

void Watch::begin_launch() {
  pages_.clear();
  segments_.assign(1, Segment{-1, -1, -1});
  handed_on_.clear();
}

void Watch::begin_block(int32_t block, int warps) {
  block_ = block;
  epoch_ = 0;
  warps_ = warps;
  of_block_.clear();
  got_.clear();
  fenced_.clear();
  fence_epoch_.clear();
  for (int warp = 0; warp < warps; ++warp) warp_met(warp);
}

void Watch::block_met() {
  ++epoch_;
  for (const auto& [thread, clock] : fenced_) merge(of_block_, clock);
  fenced_.clear();
  for (int warp = 0; warp < warps_; ++warp) warp_met(warp);
}

void Watch::warp_met(int warp) {
  segment_[warp] = static_cast<uint32_t>(segments_.size());
  segments_.push_back({block_, warp, epoch_});
}

void Watch::fence() {
  fence_epoch_[thread_] = epoch_;
  merge(fenced_[thread_], got_[thread_]);
}

void Watch::set_dynamic(const void* from, size_t bytes, size_t room) {
  dynamic_ = range(from, bytes);
  room_ = range(from, room);
}

int32_t Watch::seen(int32_t block) const {
  const auto found = fenced_.find(thread_);
  const int32_t by_thread = found == fenced_.end() ? -1 : epoch_in(found->second, block);
  return std::max(by_thread, epoch_in(of_block_, block));
}

bool Watch::visible(const By& before, const Segment& its) const {
  return before.atomic ? its.epoch <= seen(its.block) : its.epoch < seen(its.block);
}

// Of atomics only the last one is remembered with the byte; a plain access wants all behind it.
bool Watch::atomics_seen(uintptr_t at) const {
  const auto found = handed_on_.find(at);
  if (found == handed_on_.end()) return true;
  return std::all_of(found->second.begin(), found->second.end(), [this](const auto& by) {
    return by.first == block_ || by.second <= seen(by.first);
  });
}

bool Watch::ordered(const By& before, bool shared) const {
  if (before.segment == 0) return true;
  const Segment& its = segments_[before.segment];
  if (its.block != block_) return shared || visible(before, its);
  if (its.epoch != epoch_) return true;
  if (its.warp != thread_ / 32) return false;
  if (before.segment != segment_[its.warp]) return true;
  return before.thread == thread_ && !before.others;
}

void Watch::note_read(Byte& byte) const {
  const By mine{segment_[thread_ / 32], static_cast<uint16_t>(thread_), false, false};
  By& last = byte.read[0];
  if (last.segment == mine.segment) {
    last.others = last.others || last.thread != mine.thread;
    return;
  }
  const Segment& its = segments_[last.segment];
  if (last.segment != 0 && (its.block != block_ || its.warp != thread_ / 32)) byte.read[1] = last;
  last = mine;
}

Watch::Byte& Watch::byte_at(uintptr_t at) {
  std::unique_ptr<Page>& page = pages_[at >> 12];
  if (page == nullptr) page = std::make_unique<Page>();
  return page->bytes[at & 4095];
}

void Watch::check_place(uintptr_t at, size_t bytes, bool* watched, bool* shared,
                        const void* code) const {
  const auto among = [&](const std::vector<Range>& ranges) {
    return std::any_of(ranges.begin(), ranges.end(),
                       [&](const Range& r) { return r.has(at) && r.has(at + bytes - 1); });
  };
  *shared = *watched = false;
  if (private_[0].has(at) || private_[1].has(at)) return;
  *shared = *watched = true;
  if (room_.has(at)) {
    if (!dynamic_.has(at + bytes - 1)) fail_("outside the dynamic shared memory", code);
    return;
  }
  if (among(shared_)) return;
  const auto beside = [at](const Range& r) { return r.has(at); };
  if (std::any_of(fenced_in_.begin(), fenced_in_.end(), beside)) {
    fail_("outside a variable in shared memory", code);
  }
  *shared = false;
  if (among(tensors_)) return;
  *watched = false;
  if (!anywhere_ && !in_module(at)) fail_("outside every tensor of the call", code);
}

void Watch::access(const void* address, size_t bytes, bool write, bool atomic, const void* code) {
  if (thread_ < 0) return;  // the emulator's own
  const auto at = reinterpret_cast<uintptr_t>(address);
  bool watched, shared;
  check_place(at, bytes, &watched, &shared, code);
  if (!watched) return;
  if (!atomic && !shared && !atomics_seen(at)) {
    fail_(write ? "a write races with an atomic" : "a read races with an atomic", code);
  }
  for (size_t i = 0; i < bytes; ++i) {
    Byte& byte = byte_at(at + i);
    if (!(atomic && byte.write.atomic) && !ordered(byte.write, shared)) {
      fail_(write ? "a write races with a write" : "a read races with a write", code);
    }
    if (!write) {
      note_read(byte);
      continue;
    }
    if (!ordered(byte.read[0], shared) || !ordered(byte.read[1], shared)) {
      fail_("a write races with a read", code);
    }
    byte.write = {segment_[thread_ / 32], static_cast<uint16_t>(thread_), atomic, false};
    byte.read[0] = byte.read[1] = {};
  }
  if (!atomic || shared) return;
  Clock& clock = handed_on_[at];
  merge(got_[thread_], clock);
  const auto fenced = fence_epoch_.find(thread_);
  if (fenced == fence_epoch_.end() || fenced->second != epoch_) return;
  merge(clock, of_block_);
  merge(clock, fenced_[thread_]);
  clock[block_] = std::max(clock[block_], epoch_);
}

}  // namespace c2f::cuda::host

// What the compiler calls. Names and arguments are fixed by it.
#define C2F_ACCESS(bytes)                                                                  \
  void __tsan_read##bytes(void* at) {                                                      \
    c2f::cuda::host::watch().access(at, bytes, false, false, __builtin_return_address(0)); \
  }                                                                                        \
  void __tsan_write##bytes(void* at) {                                                     \
    c2f::cuda::host::watch().access(at, bytes, true, false, __builtin_return_address(0));  \
  }                                                                                        \
  void __tsan_unaligned_read##bytes(void* at) { __tsan_read##bytes(at); }                  \
  void __tsan_unaligned_write##bytes(void* at) { __tsan_write##bytes(at); }
extern "C" {
C2F_ACCESS(1)
C2F_ACCESS(2)
C2F_ACCESS(4)
C2F_ACCESS(8)
C2F_ACCESS(16)
void __tsan_read_range(void* at, long bytes) {
  c2f::cuda::host::watch().access(at, static_cast<size_t>(bytes), false, false,
                                  __builtin_return_address(0));
}
void __tsan_write_range(void* at, long bytes) {
  c2f::cuda::host::watch().access(at, static_cast<size_t>(bytes), true, false,
                                  __builtin_return_address(0));
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit(void*) {}
}
