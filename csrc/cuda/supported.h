// Refuses calls that are valid but beyond these kernels.
#pragma once

#include <sstream>

#include "launch.h"

namespace c2f::cuda {

// `taken` completes "takes ...": what the kernels take, and what they got.
template <class... Parts>
void require_supported(bool holds, const char* op, const Parts&... taken) {
  if (holds) return;
  std::ostringstream text;
  text << "takes ";
  (text << ... << taken);
  lacking(op, text.str());
}

}  // namespace c2f::cuda
