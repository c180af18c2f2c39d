# Sets QAT_CUDA: whether the CUDA kernels are built, as QAT_WITH_CUDA says (AUTO: where a CUDA compiler is found).
# qat_cuda_library(NAME DIRS folder... DEPS target...)
#   Folders of .cu and .cpp files as one shared library qat_NAME with alias qat::NAME that brings its CUDA runtime along.
#   Programs load it with dlopen when a GPU is asked for; only its tests and benchmarks link it.
# qat_emulated_cuda_library()
#   The same, qat_emulated_cuda, without a GPU: all kernels of core/ops/cuda, and core/device, compiled for the CPU.
# qat_emulated_cuda_tests()
#   The tests of tests/ops/cuda and tests/device once more, with that library.

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
  cmake_parse_arguments(arg "" "" "DIRS;DEPS" ${ARGN})
  set(sources)
  foreach(dir ${arg_DIRS})
    file(GLOB found CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${dir}/*.cu ${PROJECT_SOURCE_DIR}/${dir}/*.cpp)
    list(APPEND sources ${found})
  endforeach()
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

function(qat_emulated_cuda_library)
  set(emulation tests/ops/cuda/emulated/emulation)
  file(GLOB kernels CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/core/ops/cuda/*.cu)
  list(REMOVE_ITEM kernels core/ops/cuda/device.cu)  # the emulation is a device itself
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/ops/cuda/emulated/*.cpp
       ${PROJECT_SOURCE_DIR}/core/ops/cuda/*.cpp ${PROJECT_SOURCE_DIR}/core/device/*.cpp)
  foreach(kernel ${kernels})
    get_filename_component(name ${kernel} NAME_WE)
    set(source ${PROJECT_BINARY_DIR}/generated/emulated_${name}.cpp)
    file(CONFIGURE OUTPUT ${source} CONTENT "#include \"${emulation}.h\"\n#include \"${kernel}\"\n")
    list(APPEND sources ${source})
  endforeach()
  set(target qat_emulated_cuda)
  add_library(${target} SHARED ${sources})
  _qat_options(${target})
  target_compile_options(${target} PRIVATE -Wno-unknown-pragmas)
  target_include_directories(${target} PUBLIC ${PROJECT_SOURCE_DIR} ${CUDAToolkit_INCLUDE_DIRS})
  target_link_libraries(${target} PUBLIC qat::ops)
  target_link_options(${target} PRIVATE LINKER:-Bsymbolic)  # LibTorch brings a real CUDA runtime along
endfunction()

function(qat_emulated_cuda_tests)
  file(GLOB tests CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/ops/cuda/*_test.cpp
       ${PROJECT_SOURCE_DIR}/tests/device/*_test.cpp)
  set(target qat_emulated_cuda_tests)
  add_executable(${target} ${tests})
  _qat_options(${target})
  target_link_libraries(${target} PRIVATE qat_emulated_cuda GTest::gtest GTest::gtest_main)
  gtest_discover_tests(${target} TEST_PREFIX Emulated DISCOVERY_TIMEOUT 120 PROPERTIES TIMEOUT 1200)
endfunction()
