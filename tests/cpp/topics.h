// Checks by topic: `program TOPIC` runs those of one, `program` all.
#pragma once

#include <cstdio>
#include <cstring>
#include <limits>

inline int failures = 0;

#define CHECK(holds)                                          \
  do {                                                        \
    if (!(holds)) {                                           \
      std::printf("%s:%d: %s\n", __FILE__, __LINE__, #holds); \
      ++failures;                                             \
    }                                                         \
  } while (false)

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

struct Topic {
  const char* name;
  void (*run)();
};

template <int kCount>
inline int run_topics(const Topic (&topics)[kCount], int count, char** words) {
  bool found = false;
  for (const Topic& topic : topics) {
    if (count == 2 && std::strcmp(words[1], topic.name) != 0) continue;
    topic.run();
    found = true;
  }
  if (!found) std::printf("no such topic: %s\n", words[1]);
  return found && failures == 0 ? 0 : 1;
}
