// Launches kernels that nvcc compiled into this module, through the CUDA runtime, which is linked
// statically: the module loads on machines without a driver.
#include <cuda_runtime_api.h>

#include <limits>
#include <stdexcept>

#include "../tensor.h"
#include "launch.h"

namespace py = pybind11;

namespace c2f::cuda {
namespace {

constexpr uint32_t kPlainShared = 48 << 10;  // more has to be asked for, kernel by kernel

void check(cudaError_t error, const std::string& what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // one that does not stick is not left for the next caller
  throw std::runtime_error(what + ": " + cudaGetErrorString(error));
}

}  // namespace

std::string missing() {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error == cudaSuccess) return devices > 0 ? "" : "no CUDA device";
  cudaGetLastError();
  if (error == cudaErrorInsufficientDriver) {
    return "no NVIDIA driver, or one older than CUDA " + std::to_string(CUDART_VERSION / 1000) +
           " needs";
  }
  return cudaGetErrorString(error);
}

Queue::Queue(py::handle tensor) {
  device = device_of(tensor);
  stream = current_stream(tensor, device);
  int current = 0;
  check(cudaGetDevice(&current), "cuda");
  if (current == device) return;
  check(cudaSetDevice(device), "cuda");
  restore_ = current;
}

Queue::~Queue() {
  if (restore_ >= 0) cudaSetDevice(restore_);
}

void launch_bytes(const Launch& launch, const void* args, size_t, const Queue& queue) {
  const Kernel& kernel = launch.table.kernels[launch.table.find(launch.key)];
  const std::string what = std::string(launch.table.op) + ": " + kernel.name;
  if (launch.blocks > std::numeric_limits<int32_t>::max()) {
    throw std::runtime_error(what + ": more blocks than a launch can have");
  }
  if (launch.dynamic_shared > kPlainShared) {
    check(cudaFuncSetAttribute(kernel.function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(launch.dynamic_shared)),
          what);
  }
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(launch.blocks));
  config.blockDim = dim3(launch.threads);
  config.dynamicSmemBytes = launch.dynamic_shared;
  config.stream = static_cast<cudaStream_t>(queue.stream);
  config.attrs = &early;
  config.numAttrs = launch.early ? 1 : 0;
  void* arguments[] = {const_cast<void*>(args)};
  check(cudaLaunchKernelExC(&config, kernel.function, arguments), what);
}

void bind_launcher(py::module_& m) { m.attr("compiled_by") = "nvcc"; }

}  // namespace c2f::cuda
