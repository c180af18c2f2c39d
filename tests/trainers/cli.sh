#!/bin/bash
# The command line from outside: exit codes, one line per mistake, JSON on stdout and nothing else.
# Usage: cli.sh QAT_BINARY SOURCE_FOLDER
set -uo pipefail
source "$(dirname "$0")/cli_checks.sh"

cp "$source/configs/ci_synthetic.yaml" good.yaml
edit() { sed -e "$2" good.yaml >"$1"; cmp -s "$1" good.yaml && fail "$1: nothing was edited"; }

succeed '^qat [0-9]+\.[0-9]+\.[0-9]+ ' version
succeed '^lenet5 .* 583818 parameters' list models
for kind in quantizers observers datasets transforms targets formats optimizers schedules; do succeed '^[a-z]' list $kind; done
succeed 'good.yaml: ok' config --check good.yaml
succeed '^batch_size:|  batch_size: 32' config --resolve good.yaml
succeed '`data.batch_size`' config --docs
succeed 'conv1' inspect --config good.yaml --graph
[ "$("$qat" list models | grep -c ' [0-9]* parameters')" -ge 70 ] || fail "expected 70 models with parameter counts"
succeed 'train .*eval|Usage|usage' --help

expect 2 'expected a command'
expect 2 'good.yaml:[0-9]+:[0-9]+: model: calibrate needs trained weights' calibrate --config good.yaml --out runs/none
expect 2 '--config is required' train
expect 2 'kind' list modells
edit typo.yaml 's/batch_size/batchsize/'
expect 2 "typo.yaml:[0-9]+:[0-9]+: data.batchsize: unknown key .did you mean 'batch_size'" train --config typo.yaml
edit type.yaml 's/batch_size: 32/batch_size: many/'
expect 2 "type.yaml:[0-9]+:[0-9]+: data.batch_size: .*many" train --config type.yaml
expect 1 'absent.yaml: cannot open: No such file' train --config absent.yaml
edit model.yaml 's/lenet5/lenet6/'
expect 2 "model.yaml:[0-9]+:[0-9]+: model.name: unknown model 'lenet6' .did you mean 'lenet5'" train --config model.yaml
edit bits.yaml '0,/bits: 8/s//bits: 77/'
expect 2 'bits.yaml:[0-9]+:[0-9]+: quantization.weight.bits: .*77' train --config bits.yaml
edit duplicate.yaml 's/^seed: 0/seed: 0\nseed: 1/'
expect 2 'duplicate.yaml:[0-9]+:1: seed: duplicate key' train --config duplicate.yaml
mkdir idx
head -c 500 /dev/zero | gzip | head -c 20 >idx/train-images-idx3-ubyte.gz
cp idx/train-images-idx3-ubyte.gz idx/train-labels-idx1-ubyte.gz
cp idx/train-images-idx3-ubyte.gz idx/t10k-images-idx3-ubyte.gz
cp idx/train-images-idx3-ubyte.gz idx/t10k-labels-idx1-ubyte.gz
expect 1 'idx/.*-ubyte.gz' train --config good.yaml --set 'data.dataset={name: fashion_mnist, root: idx}'
touch file
expect 1 'file/run: cannot create the folder' train --config good.yaml --out file/run
[ -e runs ] && fail "a mistake left a run folder behind"

short=(--set 'stages=[{float: {steps: 4}}, calibrate, {finetune: {steps: 4}}, {export: [{format: safetensors}]}, {verify: {samples: 32}}]')
succeed '^integer engine' train --config good.yaml "${short[@]}"
expect 2 'runs/good: exists already' train --config good.yaml "${short[@]}"
expect 2 'differs from the run.s: seed: 0 in the run, 9 now' train --config good.yaml "${short[@]}" --set seed=9 --resume
succeed '^integer engine' train --config good.yaml "${short[@]}" --resume

# The next commands that a run prints work when typed.
"$qat" train --config good.yaml "${short[@]}" --resume 2>/dev/null | sed -n '/^next:/,$p' | tail -n +2 >next.txt
[ "$(wc -l <next.txt)" = 4 ] || fail "expected four next commands: $(cat next.txt)"
bash -e next.txt >out.txt 2>err.txt || fail "next commands: $(cat next.txt err.txt)"

# Post-training quantization of that run's float weights.
succeed '^calibrated .*' calibrate --config good.yaml "${short[@]}" --set model.weights=runs/good --out runs/ptq
grep -q '^integer engine' out.txt && ! grep -qE '^(float|fine-tuned)' out.txt || fail "calibrate: $(cat out.txt)"
grep -qE 'float:|finetune' <(sed -n '/^stages/,$p' runs/ptq/config.yaml) && fail "calibrate: $(cat runs/ptq/config.yaml)"

# The report: one page, nothing fetched from anywhere.
succeed 'both.html' report --run runs/good runs/ptq --out both.html --samples 16
grep -qi '^<!doctype html>' both.html || fail "report: $(head -c 200 both.html)"
grep -qE '(src|href)="?(https?:)?//' both.html && fail "report: the page fetches something"
expect 2 'nowhere: not a run' report --run nowhere --out x.html
expect 1 'absent/x.html: ' report --run runs/good --out absent/x.html --samples 16
[ "$(ls runs/good/events | wc -l)" -ge 1 ] || fail "no events for TensorBoard"

model=runs/good/export/model.safetensors
for runtime in float simulated integer; do
  succeed "\"runtime\": \"$runtime\"" eval --run runs/good --runtime $runtime --json
  [ "$(head -c 1 out.txt)" = '{' ] && [ "$(tail -c 2 out.txt)" = '}' ] || fail "eval --json: $(cat out.txt)"
done
succeed '"mismatches": 0' verify --run runs/good --model $model --samples 16 --require engine --json
"$qat" verify --run runs/good --model $model --samples 16 --require onnxruntime >out.txt 2>err.txt
[ $? = 1 ] || fail "verify: a required judge that did not run must fail"
succeed 'again.safetensors' export --run runs/good --format safetensors --out again.safetensors
cmp -s again.safetensors $model || fail "a second export has other bytes"
for form in onnx-qdq onnx-qoperator; do
  judges=engine,onnxruntime
  [ $form = onnx-qdq ] || judges=$judges,opencv
  succeed "$form.onnx" export --run runs/good --format $form --out $form.onnx
  succeed '"mismatches": 0' verify --run runs/good --model $form.onnx --samples 16 --require $judges --json
  for judge in ${judges//,/ }; do
    grep -q "\"name\": \"$judge\"" out.txt || fail "verify: no judge $judge: $(head -c 300 out.txt)"
  done
done
"$qat" verify --run runs/good --model onnx-qdq.onnx --samples 16 --require opencv >out.txt 2>err.txt
[ $? = 1 ] || fail "verify: OpenCV cannot read onnx-qdq, so to require it must fail"
head -c 1000 onnx-qdq.onnx >cut.onnx
expect 1 'cut.onnx: ' verify --run runs/good --model cut.onnx
expect 2 "unknown judge 'onxruntime' .did you mean 'onnxruntime'" verify --run runs/good --model $model --require onxruntime
succeed 'golden' export --run runs/good --format golden --out golden --samples 3
grep -q '"samples": 3' golden/index.json || fail "golden: $(head -c 300 golden/index.json)"
expect 2 'only --format golden takes samples' export --run runs/good --format onnx-qdq --out x.onnx --samples 3
expect 2 'nowhere: not a run' eval --run nowhere
expect 1 'checkpoints/other.ckpt|other.ckpt' eval --run runs/good --checkpoint other.ckpt
expect 2 "unknown format 'onnx'" export --run runs/good --format onnx --out x.onnx
expect 1 'cannot' verify --run runs/good --model absent.safetensors
head -c 1000 $model >cut.safetensors
expect 1 'cut.safetensors: ' verify --run runs/good --model cut.safetensors

# Sums that saturate: ONNX Runtime judges where its own do, and otherwise it is said that it cannot.
saturating=(--set quantization.overflow=saturate16 --out runs/saturating)
succeed '^integer engine' train --config good.yaml "${short[@]}" "${saturating[@]}"
succeed '' export --run runs/saturating --format onnx-qdq --out saturating.onnx
succeed '^engine: mismatches: 0 ' verify --run runs/saturating --model saturating.onnx
grep -qE '^onnxruntime: mismatches: 0 |onnxruntime: the model.s sums saturate' out.txt || fail "saturate16: $(cat out.txt)"
if grep -q 'cannot judge here' out.txt; then
  "$qat" verify --run runs/saturating --model saturating.onnx --require onnxruntime >out.txt 2>err.txt
  [ $? = 1 ] || fail "verify: a required judge cannot judge here, so it must fail"
  grep -q 'required judges that did not run' out.txt || fail "a required judge was not missed: $(cat out.txt)"
fi

# Exported files alone: images to labels, by the command and by a small program that links only the engine.
mkdir images
for i in 1 2; do
  { printf 'P5\n28 28\n255\n'; head -c $((784 * i)) "$qat" | tail -c 784; } >images/$i.pgm
done
for file in $model onnx-qdq.onnx onnx-qoperator.onnx; do
  succeed '^images/1.pgm: [0-9] 0\.[0-9]+, [0-9] 0\.[0-9]+' predict --model $file images --top 2
  cp out.txt predicted.txt
  cmp -s predicted.txt "${first:-predicted.txt}" || fail "predict: $file: $(cat out.txt)"
  first=first.txt
  cp predicted.txt first.txt
done
# The same network from raw pixels: the same codes, the same labels.
for format in safetensors onnx-qdq onnx-qoperator; do
  file=pixels.${format#onnx-}; [ $format = safetensors ] || file=$file.onnx
  succeed "^$file " export --run runs/good --format $format --input uint8 --out $file
  succeed '^passed: mismatches: 0, ' verify --run runs/good --model $file --require engine
  succeed '^images/1.pgm: [0-9] 0\.[0-9]+' predict --model $file images --top 2
  cmp -s out.txt first.txt || fail "predict: $file: $(cat out.txt)"
done
succeed '^passed: mismatches: 0, ' verify --run runs/good --model pixels.qdq.onnx --require engine,onnxruntime
succeed '"engine_ms"' bench inference --model pixels.qdq.onnx --runs 2 --json
expect 2 'format golden takes no --input' export --run runs/good --format golden --input uint8 --out golden.pixels
expect 2 "float32" export --run runs/good --format safetensors --input int4 --out int4.safetensors
succeed '"label": [0-9]+' predict --model $model images/1.pgm images/2.pgm --json
{ printf 'P5\n27 28\n255\n'; head -c 756 "$qat"; } >narrow.pgm
expect 1 'narrow.pgm: ' predict --model $model narrow.pgm
expect 1 'onnx-qdq.onnx: ' predict --model $model onnx-qdq.onnx
classify=$(dirname "$qat")/classify
for file in $model pixels.safetensors; do
  for i in 1 2; do
    label=$("$classify" $file images/$i.pgm) || fail "classify: no result"
    grep -q "^images/$i.pgm: ${label% *} " first.txt || fail "classify: $file: $label, predict: $(cat first.txt)"
  done
done
libraries=$(ldd "$classify" | sed "s/ (0x.*//")
grep -qiE 'torch|c10|opencv' <<<"$libraries" && fail "classify needs more than the engine: $libraries"
bytes=$(stat -Lc %s "$classify" $(grep -oE '/[^ ]*libqat[^ ]*' <<<"$libraries") | awk '{ sum += $1 } END { print sum }')
[ "$bytes" -lt 2000000 ] || fail "classify and its libraries take $bytes bytes"
succeed '"engine_ms"' bench inference --model onnx-qdq.onnx --runs 2 --operators --json
for side in onnxruntime onnxruntime_default onnxruntime_float; do
  grep -q "\"${side}_ms\"" out.txt || fail "bench inference: no $side: $(cat out.txt)"
done

# A full disk: the checkpoint before it stays, and the run continues once there is room.
long=(--set 'stages=[{float: {steps: 12}}]' --set checkpoint.every=4 --out runs/full)
(ulimit -f 1000 && exec "$qat" train --config good.yaml "${long[@]}") >out.txt 2>err.txt
[ $? = 1 ] || fail "full disk: expected exit 1: $(cat err.txt)"
tail -n 1 err.txt | grep -q 'qat: runs/full/checkpoints/last.ckpt: cannot write' || fail "full disk: $(cat err.txt)"
ls runs/full/checkpoints | grep -q . && fail "full disk: something half written is left"
succeed '^float' train --config good.yaml "${long[@]}" --resume

# SIGINT: a checkpoint, exit 130, and how to resume.
"$qat" train --config good.yaml --set 'stages=[{float: {epochs: 1000}}]' --out runs/stop >out.txt 2>err.txt &
pid=$!
for _ in $(seq 200); do [ -e runs/stop/checkpoints/last.ckpt ] && break; sleep 0.1; done
kill -INT $pid
wait $pid
[ $? = 130 ] || fail "SIGINT: expected exit 130: $(cat err.txt)"
tail -n 1 err.txt | grep -q -- '--out runs/stop --resume$' || fail "SIGINT: $(tail -n 1 err.txt)"

finish
