// Tasks over threads.
#pragma once

#include <cstdint>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace c2f::cpu {

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
  if (tasks == threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t task = 0; task < tasks; ++task) body(task, omp_get_thread_num());
  } else {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t task = 0; task < tasks; ++task) body(task, omp_get_thread_num());
  }
#else
  for (int64_t task = 0; task < tasks; ++task) body(task, 0);
#endif
}

}  // namespace c2f::cpu
