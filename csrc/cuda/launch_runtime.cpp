// Launches kernels that nvcc compiled into this module, by the CUDA runtime. That is linked
// statically, so that the module loads on machines without a driver.
#include <cuda_runtime_api.h>

#include <map>
#include <stdexcept>
#include <utility>

#include "../tensor.h"
#include "launch.h"

namespace py = pybind11;

namespace c2f::cuda {

extern const KernelTable windows_kernels;

namespace {

// Dynamic shared memory that a kernel gets without asking: 48 KiB less its static shared memory,
// which is at most 2 KiB.
constexpr uint32_t kPlainShared = 46 << 10;

void check(cudaError_t error, const char* op, const char* kernel = "") {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // clears the error, unless it is sticky, for the next caller
  std::string what(op);
  if (*kernel != '\0') what = what + ": " + kernel;
  throw std::runtime_error(what + ": " + cudaGetErrorString(error));
}

// The launch may be captured, and graphs have edges for early launches only since CUDA 12.3.
constexpr int kEarlyInGraphs = 12030;

// Whether a kernel may start before the previous one ends: its code must wait by itself (gpu.cuh),
// and the driver must support it. A kernel compiled for less than compute capability 9.0 does not
// wait, not even when its PTX is compiled on for a newer GPU. Asked once per device; callers hold
// the GIL.
bool may_start_early(const Kernel& kernel, int device, const char* op) {
  static std::map<std::pair<const void*, int>, bool> known;
  const auto [found, added] = known.try_emplace({kernel.function, device}, false);
  if (added) {
    cudaFuncAttributes attributes{};
    int driver = 0;
    cudaError_t error = cudaFuncGetAttributes(&attributes, kernel.function);
    if (error == cudaSuccess) error = cudaDriverGetVersion(&driver);
    if (error != cudaSuccess) known.erase(found);
    check(error, op, kernel.name);
    found->second = attributes.ptxVersion >= 90 && driver >= kEarlyInGraphs;
  }
  return found->second;
}

// Lets a kernel use so much dynamic shared memory. The limit is the function's and never falls: an
// earlier launch, captured into a graph that is not there yet, may need more. Callers hold the GIL.
void allow_shared(const Kernel& kernel, uint32_t bytes, int device, const char* op) {
  static std::map<std::pair<const void*, int>, uint32_t> allowed;
  uint32_t& most = allowed.try_emplace({kernel.function, device}, kPlainShared).first->second;
  if (bytes <= most) return;
  check(cudaFuncSetAttribute(kernel.function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        op, kernel.name);
  most = bytes;
}

// Why a device is too old for these kernels, "" if it is not.
std::string too_old(int device) {
  int major = 0, minor = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cuda");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "cuda");
  const int oldest = windows_kernels.oldest_architecture;
  const auto dotted = [](int tens) {
    return std::to_string(tens / 10) + "." + std::to_string(tens % 10);
  };
  if (10 * major + minor >= oldest) return "";
  return "compiled for compute capability " + dotted(oldest) + " and newer, found " +
         dotted(10 * major + minor);
}

}  // namespace

std::string missing() {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error == cudaSuccess) {
    std::string reason = devices > 0 ? "" : "no CUDA device";
    for (int device = 0; device < devices; ++device) {
      reason = too_old(device);
      if (reason.empty()) return "";
    }
    return reason;
  }
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
  const char* op = launch.table.op;
  if (launch.dynamic_shared > kPlainShared) {
    allow_shared(kernel, launch.dynamic_shared, queue.device, op);
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
  config.numAttrs = launch.early && may_start_early(kernel, queue.device, op) ? 1 : 0;
  void* arguments[] = {const_cast<void*>(args)};
  check(cudaLaunchKernelExC(&config, kernel.function, arguments), op, kernel.name);
}

void bind_launcher(py::module_& m) { m.attr("compiled_by") = "nvcc"; }

}  // namespace c2f::cuda
