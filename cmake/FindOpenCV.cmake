# Imported targets opencv_<component>, and OpenCV_INCLUDE_DIRS, for OpenCV 4 as Debian packages it.
#
# OpenCV's own package file comes only with libopencv-dev, which pulls in every module and their dependencies; this module
# needs no more than the libopencv-<component>-dev packages of the components that are asked for.
find_path(OpenCV_INCLUDE_DIR NAMES opencv2/core/version.hpp PATH_SUFFIXES opencv4)
if(OpenCV_INCLUDE_DIR)
  file(STRINGS ${OpenCV_INCLUDE_DIR}/opencv2/core/version.hpp _version
       REGEX "define CV_VERSION_(MAJOR|MINOR|REVISION) ")
  string(REGEX MATCHALL "[0-9]+" _version "${_version}")
  list(JOIN _version "." OpenCV_VERSION)
endif()
foreach(component ${OpenCV_FIND_COMPONENTS})
  find_library(OpenCV_${component}_LIBRARY opencv_${component})
  find_path(OpenCV_${component}_INCLUDE_DIR NAMES opencv2/${component}.hpp PATH_SUFFIXES opencv4)
  mark_as_advanced(OpenCV_${component}_LIBRARY OpenCV_${component}_INCLUDE_DIR)
  if(OpenCV_${component}_LIBRARY AND OpenCV_${component}_INCLUDE_DIR)
    set(OpenCV_${component}_FOUND TRUE)
  endif()
endforeach()
mark_as_advanced(OpenCV_INCLUDE_DIR)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OpenCV
  REQUIRED_VARS OpenCV_INCLUDE_DIR VERSION_VAR OpenCV_VERSION HANDLE_COMPONENTS)

if(OpenCV_FOUND)
  set(OpenCV_INCLUDE_DIRS ${OpenCV_INCLUDE_DIR})
  foreach(component ${OpenCV_FIND_COMPONENTS})
    if(OpenCV_${component}_FOUND AND NOT TARGET opencv_${component})
      add_library(opencv_${component} UNKNOWN IMPORTED)
      set_target_properties(opencv_${component} PROPERTIES IMPORTED_LOCATION ${OpenCV_${component}_LIBRARY})
      target_include_directories(opencv_${component} SYSTEM INTERFACE ${OpenCV_INCLUDE_DIR})
    endif()
  endforeach()
endif()
