#!/bin/bash
# Login node, once: fetch and verify everything that stages need, so that compute nodes need no network.
#     scripts/download_data.sh                                  the stages of slurm/rendered/site.sh
#     scripts/download_data.sh configs/d20_base.yaml …          these
# It goes to $NANOCHAT_BASE_DIR where that is set, else to the folder of slurm/rendered/site.sh.
# It may be stopped and run again: what is here and right is not fetched a second time.
set -euo pipefail
cd "$(dirname "$0")/.."

configs=("$@") folder="${NANOCHAT_BASE_DIR:-}"
if [[ -f slurm/rendered/site.sh ]]; then
    # shellcheck source=slurm/job.sh
    source slurm/rendered/site.sh
    # shellcheck disable=SC2153  # CONFIGS is one of site.sh
    ((${#configs[@]})) || configs=("$CONFIGS/${SIZE}_base.yaml" "$CONFIGS/${SIZE}_mid.yaml" "$CONFIGS/${SIZE}_sft.yaml")
fi
if ! ((${#configs[@]})); then
    echo "error: no stage is named, and slurm/rendered/site.sh is not here" >&2
    echo "$0 configs/d20_base.yaml configs/d20_mid.yaml configs/d20_sft.yaml" >&2
    exit 2
fi
if [[ -n "$folder" ]]; then export NANOCHAT_BASE_DIR="$folder"; fi # what is set wins over the site's
echo "data goes to ${NANOCHAT_BASE_DIR:-$HOME/.cache/nanochat_pl}"
python="${VENV:-.venv}/bin/python"
for config in "${configs[@]}"; do
    "$python" cli.py data fetch --for "$config"
done
for config in "${configs[@]}"; do
    "$python" cli.py data check --for "$config"
done
