"""What runs inside a locked process, from its first line to its lock and to the role it was started for.

    read the job from standard input ─ limits ─ preload ─ lock ─ report the layers ─ role

A job is one message of `literals.py`. The parent, in `locked.py`, starts this file in an interpreter that knows
neither site-packages nor an environment. No foreign line is run, or even parsed, before the lock holds.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from nanochat_pl.sandbox.confine import Limits, limit, lock
from nanochat_pl.sandbox.literals import MAX_JOB_BYTES, receive, send
from nanochat_pl.sandbox.preload import preload


def main() -> None:
    """Do the job that stands on standard input."""
    job = receive(0, MAX_JOB_BYTES)
    if os.getppid() != job["parent"]:
        sys.exit("the process that asked is gone")
    role = _role(job["role"])
    limit(Limits(*job["limits"]))
    preload(job["sources"])
    layers = lock()
    send(job["report"], layers)
    if job["needs_lock"] and "seccomp" not in layers:
        sys.exit("seccomp is refused here")
    role(job)


def _role(name: str) -> Any:
    """Import the code of a role; only that of this process, to start fast."""
    if name == "program":
        from nanochat_pl.sandbox.program import run

        return run
    if name == "candidate":
        from nanochat_pl.sandbox.candidate import serve

        return serve
    from nanochat_pl.sandbox.checker import check

    return check
