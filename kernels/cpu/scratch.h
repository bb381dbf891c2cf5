// Scratch memory of a call, on the stack while it is small: forty heap allocations cost as much as
// the work on a few hundred pixels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

namespace c2f::cpu {

// Stack memory for the vectors that this thread makes while the room lives; a bump allocator that
// takes nothing back. Calls on several threads get none: their workers' scratch would share cache
// lines.
class ScratchRoom {
 public:
  explicit ScratchRoom(int threads) : used_(threads == 1 ? 0 : sizeof bytes_), outer_(current()) {
    current() = this;
  }
  ~ScratchRoom() { current() = outer_; }
  ScratchRoom(const ScratchRoom&) = delete;
  ScratchRoom& operator=(const ScratchRoom&) = delete;

  // nullptr if too little room is left, or this thread has none.
  static void* take(size_t bytes) {
    ScratchRoom* room = current();
    if (room == nullptr || bytes > sizeof room->bytes_ - room->used_) return nullptr;
    void* block = room->bytes_ + room->used_;
    room->used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return block;
  }

  static constexpr size_t kAlignment = alignof(std::max_align_t);

 private:
  static ScratchRoom*& current() {
    static thread_local ScratchRoom* room = nullptr;
    return room;
  }

  size_t used_;
  ScratchRoom* outer_;
  alignas(kAlignment) char bytes_[1 << 14];
};

// Each block begins with a note that says whether it is from the heap, so that any thread may free
// it.
template <class T>
struct ScratchAllocator {
  using value_type = T;

  ScratchAllocator() = default;
  template <class U>
  ScratchAllocator(const ScratchAllocator<U>&) {}

  T* allocate(size_t n) {
    static_assert(alignof(T) <= kNote, "blocks are aligned for the plain types");
    const size_t bytes = kNote + n * sizeof(T);
    void* block = ScratchRoom::take(bytes);
    const bool on_heap = block == nullptr;
    if (on_heap) block = ::operator new(bytes);
    *static_cast<bool*>(block) = on_heap;
    return reinterpret_cast<T*>(static_cast<char*>(block) + kNote);
  }

  void deallocate(T* data, size_t) {
    void* block = reinterpret_cast<char*>(data) - kNote;
    if (*static_cast<bool*>(block)) ::operator delete(block);
  }

  template <class U>
  bool operator==(const ScratchAllocator<U>&) const {
    return true;
  }
  template <class U>
  bool operator!=(const ScratchAllocator<U>&) const {
    return false;
  }

 private:
  static constexpr size_t kNote = ScratchRoom::kAlignment;
};

// std::vector with memory from the ScratchRoom of the thread that asks for it, else from the heap.
template <class T>
using Scratch = std::vector<T, ScratchAllocator<T>>;

}  // namespace c2f::cpu
