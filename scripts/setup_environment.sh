#!/bin/bash
# Login node, once: install the program into .venv, from the locked packages.
#     scripts/setup_environment.sh                   modules of slurm/rendered/site.sh, if it is there
#     MODULES="python/3.12 cuda/12.8" scripts/setup_environment.sh
# Nothing has to be sourced afterwards: each job sets its own environment (slurm/job.sh).
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ -z "${MODULES:-}" && -f slurm/rendered/site.sh ]]; then
    MODULES=$(sed -n 's/^MODULES="\(.*\)"$/\1/p' slurm/rendered/site.sh)
fi
if [[ -n "${MODULES:-}" ]]; then
    # shellcheck disable=SC2086  # several modules, separated by spaces
    module load $MODULES
fi
PYTHON="${PYTHON:-python3}"
command -v "$PYTHON" > /dev/null || {
    echo "error: $PYTHON: there is no such program" >&2
    echo "Name another: PYTHON=python3.12 $0" >&2
    exit 2
}
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "error: $("$PYTHON" --version) is too old; 3.10 or newer is needed" >&2
    echo "Name another: PYTHON=python3.12 $0" >&2
    exit 2
}
make install PYTHON="$PYTHON"
.venv/bin/python cli.py --help > /dev/null
echo "installed in $PWD/.venv; next: python slurm/render.py --config slurm/site.yaml, then scripts/download_data.sh"
