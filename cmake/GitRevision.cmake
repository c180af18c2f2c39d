# cmake -DSOURCE_DIR=... -DHEADER=... -P GitRevision.cmake
# Writes the header with QAT_GIT_REVISION (12 digits, "-dirty" where tracked files are changed, "unknown" without git). The
# file is touched only when the revision changed, so that nothing is compiled again otherwise.
cmake_minimum_required(VERSION 3.25)
set(revision unknown)
find_program(GIT git)
if(GIT)
  # A repository around an unpacked archive of this tree says nothing about the tree: search no further than SOURCE_DIR.
  cmake_path(GET SOURCE_DIR PARENT_PATH ceiling)
  set(ENV{GIT_CEILING_DIRECTORIES} ${ceiling})
  execute_process(COMMAND ${GIT} -C ${SOURCE_DIR} describe --always --dirty --abbrev=12 --exclude=*
                  OUTPUT_VARIABLE output OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE status)
  if(status EQUAL 0 AND output)
    set(revision ${output})
  endif()
endif()
file(CONFIGURE OUTPUT ${HEADER} CONTENT "#define QAT_GIT_REVISION \"@revision@\"\n" @ONLY)
