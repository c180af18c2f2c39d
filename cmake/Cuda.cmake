# Sets QAT_CUDA: whether the CUDA kernels are built, as QAT_WITH_CUDA says (AUTO: where a CUDA compiler is found).
# qat_cuda_library(NAME DIR folder DEPS target...)
#   A folder of .cu and .cpp files as one shared library qat_NAME with alias qat::NAME that brings its CUDA runtime along.
#   Programs load it with dlopen when a GPU is asked for; only its tests and benchmarks link it.

set(QAT_WITH_CUDA AUTO CACHE STRING "Build the CUDA kernels: ON, OFF or AUTO")
set_property(CACHE QAT_WITH_CUDA PROPERTY STRINGS AUTO ON OFF)
set(QAT_CUDA_ARCHITECTURES 90 CACHE STRING "GPU architectures to build for, 80 or later, separated by semicolons")

set(QAT_CUDA OFF)
set(CMAKE_CUDA_ARCHITECTURES ${QAT_CUDA_ARCHITECTURES})
if(QAT_WITH_CUDA STREQUAL "AUTO")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(QAT_CUDA ON)
  else()
    message(STATUS "No CUDA compiler was found: the CUDA kernels are not built")
  endif()
elseif(QAT_WITH_CUDA)
  set(QAT_CUDA ON)
endif()
if(QAT_CUDA)
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_EXTENSIONS OFF)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that nvcc has C++20
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  endif()
  if(CCACHE)
    set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE})
  endif()
endif()

function(qat_cuda_library name)
  cmake_parse_arguments(arg "" "DIR" "DEPS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${arg_DIR}/*.cu ${PROJECT_SOURCE_DIR}/${arg_DIR}/*.cpp)
  set(target qat_${name})
  add_library(${target} SHARED ${sources})
  target_include_directories(${target} PUBLIC ${PROJECT_SOURCE_DIR})
  # One rounding per written operation, as for the CPU. The host's part has no OpenMP.
  target_compile_options(${target} PRIVATE
    "$<$<COMPILE_LANGUAGE:CXX>:${QAT_WARNINGS};-ffp-contract=off>"
    "$<$<COMPILE_LANGUAGE:CUDA>:-fmad=false;--extended-lambda;--Werror=all-warnings;-Xcompiler=-Wall,-Wextra,-Werror,-Wno-unknown-pragmas>")
  target_link_libraries(${target} PUBLIC ${arg_DEPS} PRIVATE CUDA::cudart_static)
  # Another CUDA runtime may live in the same process, LibTorch's for one.
  target_link_options(${target} PRIVATE LINKER:--exclude-libs,ALL LINKER:--no-undefined)
  add_library(qat::${name} ALIAS ${target})
endfunction()
