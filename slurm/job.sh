# shellcheck shell=bash
# What the jobs of train.sbatch, pipeline.sbatch and sweep.sbatch have in common. `site.sh` sets the capitals.
#
#     exit code of a verb      what the job does
#     0                        ends
#     2 bad input              ends: the same input would be as bad again
#     130 a person's wish      ends; submit it again to continue
#     75 run again             back into the queue, at most MAX_RESTARTS times (`fit` has done it, where it could)
#     others: a crash          back into the queue, at most MAX_CRASHES times in a row

# Settle where things are, and that nothing tries the network.
enter() {
    cd "$ROOT" || exit 1
    if [[ -n "$MODULES" ]]; then
        # shellcheck disable=SC2086  # several modules, separated by spaces
        module load $MODULES
    fi
    PYTHON="$VENV/bin/python"
    [[ -x "$PYTHON" ]] || refuse "$(realpath -ms "$PYTHON"): there is no such program" \
        "On the login node: scripts/setup_environment.sh, which makes .venv; another venv of site.yaml is yours to make"
    # SLURM ends a job, without a word, whose folder of logs is missing.
    mkdir -p "$LOGS"
    export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TRANSFORMERS_OFFLINE=1 WANDB_MODE=offline
    export HF_HOME="$NANOCHAT_BASE_DIR/huggingface"
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" PYTORCH_CUDA_ALLOC_CONF="${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}"
    if [[ -n "${SLURM_JOB_ID:-}" ]]; then
        export TMPDIR="$NANOCHAT_BASE_DIR/tmp/$SLURM_JOB_ID"
        mkdir -p "$TMPDIR"
        trap 'rm -rf "$TMPDIR"' EXIT
        # TERM comes of a requeue or scancel, USR2 of who wants to see stacks: the ranks are told too, and are waited for.
        trap : TERM USR2
        # Another port at each start: one that is taken must not be taken again.
        export MASTER_PORT=$((15000 + (SLURM_JOB_ID * 13 + ${SLURM_RESTART_COUNT:-0} * 7) % 20000))
        # Some versions of SLURM do not say when the job has to end.
        local ends
        if [[ -z "${SLURM_JOB_END_TIME:-}" ]] && ends=$(job_end); then export SLURM_JOB_END_TIME="$ends"; fi
    fi
}

# Print the Unix second at which this job has to end; fail where there is none.
job_end() {
    local end
    end=$(scontrol_within_10_s --oneliner show job "$SLURM_JOB_ID" | grep -oE " EndTime=[0-9T:-]{19}") || return 1
    date -d "${end# EndTime=}" +%s
}

# Print an error and what to do, and end for good: refuse PROBLEM REMEDY
refuse() {
    printf 'error: %s\n%s\n' "$1" "$2" >&2
    exit 2
}

# Refuse to go on outside of a job: needs_a_job WHAT_TO_SUBMIT
needs_a_job() {
    [[ -n "${SLURM_JOB_ID:-}" ]] || refuse "this file is for a job of SLURM" "Submit it: sbatch $1"
}

# Print the stage's file given to a script: stage_file SCRIPT [FILE]
stage_file() {
    [[ -f "${2:-}" ]] || refuse "$1: ${2:-nothing} is no stage's file" "sbatch $RENDERED/$1 configs/d20_base.yaml"
    echo "$2"
}

nanochat() { "$PYTHON" cli.py "$@"; }

# One process on each task of the job. The exit code is that of the task that ended first and badly: the others are
# killed then, and what `srun` returns is the largest code of all.
nanochat_on_all_tasks() {
    local code=0 first="$TMPDIR/first_exit"
    rm -f "$first"
    export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}" # since 22.05, `srun` does not take over the job's
    FIRST_EXIT="$first" srun --kill-on-bad-exit=1 bash -c "$IN_A_TASK" task "$PYTHON" cli.py "$@" \
        --trainer.devices "${SLURM_NTASKS_PER_NODE:-1}" --trainer.num_nodes "${SLURM_JOB_NUM_NODES:-1}" || code=$?
    if [[ -s "$first" ]]; then code=$(< "$first"); fi
    return "$code"
}
# shellcheck disable=SC2016  # the task expands it, not this script
IN_A_TASK='trap : USR1 USR2 TERM INT; "$@"; code=$?; [[ $code == 0 ]] || (set -C; echo $code > "$FIRST_EXIT") 2> /dev/null; exit $code'

# Verify everything that stages need, until a start of this job found it right: check_data CONFIG…
check_data() {
    local config checked="$LOGS/.checked-${SLURM_JOB_ID:-none}"
    [[ "${SLURM_RESTART_COUNT:-0}" != 0 && -e "$checked" ]] && return
    for config in "$@"; do
        nanochat data check --for "$config" || exit $?
    done
    if [[ -n "${SLURM_JOB_ID:-}" ]]; then touch "$checked"; fi
}

# Train a stage until it is finished: train CONFIG [OPTION…]
train() {
    nanochat_on_all_tasks fit --config "$1" ${OVERLAY:+--config "$OVERLAY"} "${@:2}" \
        --requeue.max_restarts "$MAX_RESTARTS" || conclude $?
    rm -f "$(crash_file)"
}

# Take a stage's whole evaluation: examine CONFIG. What is missing would be missing again, so 1 is the end of this job
# too; submitted again, the pipeline tries again.
examine() {
    local code=0
    nanochat_on_all_tasks test --config "$1" ${OVERLAY:+--config "$OVERLAY"} || code=$?
    case "$code" in
        0) touch "$(tested_file "$(stage_of "$1")")" ;;
        1) exit 1 ;;
        *) conclude "$code" ;;
    esac
}

stage_of() { basename "$1" .yaml | sed "s/^${SIZE}_//"; }

tested_file() { echo "$NANOCHAT_BASE_DIR/runs/.${SIZE}_$1.tested"; }

# End the job as the exit code of a verb says.
conclude() {
    case "$1" in
        2 | 130) ;;
        75)
            rm -f "$(crash_file)"
            run_again "asks to be run again"
            ;;
        *)
            local crashes memory=""
            [[ "$1" == 137 ]] && memory=", most likely for lack of memory (more: mem in site.yaml; less: --data.init_args.device_batch_rows)"
            mkdir -p "$LOGS" # somebody may have cleaned up since the job began
            crashes=$(($(cat "$(crash_file)" 2> /dev/null || echo 0) + 1))
            echo "$crashes" > "$(crash_file)"
            if ((crashes > MAX_CRASHES)); then
                echo "ended with $1$memory, $crashes times in a row; not put back into the queue" >&2
                echo "See why: $PYTHON cli.py status" >&2
            else
                run_again "ended with $1$memory, crash $crashes of $MAX_CRASHES"
            fi
            ;;
    esac
    exit "$1"
}

crash_file() { echo "$LOGS/.crashes-${SLURM_JOB_ID:-none}"; }

# Put this job back into the queue, unless something has done so already: run_again REASON
run_again() {
    local job="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}" state problem
    job="${job:-$SLURM_JOB_ID}"
    state=$(job_state "$job")
    [[ "${state:-RUNNING}" == RUNNING ]] || return 0 # where SLURM did not say, it is asked all the same
    if ((${SLURM_RESTART_COUNT:-0} >= MAX_RESTARTS)); then
        echo "job $job: $1; it was restarted ${SLURM_RESTART_COUNT:-0} times, which is the limit" >&2
    elif problem=$(scontrol_within_10_s requeue "$job"); then
        echo "job $job: $1; back into the queue" >&2
    else
        echo "job $job: $1; not put back into the queue, for \`scontrol requeue\` failed: $problem" >&2
    fi
}

# Print the state SLURM shows of a job, such as RUNNING; a controller that does not answer is asked again for a minute.
job_state() {
    local shown try
    for try in 1 2 3 4 5; do
        if shown=$(scontrol_within_10_s --oneliner show job "$1") && [[ "$shown" =~ JobState=([A-Z_]+) ]]; then
            echo "${BASH_REMATCH[1]}"
            return
        fi
        echo "job $1: \`scontrol show job\` failed, try $try of 5: $shown" >&2
        ((try == 5)) || sleep 10
    done
}

# Ask the controller, and print what it says; the SIGTERM a requeue brings does not end the question.
scontrol_within_10_s() (
    trap '' TERM
    timeout --signal=KILL 10 scontrol "$@" 2>&1
)

# Run a command that is to know nothing of this job, such as one that submits another.
without_this_job() {
    local name names=()
    for name in $(compgen -v SLURM_); do
        [[ "$name" == SLURM_CONF ]] || names+=(-u "$name")
    done
    env ${names[@]+"${names[@]}"} "$@"
}
