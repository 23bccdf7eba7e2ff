#!/bin/bash
# nanochat's $1000 run: d32 on eight GPUs, about two days. Its tokenizer reads twice the text of the speedrun's.
#     scripts/run1000.sh                       in a screen or tmux; run again, it continues
set -euo pipefail
export SIZE="${SIZE:-d32}" TOKENIZER_CHARS="${TOKENIZER_CHARS:-4000000000}"
exec "$(dirname "$0")/speedrun.sh"
