# What the tests of the command line share. Sourced with the arguments QAT_BINARY SOURCE_FOLDER; changes to a temporary
# folder.
qat=$(realpath "$1")
source=$(realpath "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
failures=0
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }

# expect CODE PATTERN ARGUMENT...: the exit code, one line on stderr that matches, nothing on stdout.
expect() {
  local code=$1 pattern=$2
  shift 2
  "$qat" "$@" >out.txt 2>err.txt
  local found=$?
  [ "$found" = "$code" ] || fail "qat $*: exit $found, expected $code: $(cat err.txt)"
  [ "$(wc -l <err.txt)" = 1 ] || fail "qat $*: expected one line on stderr: $(cat err.txt)"
  grep -Eq -- "$pattern" err.txt || fail "qat $*: $(cat err.txt), expected $pattern"
  [ ! -s out.txt ] || fail "qat $*: something on stdout: $(head -c 200 out.txt)"
}

# succeed PATTERN ARGUMENT...: exit 0 and a line on stdout that matches.
succeed() {
  local pattern=$1
  shift
  "$qat" "$@" >out.txt 2>err.txt || fail "qat $*: exit $?: $(cat err.txt)"
  grep -Eq -- "$pattern" out.txt || fail "qat $*: $(head -c 300 out.txt), expected $pattern"
}

finish() {
  [ $failures = 0 ] && echo "all checks passed"
  exit $((failures > 0))
}
