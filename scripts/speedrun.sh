#!/bin/bash
# From nothing to a chat model on one node with eight GPUs, as nanochat's $100 run: d20 and its stages.
#     scripts/speedrun.sh                      in a screen or tmux; run again, it continues
#     SIZE=d26 GPUS=4 scripts/speedrun.sh
# Everything lies under $NANOCHAT_BASE_DIR (default ~/.cache/nanochat_pl).
set -euo pipefail
cd "$(dirname "$0")/.."

size="${SIZE:-d20}" corpus="${CORPUS:-fineweb_edu}"
base="configs/${size}_base.yaml" mid="configs/${size}_mid.yaml" sft="configs/${size}_sft.yaml"
hardware=(--config configs/hardware/gpu8.yaml --trainer.devices "${GPUS:-8}")
export NANOCHAT_BASE_DIR="${NANOCHAT_BASE_DIR:-$HOME/.cache/nanochat_pl}"
tokenizer="$NANOCHAT_BASE_DIR/tokenizers/$corpus"
export OMP_NUM_THREADS=1

make install
nanochat() { .venv/bin/python cli.py "$@"; }

# All data is here before anything is trained: no stage can begin with a part of it.
scripts/download_data.sh "$base" "$mid" "$sft"
[[ -e "$tokenizer/meta.json" ]] || nanochat tokenizer train --corpus "$corpus" --vocab_size "${VOCAB_SIZE:-65536}" --max_chars "${TOKENIZER_CHARS:-2000000000}"

# A test that lacks data says so and ends with 1; that is no reason not to train on.
missing=0
examine() {
    local code=0
    nanochat test --config "$1" "${hardware[@]}" || code=$?
    case "$code" in
        0) ;;
        1) missing=1 ;;
        *) exit "$code" ;;
    esac
}
nanochat fit --config "$base" "${hardware[@]}"
examine "$base"
nanochat fit --config "$mid" "${hardware[@]}"
examine "$mid"
nanochat fit --config "$sft" "${hardware[@]}"
examine "$sft"
nanochat report --runs "${size}_base,${size}_mid,${size}_sft"
echo "talk to it: .venv/bin/python cli.py chat"
exit "$missing"
