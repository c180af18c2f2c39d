# qat_library(NAME DIR folder DEPS target... [PRIVATE_DEPS target...] [TOGETHER n])
#   A folder of the tree as one shared library qat_NAME with alias qat::NAME. TOGETHER: n sources at a time become one
#   translation unit, where the time goes into LibTorch's headers. -DQAT_TOGETHER=OFF compiles each source by itself.
# qat_tests(NAME DIR folder DEPS target...)
#   tests/<folder>/*_test.cpp as one executable; every test is registered with ctest by its own name.
# qat_revision(target source)
#   Defines QAT_GIT_REVISION for one source of the target; it is read at every build.

option(QAT_TOGETHER "Compile several sources of a LibTorch folder as one translation unit" ON)

set(QAT_WARNINGS -Wall -Wextra -Werror -Wnon-virtual-dtor -Woverloaded-virtual -Wno-missing-field-initializers)

function(_qat_options target)
  target_compile_features(${target} PUBLIC cxx_std_20)
  # One rounding per written operation (core/README.md, "Arithmetic"): no contraction into fused multiply-adds.
  target_compile_options(${target} PRIVATE ${QAT_WARNINGS} -ffp-contract=off)
  target_include_directories(${target} PUBLIC ${PROJECT_SOURCE_DIR})
endfunction()

function(qat_library name)
  cmake_parse_arguments(arg "" "DIR;TOGETHER" "DEPS;PRIVATE_DEPS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${arg_DIR}/*.cpp)
  set(target qat_${name})
  if(sources)
    add_library(${target} SHARED ${sources})
    _qat_options(${target})
    if(arg_TOGETHER AND QAT_TOGETHER)
      set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE ${arg_TOGETHER})
    endif()
    target_link_libraries(${target} PUBLIC ${arg_DEPS} PRIVATE ${arg_PRIVATE_DEPS})
  else()
    add_library(${target} INTERFACE)
    target_include_directories(${target} INTERFACE ${PROJECT_SOURCE_DIR})
    target_link_libraries(${target} INTERFACE ${arg_DEPS})
  endif()
  add_library(qat::${name} ALIAS ${target})
endfunction()

function(qat_tests name)
  if(NOT BUILD_TESTING)
    return()
  endif()
  cmake_parse_arguments(arg "" "DIR" "DEPS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/${arg_DIR}/*_test.cpp)
  if(NOT sources)
    return()
  endif()
  set(target qat_${name}_tests)
  add_executable(${target} ${sources})
  _qat_options(${target})
  target_compile_definitions(${target} PRIVATE QAT_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  target_link_libraries(${target} PRIVATE ${arg_DEPS} GTest::gtest GTest::gmock GTest::gtest_main)
  gtest_discover_tests(${target} DISCOVERY_TIMEOUT 120 PROPERTIES TIMEOUT 1200)
endfunction()

function(qat_revision target source)
  set(header ${PROJECT_BINARY_DIR}/generated/git_revision.h)
  add_custom_target(${target}_revision BYPRODUCTS ${header} VERBATIM
    COMMAND ${CMAKE_COMMAND} -DSOURCE_DIR=${PROJECT_SOURCE_DIR} -DHEADER=${header}
            -P ${PROJECT_SOURCE_DIR}/cmake/GitRevision.cmake
    COMMENT "Reading the git revision")
  add_dependencies(${target} ${target}_revision)
  set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "-include;${header}")
endfunction()
