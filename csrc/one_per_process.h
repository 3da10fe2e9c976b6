// SPDX-License-Identifier: Apache-2.0
// What all threads of a process share.
#pragma once
#include <pthread.h>

#include <mutex>

namespace symfast {

// The process's one T, and the mutex under which it is looked at. Never destroyed: torch, which
// frees what it holds, shuts down first at exit, and threads may still run.
template <typename T>
struct OnePerProcess {
  std::mutex mutex;
  T value;

  static OnePerProcess& get() {
    static OnePerProcess& one = []() -> OnePerProcess& {
      static auto* made = new OnePerProcess;
      // a thread may hold the mutex while another forks: the child must not inherit it locked
      pthread_atfork([] { made->mutex.lock(); }, [] { made->mutex.unlock(); },
                     [] { made->mutex.unlock(); });
      return *made;
    }();
    return one;
  }
};

}  // namespace symfast
