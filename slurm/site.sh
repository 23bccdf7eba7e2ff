# shellcheck shell=bash
# What `render.py` made of site.yaml; the jobs and the scripts of the login node read it.
# shellcheck disable=SC2034
ROOT="{{root}}"
RENDERED="{{rendered}}"
LOGS="{{logs}}"
MODULES="{{modules}}"
VENV="{{venv}}"
SIZE="{{size}}"
CONFIGS="{{configs}}"
OVERLAY="{{overlay}}"
CORPUS="{{corpus}}"
VOCAB_SIZE="{{vocab_size}}"
MAX_RESTARTS="{{max_restarts}}"
MAX_CRASHES="{{max_crashes}}"
export NANOCHAT_BASE_DIR="{{base_dir}}"
# shellcheck source=slurm/job.sh
source "$ROOT/slurm/job.sh"
