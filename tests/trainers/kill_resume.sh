#!/bin/bash
# kill -9 at random instants, also while a checkpoint is written, then --resume: every file that a run promises to repeat
# has the bytes of an uninterrupted run. Usage: kill_resume.sh QAT_BINARY SOURCE_FOLDER [KILLS [SEED]]
set -uo pipefail
qat=$(realpath "$1")
config=$(realpath "$2")/configs/ci_synthetic.yaml
kills=${3:-8}
RANDOM=${4:-1}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
# A checkpoint at every step: most kills fall into the writing of one. Long enough for all of them.
train=("$qat" train --config "$config" --set data.dataset.train_samples=$((256 * kills)) --set 'checkpoint.every=1')

"${train[@]}" --out whole >/dev/null 2>whole.log || { cat whole.log; exit 1; }

half_written() { compgen -G 'parts/checkpoints/*.tmp.*' >/dev/null || compgen -G 'parts/export/*.tmp.*' >/dev/null; }

killed=0 torn=0
for _ in $(seq "$kills"); do
  "${train[@]}" --out parts --resume >parts.out 2>parts.log &
  pid=$!
  sleep "$(printf '0.%03d' $((300 + RANDOM % 400)))"
  if [ $((RANDOM % 2)) = 0 ]; then
    # Stop it again and again until a file is in the making, so that some kills surely hit one.
    for _ in $(seq 1000); do
      kill -STOP $pid 2>/dev/null || break
      half_written && break
      kill -CONT $pid
      sleep 0.001
    done
  fi
  if kill -9 $pid 2>/dev/null; then killed=$((killed + 1)); fi
  wait $pid 2>/dev/null
  half_written && torn=$((torn + 1))
done
"${train[@]}" --out parts --resume >parts.out 2>parts.log || { cat parts.log; exit 1; }

[ "$torn" -gt 0 ] || { echo "FAILED: none of $killed kills fell into the writing of a file"; exit 1; }
for file in metrics.jsonl config.yaml checkpoints/last.ckpt checkpoints/best.ckpt export/model.safetensors; do
  cmp whole/$file parts/$file || exit 1
done
half_written && { echo "FAILED: a temporary file is left"; exit 1; }
echo "equal after $killed kills, $torn of them while a file was written"
