#!/bin/bash
# An example of starting in the middle: a base model is there, what is wanted is midtraining, SFT, tests and the report.
#     slurm/resume_mid_sft.sh          after slurm/render.py; the base model is runs/<size>_base in the base directory
set -euo pipefail
rendered="$(dirname "$0")/rendered"
if [[ ! -f "$rendered/site.sh" ]]; then
    echo "error: $rendered/site.sh: there is no such file" >&2
    echo "Render first: python slurm/render.py --config slurm/site.yaml" >&2
    exit 2
fi
# shellcheck source=slurm/job.sh
source "$rendered/site.sh"
artifact="$NANOCHAT_BASE_DIR/runs/${SIZE}_base/artifact/config.json"
[[ -e "$artifact" ]] || refuse "$artifact: there is no base model to start from" "Train it: sbatch $rendered/pipeline.sbatch"
exec bash "$rendered/pipeline.sbatch" submit mid
