// Tasks over threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace c2f::cpu {

// Whether this process is the child of a fork without exec. OpenMP's threads do not survive a fork
// (libgomp's next parallel region would wait for them forever), so such a process starts new
// threads for every call, which takes tens of microseconds each. Set by the bindings before any
// call.
inline bool forked = false;

// Asks whether this thread's call should end early. The bindings set it for each call that may take
// long; it is null for short ones, which even reading the clock would slow down.
inline thread_local bool (*stop_asked)() = nullptr;

// What parallel_for throws when a call ends early. Outputs are unfinished.
struct Stopped {};

// Runs the tasks of a loop until the caller asks to stop.
template <class Body>
class StoppableTasks {
 public:
  explicit StoppableTasks(const Body& body) : body_(body), asked_(stop_asked) {
    if (asked_ != nullptr) next_ = Clock::now() + kBetween;
  }

  // Worker 0 is the caller's thread. It asks between its tasks, and rarely, since the answer takes
  // Python's lock.
  void operator()(int64_t task, int worker) {
    if (stopped_.load(std::memory_order_relaxed)) return;
    body_(task, worker);
    if (worker != 0 || asked_ == nullptr || Clock::now() < next_) return;
    if (asked_()) stopped_.store(true, std::memory_order_relaxed);
    next_ = Clock::now() + kBetween;
  }

  void finish() const {
    if (stopped_.load(std::memory_order_relaxed)) throw Stopped();
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kBetween{200};

  const Body& body_;
  bool (*const asked_)();
  std::atomic<bool> stopped_{false};
  Clock::time_point next_;  // worker 0's
};

// parallel_for without OpenMP. If a thread cannot be started, the others do its share.
template <class Body>
inline void parallel_for_fresh(int64_t tasks, int threads, Body& body) {
  std::atomic<int64_t> next{0};
  const auto work = [&](int worker) {
    for (int64_t task = next++; task < tasks; task = next++) body(task, worker);
  };
  std::vector<std::thread> helpers;
  helpers.reserve(static_cast<size_t>(threads));
  try {
    for (int worker = 1; worker < threads; ++worker) helpers.emplace_back(work, worker);
  } catch (const std::exception&) {
  }
  work(0);
  for (std::thread& helper : helpers) helper.join();
}

// How many workers parallel_for has.
inline int worker_count(int64_t tasks, int threads) {
  return static_cast<int>(std::min<int64_t>(std::max(threads, 1), tasks));
}

// Calls body(task, worker) for task in [0, tasks) on at most `threads` threads; worker in [0,
// worker_count) numbers the thread, for scratch that the caller allocated beforehand: no exception
// may leave a task, bad_alloc included. Results must not depend on which worker runs a task, or in
// which order. With one thread or one task it runs inline, without entering OpenMP. More tasks than
// threads are handed out one by one, since class boundaries, which cost the most, are rarely spread
// evenly. A loop can end early only between tasks, so none should take more than tenths of a
// second.
template <class Body>
inline void parallel_for(int64_t tasks, int threads, const Body& body) {
  threads = worker_count(tasks, threads);
  if (threads <= 1 && stop_asked == nullptr) {
    for (int64_t task = 0; task < tasks; ++task) body(task, 0);
    return;
  }
  StoppableTasks<Body> run(body);
#if defined(_OPENMP)
  if (forked || threads <= 1) {
    parallel_for_fresh(tasks, threads, run);
  } else if (tasks == threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t task = 0; task < tasks; ++task) run(task, omp_get_thread_num());
  } else {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t task = 0; task < tasks; ++task) run(task, omp_get_thread_num());
  }
#else
  parallel_for_fresh(tasks, threads, run);
#endif
  run.finish();
}

}  // namespace c2f::cpu
