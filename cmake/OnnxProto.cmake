# The static library onnx_proto: protobuf's classes for the onnx.proto that Debian's libonnx-dev installs.
#
# Only its users may see protobuf's headers: LibTorch's include folder carries older ones. Nothing of it is exported from
# the library that links it, so that it can live beside another program's onnx classes.
find_package(Protobuf REQUIRED)
find_path(ONNX_PROTO_DIR NAMES onnx.proto PATH_SUFFIXES onnx REQUIRED)
mark_as_advanced(ONNX_PROTO_DIR)

set(_generated ${PROJECT_BINARY_DIR}/generated/onnx_proto)
file(MAKE_DIRECTORY ${_generated})
add_custom_command(
  OUTPUT ${_generated}/onnx.pb.cc ${_generated}/onnx.pb.h
  COMMAND protobuf::protoc --proto_path=${ONNX_PROTO_DIR} --cpp_out=${_generated} ${ONNX_PROTO_DIR}/onnx.proto
  DEPENDS ${ONNX_PROTO_DIR}/onnx.proto VERBATIM COMMENT "Generating onnx.pb.h")
add_library(onnx_proto STATIC ${_generated}/onnx.pb.cc ${_generated}/onnx.pb.h)
set_target_properties(onnx_proto PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden)
target_include_directories(onnx_proto SYSTEM PUBLIC ${_generated})
target_link_libraries(onnx_proto PUBLIC protobuf::libprotobuf-lite)
