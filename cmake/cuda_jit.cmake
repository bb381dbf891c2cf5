# Module _cuda_jit: the CUDA backend less its kernels, which are compiled when first needed. It asks for
# nothing of CUDA's, and is built wherever the cpu backend is.
include(${CMAKE_CURRENT_LIST_DIR}/cuda_sources.cmake)

pybind11_add_module(_cuda_jit MODULE NO_EXTRAS ${C2F_CUDA_GLUE} csrc/cuda/launch_jit.cpp)
c2f_few_units(_cuda_jit)
target_compile_definitions(_cuda_jit PRIVATE C2F_MODULE=_cuda_jit C2F_GPU C2F_JIT)
target_compile_options(_cuda_jit PRIVATE -Wall -Wextra)
if(C2F_WERROR)
  target_compile_options(_cuda_jit PRIVATE -Werror)
endif()
install(TARGETS _cuda_jit LIBRARY DESTINATION c2fcore)
