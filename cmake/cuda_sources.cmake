# What every build of the CUDA module is made of: _cuda_prebuilt, _cuda_jit, the emulator of the tests.
set(C2F_CUDA_GLUE
  csrc/tensor.cpp csrc/views.cpp csrc/cuda/module.cpp csrc/cuda/launch.cpp csrc/cuda/coarse_plan.cpp
  csrc/cuda/windows_plan.cpp csrc/cuda/count_windows.cpp csrc/cuda/select_windows.cpp
  csrc/patch_args.cpp csrc/merge_args.cpp csrc/cuda/extract_patches.cpp csrc/cuda/aggregate.cpp)
set(C2F_CUDA_KERNELS
  csrc/cuda/windows.cu csrc/cuda/extract_patches.cu csrc/cuda/extract_patches_backward.cu
  csrc/cuda/extract_targets.cu csrc/cuda/aggregate.cu)
