#!/bin/bash
# Plug-ins from outside: built in another folder with the flags that users get, loaded by the commands, refused when they
# do not fit, and never loaded because a config or a run names them.
# Usage: plugin.sh QAT_BINARY SOURCE_FOLDER COMPILER @FLAGS
set -uo pipefail
source "$(dirname "$0")/cli_checks.sh"
shift 2
compile=("$@")

cp "$source/tests/trainers/plugin/two_layers.cpp" .
# In two steps, which a compiler cache can keep.
"${compile[@]}" -c two_layers.cpp && "${compile[@]}" two_layers.o -o two_layers.so ||
  { echo "FAILED: the plug-in does not compile"; exit 1; }
cat >net.yaml <<'YAML'
data: {dataset: {name: synthetic, train_samples: 256, eval_samples: 64}, batch_size: 32, workers: 1}
model: {name: two_layers, in_channels: 1, width: 4}
quantization: {weight: {quantizer: minmax, bits: 8}, activation: {quantizer: minmax, bits: 8}, calibration: {batches: 2}}
stages:
  - {float: {steps: 4}}
  - calibrate
  - {finetune: {steps: 4}}
  - {export: [{format: safetensors}]}
  - verify
YAML

# 8 channels of 3x3x3, batch norm, 8 -> 10 with bias.
succeed "^two_layers +a convolution and a linear layer; $((8 * 27 + 16 + 90)) parameters" list models --plugin two_layers.so
succeed '^resnet18 ' list models --plugin two_layers.so
succeed '^power_of_two +scales that are powers of two' list quantizers --plugin ./two_layers.so
succeed 'net.yaml: ok' config --check net.yaml --plugin two_layers.so
# 4 channels of 3x3x1.
succeed "two_layers: $((4 * 9 + 8 + 50)) parameters.* 3 quantized layers" inspect --config net.yaml --plugin two_layers.so
succeed '^integer engine' train --config net.yaml --plugin two_layers.so
[ "$(sed -n '/^next:/,$p' out.txt | grep -c -- '--plugin two_layers.so')" = 4 ] || fail "next commands: $(cat out.txt)"
succeed '^integer engine' train --config net.yaml --resume --plugin two_layers.so
model=runs/net/export/model.safetensors
succeed '^top1 ' eval --run runs/net --plugin two_layers.so
succeed 'mismatches: 0' verify --run runs/net --model $model --plugin two_layers.so
succeed 'bytes' export --run runs/net --format safetensors --out again.safetensors --plugin two_layers.so
cmp -s again.safetensors $model || fail "a second export has other bytes"
succeed 'mismatches: 0' train --config net.yaml --out runs/custom --plugin two_layers.so \
  --set quantization.weight.quantizer=power_of_two --set quantization.activation.quantizer=power_of_two

# Only the command line loads native code.
export TWO_LAYERS_TRACE=$work/trace
expect 2 "unknown model 'two_layers'" train --config net.yaml --out runs/other
expect 2 "unknown model 'two_layers'" eval --run runs/net
for change in plugin=two_layers.so plugins=[two_layers.so] model.plugin=two_layers.so; do
  expect 2 'plugins?: unknown key' train --config "$source/configs/ci_synthetic.yaml" --set $change --out runs/other
done
expect 2 "unknown model 'two_layers.so'" train --config net.yaml --set model.name=two_layers.so --out runs/other
expect 2 "unknown quantizer './two_layers.so'" train --config "$source/configs/ci_synthetic.yaml" --out runs/other \
  --set quantization.weight.quantizer=./two_layers.so
[ -e trace ] && fail "a config or a run loaded the plug-in"
succeed '^power_of_two' list quantizers --plugin two_layers.so
[ -e trace ] || fail "the plug-in leaves no trace"

# What is refused, always with the file's name.
expect 1 '^qat: absent.so: cannot open: No such file' list models --plugin absent.so
expect 1 '^qat: runs: cannot read: Is a directory' list models --plugin runs
expect 1 '^qat: net.yaml: cannot load the plug-in: .*(file too short|invalid ELF header)' list models --plugin net.yaml
head -c 5000 two_layers.so >cut.so
expect 1 '^qat: cut.so: cannot load the plug-in: the file is truncated' list models --plugin cut.so
cp two_layers.so copy.so
expect 1 "^qat: copy.so: cannot register model 'two_layers' twice" list models --plugin two_layers.so --plugin copy.so
succeed '^two_layers ' list models --plugin two_layers.so --plugin ./two_layers.so
small() {
  cat >"$1.cpp"
  "${compile[@]}" "$1.cpp" -o "$1.so" || fail "$1.cpp does not compile"
}
small empty <<<'int nothing = 0;'
expect 1 '^qat: empty.so: the plug-in registers nothing' list models --plugin empty.so
small unresolved <<<'void missing_function(); void (*const kept)() = missing_function; void (**used)() = const_cast<void (**)()>(&kept);'
expect 1 '^qat: unresolved.so: .*undefined symbol.*build it again against this qat' list models --plugin unresolved.so
small old <<'CPP'
#include "core/registry/plugin.h"
#undef QAT_VERSION
#define QAT_VERSION "0.0.9"
static void add(const char*, const char*) {}
QAT_PLUGIN_ENTRY("old", "from another time", add)
CPP
version=$("$qat" version | sed -n 's/^qat \([0-9.]*\) .*/\1/p')
expect 1 "^qat: old.so: the plug-in was built against qat 0.0.9, this is qat $version: build it again" \
  list models --plugin old.so
small throwing <<'CPP'
#include <stdexcept>
#include "core/registry/plugin.h"
static void add(const char* name, const char*) { throw std::runtime_error(std::string(name) + " does not work here"); }
QAT_PLUGIN_ENTRY("throwing", "", add)
CPP
expect 1 '^qat: throwing.so: throwing does not work here' list models --plugin throwing.so

finish
