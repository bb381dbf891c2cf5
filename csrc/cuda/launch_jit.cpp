// Hands every launch to Python, which compiles a kernel when it is first needed (module _cuda_jit,
// c2fcore/_nvrtc.py). The kernel tables hold names only, so that any C++ compiler builds this
// without CUDA's headers and libraries. Launch geometry is the same as in _cuda_prebuilt.
#include <utility>

#include "../../kernels/cuda/aggregate_args.h"
#include "../../kernels/cuda/extract_patches_args.h"
#include "../../kernels/cuda/extract_targets_args.h"
#include "../../kernels/cuda/windows_args.h"
#include "../tensor.h"
#include "aggregate_kernels.h"
#include "define_kernels.h"
#include "extract_patches_kernels.h"
#include "extract_targets_kernels.h"
#include "launch.h"
#include "windows_kernels.h"

namespace py = pybind11;

C2F_KERNEL_TABLE(aggregate, C2F_AGGREGATE_KERNELS)
C2F_KERNEL_TABLE(extract_patches, C2F_EXTRACT_PATCHES_KERNELS)
C2F_KERNEL_TABLE(extract_patches_backward, C2F_EXTRACT_PATCHES_BACKWARD_KERNELS)
C2F_KERNEL_TABLE(extract_targets, C2F_EXTRACT_TARGETS_KERNELS)
C2F_KERNEL_TABLE(windows, C2F_WINDOWS_KERNELS)

namespace c2f::cuda {
namespace {

// Never destroyed: at exit, that would happen after the interpreter has ended.
py::object& launcher() {
  static py::object& held = *new py::object(py::none());
  return held;
}

// (op, name, bytes of its argument) of every kernel. The header of a kernel is named after its op.
py::list kernels() {
  const std::pair<const KernelTable*, size_t> tables[] = {
      {&aggregate_kernels, sizeof(MergeArgs)},
      {&extract_patches_kernels, sizeof(PatchArgs)},
      {&extract_patches_backward_kernels, sizeof(PatchBackwardArgs)},
      {&extract_targets_kernels, sizeof(TargetArgs)},
      {&windows_kernels, sizeof(WindowsArgs)}};
  py::list found;
  for (const auto& [table, bytes] : tables) {
    for (size_t i = 0; i < table->count; ++i) {
      found.append(py::make_tuple(table->op, table->kernels[i].name, bytes));
    }
  }
  return found;
}

}  // namespace

std::string missing() {
  if (launcher().is_none()) return "no launcher is set";
  return launcher().attr("missing")().cast<std::string>();
}

// Python makes the device current around the launch itself.
Queue::Queue(py::handle tensor) {
  device = device_of(tensor);
  stream = current_stream(tensor, device);
}

Queue::~Queue() = default;

// `early` is ignored, since CuPy launches without attributes: a launch begins when its predecessor
// has ended, and the wait in the kernel returns at once.
void launch_bytes(const Launch& launch, const void* args, size_t bytes, const Queue& queue) {
  const Kernel& kernel = launch.table.kernels[launch.table.find(launch.key)];
  const void* arguments[] = {args};
  launcher()(launch.table.op, kernel.name, launch.blocks, launch.threads, launch.dynamic_shared,
             reinterpret_cast<uintptr_t>(arguments), bytes, queue.device,
             reinterpret_cast<uintptr_t>(queue.stream));
}

void bind_launcher(py::module_& m) {
  m.attr("compiled_by") = "NVRTC";
  m.def("kernels", &kernels);
  m.def("set_launcher", [](py::object given) { launcher() = std::move(given); });
}

}  // namespace c2f::cuda
