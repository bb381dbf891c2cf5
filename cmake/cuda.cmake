# Module _cuda_prebuilt. Machine code for sm_80 and sm_90, and PTX of the latter for what comes after.
# CUDAARCHS=90 in the environment compiles one only.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES AND NOT DEFINED ENV{CUDAARCHS})
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90)
endif()
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
find_package(CUDAToolkit REQUIRED)

include(${CMAKE_CURRENT_LIST_DIR}/cuda_sources.cmake)

# The kernels apart from pybind11, which nvcc takes long to read. No contraction: where a fused
# multiply-add is wanted, the kernels ask for it by name, as everywhere else.
add_library(c2f_cuda_kernels OBJECT ${C2F_CUDA_KERNELS})
target_compile_options(c2f_cuda_kernels PRIVATE -fmad=false -Xptxas=-warn-spills)
pybind11_add_module(_cuda_prebuilt MODULE NO_EXTRAS ${C2F_CUDA_GLUE} csrc/cuda/launch_runtime.cpp)
c2f_few_units(_cuda_prebuilt)
target_compile_definitions(_cuda_prebuilt PRIVATE C2F_MODULE=_cuda_prebuilt C2F_GPU)
target_compile_options(_cuda_prebuilt PRIVATE -Wall -Wextra)
if(C2F_WERROR)
  target_compile_options(c2f_cuda_kernels PRIVATE -Werror=all-warnings -Xptxas=-Werror)
  target_compile_options(_cuda_prebuilt PRIVATE -Werror)
endif()
# Static: the module loads without a driver, and beside any other CUDA runtime.
target_link_libraries(_cuda_prebuilt PRIVATE c2f_cuda_kernels CUDA::cudart_static)
install(TARGETS _cuda_prebuilt LIBRARY DESTINATION c2fcore)
