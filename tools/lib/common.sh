# Shared by tools/quickstart and tools/test; sourced, not run. Messages, options, checks of the machine, builds.
# The caller sets `program` (for messages) and `steps` (how many numbered steps it has).
# shellcheck disable=SC2034,SC2154 # variables are shared with the caller and with provide.sh

export LC_ALL=C.UTF-8  # the messages of apt, pip and unzip are read below
unset CDPATH
caller_directory=$PWD
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
logs=$root/build/log

libtorch=${QAT_LIBTORCH:-}
jobs=
install=yes
step=0
step_name=

die() {
  printf '%s: error: %s\n' "$program" "$1" >&2
  exit 1
}

usage_error() {
  printf '%s: %s (see %s --help)\n' "$program" "$1" "$program" >&2
  exit 2
}

# Sets `value` to an option's argument: --name VALUE or --name=VALUE. Sets `taken` to the number of words used.
option_value() {
  if [[ $1 == *=* ]]; then
    value=${1#*=} taken=1
  else
    (($# >= 2)) || usage_error "$1 needs a value"
    value=$2 taken=2
  fi
  [[ -n $value ]] || usage_error "${1%%=*} needs a value"
}

# One of the options that both scripts have; sets `taken`, 0 for a word that is none of them.
common_option() {
  taken=1
  case $1 in
    --libtorch | --libtorch=*) option_value "$@" && libtorch=$value ;;
    --jobs | --jobs=*)
      option_value "$@" && jobs=$value
      [[ $jobs =~ ^[1-9][0-9]{0,3}$ ]] || usage_error "--jobs needs a number from 1 to 9999, not '$jobs'"
      ;;
    --no-install) install=no ;;
    *) taken=0 ;;
  esac
}

elapsed() {
  local seconds=$((SECONDS - $1))
  if ((seconds < 60)); then
    printf '%d s' "$seconds"
  else
    printf '%d min %d s' $((seconds / 60)) $((seconds % 60))
  fi
}

begin_step() {
  step=$((step + 1)) step_name=$1 step_start=$SECONDS
}

note() {
  printf '[%d/%d] %s: %s\n' "$step" "$steps" "$step_name" "$1" >&2
}

end_step() {
  note "$1 ($(elapsed "$step_start"))"
}

# A sign of life from a long command: ninja's count where the log has one.
heartbeat() {
  local count
  while sleep 20 >/dev/null 2>&1 && kill -0 "$$" 2>/dev/null; do
    count=$(grep -oE '^\[[0-9]+/[0-9]+\]' "$1" | tail -n 1) || true
    note "${count:+$count }$(elapsed "$step_start") ..."
  done
}

# run_logged LOG COMMAND...: output goes to the log; the command's exit status.
run_logged() {
  local log=$1 status=0 beat
  shift
  heartbeat "$log" 9>&- &
  beat=$!
  "$@" >"$log" 2>&1 </dev/null 9>&- || status=$?
  kill "$beat" 2>/dev/null || true
  wait "$beat" 2>/dev/null || true
  return "$status"
}

# fail_with_log LOG WHAT: one line that names the cause where the log shows one that we know, else the log's end first.
fail_with_log() {
  local log=$1 what=$2 name=${1#"$root"/}
  if grep -qiE 'no space left|disk full|enough free space|disk quota exceeded' "$log"; then
    die "$what: the disk is full ($name)"
  elif grep -qiE 'do not match the hashes|hash sum mismatch' "$log"; then
    die "$what: a downloaded file is not the expected one, its checksum differs; run again ($name)"
  elif grep -qiE 'could not get lock|unable to acquire the dpkg' "$log"; then
    die "$what: another package manager is running; wait for it and run again ($name)"
  elif grep -qiE 'could not resolve|temporary failure|name or service not known|unable to connect|could not connect|failed to fetch|connection (failed|refused|broken|timed out)|newconnectionerror|proxyerror|sslerror|network is unreachable|unable to locate package' "$log"; then
    die "$what: no network, or a server cannot be reached; check the connection or the proxy and run again ($name)"
  elif grep -qiE 'out of memory|fatal error: killed|terminated program cc1plus' "$log"; then
    die "$what: out of memory; run again with --jobs 1 ($name)"
  fi
  tail -n 25 "$log" >&2
  die "$what; the whole log is in $name"
}

check_platform() {
  local system machine
  system=$(uname -s) machine=$(uname -m)
  [[ $system == Linux && $machine == x86_64 ]] ||
    die "wrong platform: Linux on x86-64 is needed (Debian 12), this is $system on $machine"
}

# check_space DIRECTORY MEGABYTES PURPOSE
check_space() {
  local free
  free=$(df -Pm -- "$1" | awk 'NR == 2 {print $4}')
  ((free >= $2)) || die "not enough disk space in $1: $2 MB are needed for $3, $free MB are free"
}

# What is still to be installed or built decides how much room is needed. Figures are measured ones and a quarter more.
check_disk() {
  local tree=$1 packages=0
  [[ -n $libtorch ]] || libtorch_ready || tree=$((tree + libtorch_megabytes))
  [[ -n $onnxruntime ]] || onnxruntime_ready || tree=$((tree + onnxruntime_megabytes))
  [[ $install == no || -z $(missing_packages) ]] || packages=$packages_megabytes
  if [[ $(stat -c %d "$root") == "$(stat -c %d /usr)" ]]; then
    tree=$((tree + packages))
  elif ((packages > 0)); then
    check_space /usr "$packages" "the Debian packages"
  fi
  check_space "$root" "$tree" "what is still missing"
}

# One job a core, and 1 GB of memory a job: a file that includes LibTorch takes up to that.
default_jobs() {
  local cores fit
  cores=$(nproc)
  fit=$(awk '/^MemAvailable:/ {print int($2 / 1000000)}' /proc/meminfo)
  ((fit >= 1)) || fit=1
  echo $((cores < fit ? cores : fit))
}

prepare() {
  check_platform
  mkdir -p "$logs" "$root/.deps" 2>/dev/null || die "cannot write to $root"
  jobs=${jobs:-$(default_jobs)}
  # Two runs at once would unpack over each other.
  exec 9>"$root/.deps/.lock"
  flock -n 9 || { printf '%s: waiting for another run in this tree\n' "$program" >&2 && flock 9; }
  check_disk "$1"
  begin_step "Debian packages"
  install_packages
  begin_step "LibTorch"
  provide_libtorch
  begin_step "ONNX Runtime"
  provide_onnxruntime
  exec 9>&-
}

# build PRESET: configures and builds it into build/PRESET.
build() {
  local preset=$1 fresh=() log cache=$root/build/$1/CMakeCache.txt
  # A tree that was copied or moved with its build folder: CMake refuses the other place's cache.
  if [[ -f $cache ]] && ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$root" "$cache"; then
    fresh=(--fresh)
  fi
  log=$logs/configure-$preset.log
  run_logged "$log" cmake --preset "$preset" "${fresh[@]}" -U 'LibTorch_*' -D LibTorch_ROOT="$libtorch" ||
    fail_with_log "$log" "configuring $preset failed"
  log=$logs/build-$preset.log
  run_logged "$log" cmake --build --preset "$preset" --parallel "$jobs" ||
    fail_with_log "$log" "building $preset failed"
}
