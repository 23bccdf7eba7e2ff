#!/bin/bash
# Every stage on a CPU, offline, with few steps: to see that it all works, not to get a good model (`make demo` does that).
#     scripts/local_cpu_train.sh [STEPS]
set -euo pipefail
cd "$(dirname "$0")/.."

steps="${1:-50}"
[[ "$steps" =~ ^[1-9][0-9]*$ ]] || {
    echo "error: $steps is no number of steps" >&2
    echo "$0 50" >&2
    exit 2
}
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(nproc 2> /dev/null || echo 1)}"
[[ -n "${PYTHON_OF_VENV:-}" ]] || { make install && PYTHON_OF_VENV=.venv/bin/python; }
nanochat() { "$PYTHON_OF_VENV" cli.py "$@"; }
prefix=local_cpu
artifacts="${NANOCHAT_BASE_DIR:-$HOME/.cache/nanochat_pl}/runs"

nanochat data generate world
[[ -e "${artifacts%runs}tokenizers/world/meta.json" ]] || nanochat tokenizer train --corpus world --vocab_size 1024
nanochat fit --config configs/demo_base.yaml --run ${prefix}_base --trainer.max_steps "$steps"
nanochat test --config configs/demo_base.yaml --run ${prefix}_base --tasks bits_per_byte,samples
nanochat fit --config configs/demo_mid.yaml --run ${prefix}_mid --model.init_args.init_from ${prefix}_base --trainer.max_steps "$steps"
nanochat fit --config configs/demo_sft.yaml --run ${prefix}_sft --model.init_args.init_from ${prefix}_mid --trainer.max_steps "$steps"
nanochat test --config configs/demo_sft.yaml --run ${prefix}_sft --model.init_args.init_from ${prefix}_mid \
    --tasks world,world-spelling,world-sums --max_problems 20
nanochat report --runs ${prefix}_base,${prefix}_mid,${prefix}_sft
nanochat chat --from ${prefix}_sft --prompt "What is 3+4?" --temperature 0
