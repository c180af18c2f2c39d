#!/bin/bash
# Compiles everything that is deployed (base, integer, ops, engine) for ARM with NEON. usage: arm.sh SOURCE_DIR OPTION...
set -uo pipefail
cd "$1" || exit 1
compiler=aarch64-linux-gnu-g++
command -v $compiler >/dev/null || { echo "$compiler is missing: run tools/test"; exit 1; }
# What is Highway's, fmt's and nlohmann's is the same on every machine; the C library's headers are the compiler's own.
options=(-std=c++20 -O0 -S -o /dev/null -fopenmp -Wall -Wextra -Werror -Wno-psabi -Wno-missing-field-initializers
  -DFMT_SHARED -DNDEBUG -DHWY_SHARED_DEFINE -I. -idirafter /usr/include "${@:2}")
find core/base core/integer core/ops core/engine -name '*.cpp' -not -path '*/cuda/*' -print0 |
  xargs -0 -P "$(nproc)" -n 1 $compiler "${options[@]}" || { echo "FAILED"; exit 1; }
