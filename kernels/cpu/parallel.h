// Tasks over threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace c2f::cpu {

// Whether this process was forked and has not called exec. OpenMP's threads do not survive a fork
// (libgomp's next parallel region would wait for them forever), so such a process starts threads of
// its own for every call: tens of microseconds each. Set by the glue, before any call.
inline bool forked = false;

// parallel_for without OpenMP. Where a thread cannot be had, the others do its work.
template <class Body>
inline void parallel_for_fresh(int64_t tasks, int threads, const Body& body) {
  std::atomic<int64_t> next{0};
  const auto work = [&](int worker) {
    for (int64_t task = next++; task < tasks; task = next++) body(task, worker);
  };
  std::vector<std::thread> helpers;
  helpers.reserve(static_cast<size_t>(threads));
  try {
    for (int worker = 1; worker < threads; ++worker) helpers.emplace_back(work, worker);
  } catch (const std::system_error&) {
  }
  work(0);
  for (std::thread& helper : helpers) helper.join();
}

// Calls body(task, worker) for task in [0, tasks) on at most `threads` threads; worker in
// [0, threads) names the thread, for scratch that the caller allocated beforehand (an exception, of
// memory too, must not leave a task). Results must not depend on which worker runs what, or in
// which order. With one thread or one task it runs inline, without entering OpenMP. More tasks than
// threads are handed out one by one: class boundaries, which cost the most, are rarely spread
// evenly.
template <class Body>
inline void parallel_for(int64_t tasks, int threads, const Body& body) {
  if (threads > tasks) threads = static_cast<int>(tasks);
  if (threads <= 1) {
    for (int64_t task = 0; task < tasks; ++task) body(task, 0);
    return;
  }
#if defined(_OPENMP)
  if (forked) return parallel_for_fresh(tasks, threads, body);
  if (tasks == threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t task = 0; task < tasks; ++task) body(task, omp_get_thread_num());
  } else {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t task = 0; task < tasks; ++task) body(task, omp_get_thread_num());
  }
#else
  parallel_for_fresh(tasks, threads, body);
#endif
}

}  // namespace c2f::cpu
