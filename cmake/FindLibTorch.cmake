# Imported targets LibTorch::c10 and LibTorch::cpu.
#
# Works with an unpacked PyPI wheel (<root>/torch/{include,lib}, <root>/nvidia/...) and with the official zip
# (<root>/{include,lib} or <root>/libtorch/{include,lib}). Hint: LibTorch_ROOT, as a variable or in the environment.
# LibTorch's own package file is not used: it enables CUDA as a language and needs libraries that the wheel lacks.
find_path(LibTorch_PREFIX NAMES include/torch/csrc/api/include/torch/torch.h
          PATH_SUFFIXES . torch libtorch HINTS ${LibTorch_ROOT} $ENV{LibTorch_ROOT} NO_DEFAULT_PATH)
if(LibTorch_PREFIX)
  foreach(lib c10 torch_cpu)
    find_library(LibTorch_${lib}_LIBRARY ${lib} PATHS ${LibTorch_PREFIX}/lib NO_DEFAULT_PATH)
  endforeach()
  file(STRINGS ${LibTorch_PREFIX}/include/torch/headeronly/version.h _version
       REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
  string(REGEX MATCHALL "[0-9]+" _version "${_version}")
  list(JOIN _version "." LibTorch_VERSION)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch
  REQUIRED_VARS LibTorch_PREFIX LibTorch_c10_LIBRARY LibTorch_torch_cpu_LIBRARY VERSION_VAR LibTorch_VERSION)

function(_libtorch_target name lib)
  if(NOT TARGET LibTorch::${name})
    add_library(LibTorch::${name} SHARED IMPORTED)
    set_target_properties(LibTorch::${name} PROPERTIES
      IMPORTED_LOCATION ${LibTorch_${lib}_LIBRARY} IMPORTED_SONAME lib${lib}.so INTERFACE_LINK_LIBRARIES "${ARGN}")
    target_include_directories(LibTorch::${name} SYSTEM INTERFACE
      ${LibTorch_PREFIX}/include ${LibTorch_PREFIX}/include/torch/csrc/api/include)
  endif()
endfunction()

if(LibTorch_FOUND)
  _libtorch_target(c10 c10)
  _libtorch_target(cpu torch_cpu LibTorch::c10)
  # LibTorch's include folder carries headers of fmt that hide the system's, of another version than the system's library.
  target_compile_definitions(LibTorch::c10 INTERFACE FMT_HEADER_ONLY)
  # A CUDA build of libtorch_cpu needs libcudart and libcupti, which its own run path finds: leave them to run time.
  target_link_options(LibTorch::cpu INTERFACE LINKER:--allow-shlib-undefined)
  mark_as_advanced(LibTorch_PREFIX LibTorch_c10_LIBRARY LibTorch_torch_cpu_LIBRARY)
endif()
