"""`state.json` of a run: when it was started, how often, and how it ended, for `status` and for whoever comes after.

Written at the start and at the end, so that a run that was killed is one that says it is running while its process
is gone. Nothing here may end a run: what cannot be written is not written.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nanochat_pl.system import signals
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.files import write_json
from nanochat_pl.system.memory import out_of_memory_kills
from nanochat_pl.system.run_lock import this_process

FILE = "state.json"
RUNNING, DONE, STOPPED, FAILED = "running", "done", "stopped", "failed"
KILLED = 128 + signal.SIGKILL  # what a shell says of a process that was killed with -9


def read_state(run_dir: Path) -> dict[str, Any]:
    """Return what a run's file says; nothing if there is none."""
    try:
        facts = json.loads((run_dir / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def begin(run_dir: Path, config: str, arguments: str = "") -> None:
    """Note that a run was started, or started again.

    Args:
        run_dir: its folder, which exists.
        config: the stage's file, as it was named.
        arguments: of `fit`, quoted for a shell, with which the run goes on.
    """
    before, me = read_state(run_dir), this_process()
    now = {
        "state": RUNNING,
        "config": config,
        "arguments": arguments,
        "starts": _count(before.get("starts")) + 1,
        "host": me.host,
        "pid": me.pid,
        "job": me.job,
        "job_name": os.environ.get("SLURM_JOB_NAME", ""),
        "restarts": me.restarts,
        "started": time.time(),
        "out_of_memory_kills": out_of_memory_kills(),
    }
    with suppress(OSError):
        write_json(run_dir / FILE, now)


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


def end(run_dir: Path, exit_code: int, reason: str) -> None:
    """Note how a run ended, unless that is known already.

    Args:
        run_dir: its folder.
        exit_code: of the process.
        reason: one line.
    """
    state = read_state(run_dir)
    if state.get("state") != RUNNING:
        return
    word = DONE if exit_code == 0 else STOPPED if exit_code in (75, 130) else FAILED
    facts = {"state": word, "ended": time.time(), "exit_code": exit_code, "reason": reason}
    with suppress(OSError):
        write_json(run_dir / FILE, state | facts)


class Record:
    """How the run inside of `recorded` ends, to be filled in there.

    Attributes:
        exit_code: 0 until it is known better.
        reason: one line.
    """

    exit_code = 0
    reason = ""


@contextmanager
def recorded(run_dir: Path, config: str, arguments: str = "") -> Iterator[Record]:
    """Note the start of a run and, on leaving, its end: with the record's code, or as the error says.

    Args:
        run_dir: the run's folder, which exists.
        config: the stage's file, as it was named.
        arguments: of `fit`, quoted for a shell, with which the run goes on.
    """
    begin(run_dir, config, arguments)
    record = Record()
    try:
        yield record
    except BaseException as error:
        end(run_dir, _code_of(error), _first_line(error))
        raise
    end(run_dir, record.exit_code, record.reason)


def _code_of(error: BaseException) -> int:
    if isinstance(error, BadInput | Failure):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    return Failure.exit_code


def reason_of_stop(number: int) -> str:
    """Return what is noted of a run that was asked to stop: the signal's name, the time limit or the file STOP."""
    name = signals.name_of(number)
    if number == getattr(signal, "SIGHUP", None):
        return f"{name}; started in tmux, or with nohup, a run goes on without one"
    return f"{name} (Ctrl-C)" if number == signal.SIGINT else name


def _first_line(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return reason_of_stop(signal.SIGINT)
    told = str(error).splitlines()[0] if str(error) else ""
    if isinstance(error, BadInput | Failure):
        return told
    return f"{type(error).__name__}: {told}" if told else type(error).__name__
