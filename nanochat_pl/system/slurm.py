"""The SLURM job this process belongs to: its name, its restarts, its end, and how it is put back into the queue.

Everything is read from the variables SLURM sets; `scontrol` is asked only when a job is to be run again.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

ASK_TIMEOUT_S = 10
TRIES, SECONDS_BETWEEN_TRIES = 5, 10.0  # a controller that restarts answers within a minute
ENDED = ("COMPLETED", "FAILED", "TIMEOUT", "DEADLINE", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY")


class Job(NamedTuple):
    """A running job.

    Attributes:
        name: what `scontrol` calls it: `17`, or `12_3` for task 3 of the array 12.
        restarts: how often it has been started again.
        ends_at: Unix seconds of its time limit; None where SLURM does not say.
    """

    name: str
    restarts: int
    ends_at: float | None


def current_job(environment: Mapping[str, str] = os.environ) -> Job | None:
    """Return the job of this process; None outside of SLURM."""
    number = environment.get("SLURM_JOB_ID")
    if not number:
        return None
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    ends_at = environment.get("SLURM_JOB_END_TIME", "")
    return Job(
        name=f"{array}_{task}" if array and task else number,
        restarts=int(environment.get("SLURM_RESTART_COUNT") or 0),
        ends_at=float(ends_at) if ends_at.isdigit() and int(ends_at) > 0 else None,
    )


def put_back(job: Job, sleep: Callable[[float], None] = time.sleep) -> str | None:
    """Put a job back into the queue, unless somebody has cancelled it; ask also where its state is not to be had.

    Args:
        job: this process's job.
        sleep: waits so many seconds until a controller that did not answer is asked again.

    Returns:
        Why it was not put back; None if it was, or if SLURM is doing so already.
    """
    try:
        state = _state(job, sleep)
        if state == "CANCELLED":
            return "it was cancelled"
        if state in ENDED:
            return f"SLURM has ended it: {state}"
        if state not in ("RUNNING", "SUSPENDED", ""):
            return None  # preempted, or requeued from outside: SLURM has done it
        asked = _scontrol("requeue", job.name)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"scontrol: {error}"
    return f"scontrol: {asked.stderr.strip() or asked.returncode}" if asked.returncode else None


def _state(job: Job, sleep: Callable[[float], None]) -> str:
    """Return the first state SLURM shows, such as RUNNING; empty where it did not say, though asked several times."""
    for left in reversed(range(TRIES)):
        state = _state_shown(job)
        if state:
            return state
        if left:
            sleep(SECONDS_BETWEEN_TRIES)
    return ""


def _state_shown(job: Job) -> str:
    try:
        shown = _scontrol("--oneliner", "show", "job", job.name).stdout
    except subprocess.TimeoutExpired:
        return ""
    states = [word.partition("=")[2] for word in shown.split() if word.startswith("JobState=")]
    return states[0] if states else ""


def _scontrol(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["scontrol", *arguments], capture_output=True, text=True, check=False, timeout=ASK_TIMEOUT_S
    )
