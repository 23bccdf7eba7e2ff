"""`status [RUN]`: where a run stands, from its files alone; while it runs, after its end and after a crash.

Nothing is asked of the run itself, so a run that hangs, or is gone, is told of as well. Neither torch nor the data is
opened: a checkpoint counts as intact if its size is that of its receipt; `fit` compares the sha256 too.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from types import UnionType
from typing import Any

from nanochat_pl.system.errors import BadInput
from nanochat_pl.system.memory import out_of_memory_kills
from nanochat_pl.system.paths import base_dir, is_plain_name, run_dir
from nanochat_pl.system.printable import size_text
from nanochat_pl.system.receipts import receipts, size_problem
from nanochat_pl.system.run_lock import Holder, holder_of, is_at_work, lock_path
from nanochat_pl.system.run_state import KILLED, RUNNING, read_state

TAIL_BYTES = 8192
OUT_OF_MEMORY = (
    "out of memory",
    "most likely out of memory",
)  # how a reason begins for which there is evidence
FULL = 0.9  # of the memory, at the last sign of life: then a kill without a word was most likely for the lack of it
QUEUE_TIMEOUT_S = 3
KERNEL_LOG_TIMEOUT_S = 2

Facts = dict[str, Any]
Kinds = dict[str, type | UnionType]

NUMBER = int | float
DAMAGED = "damaged"  # among the facts of a file in which something is of the wrong form
PLAN: Kinds = {"steps": int, "batch_tokens": int}
LOGGED: Kinds = {"step": int, "time": NUMBER, "train/loss": NUMBER, "train/tokens_per_s": NUMBER}
STATE: Kinds = dict.fromkeys(("state", "config", "arguments", "reason", "job"), str) | dict.fromkeys(
    ("starts", "restarts", "exit_code", "out_of_memory_kills"), int
)


def status(run: str | None = None, json: bool = False) -> None:
    """Print where a run stands, or all runs in a table.

    Args:
        run: name of the run; all if left out.
        json: print JSON instead.
    """
    if run is None:
        every = [facts_of(folder) for folder in _runs()]
        print(_as_json(every) if json else _table(every))
        return
    folder = run_dir(run)
    if not is_plain_name(run) or not folder.is_dir():
        raise BadInput(_no_such_run(run))
    facts = facts_of(folder)
    print(_as_json(facts) if json else "\n".join(_lines(facts)))


def facts_of(folder: Path) -> Facts:
    """Return everything that is known of a run, ready for JSON; None where unknown or damaged."""
    plan, state = _read_plan(folder / "plan.json"), _sound(read_state(folder), STATE)
    logged = _last_line(folder / "metrics" / "train.jsonl")
    holder = _holder(folder)
    alive = holder is not None and is_at_work(holder)
    checkpoint = _checkpoint(folder)
    step = max(logged.get("step") or 0, checkpoint["step"] if checkpoint else 0)
    damage = {
        "plan.json": DAMAGED in plan,
        "state.json": DAMAGED in state,
        "metrics/train.jsonl": DAMAGED in logged,
        "checkpoints": checkpoint is None and any(folder.glob("checkpoints/step_*.json")),
    }
    return {
        "run": folder.name,
        "config": state.get("config"),
        "command": _command(state, folder.name),
        "state": _word(state, alive),
        "reason": _reason(state, holder, alive),
        "step": step,
        "steps": plan.get("steps"),
        "loss": logged.get("train/loss"),
        "tokens_per_s": logged.get("train/tokens_per_s"),
        "eta_s": _to_go(plan, logged, step) if alive else None,
        "logged": logged.get("time"),
        "checkpoint": checkpoint,
        "starts": state.get("starts") or 0,
        "restarts": state.get("restarts") or 0,
        "exit_code": _exit_code(state, alive),
        "process": _process(holder, alive),
        "queue": _queue(state.get("job")),
        "stacks": [str(path) for path in _stacks(folder)],
        "artifact": (folder / "artifact" / "config.json").exists(),
        "damaged": [name for name, is_damaged in damage.items() if is_damaged],
    }


def _runs() -> list[Path]:
    """Return the folders of all runs, the latest last."""
    folder = base_dir() / "runs"
    found = [path for path in folder.glob("[!.]*") if path.is_dir()] if folder.is_dir() else []
    return sorted(found, key=lambda path: path.stat().st_mtime)


def _no_such_run(run: str) -> str:
    names = [path.name for path in _runs()]
    near = get_close_matches(run, names, n=1)
    hint = f"Did you mean {near[0]}?\n" if near else ""
    what = f"{run or repr(run)}: there is no such run in {base_dir() / 'runs'}"
    return f"{what}\n{hint}python cli.py status lists all {len(names)}"


def _read_plan(path: Path) -> Facts:
    try:
        return _sound(json.loads(path.read_text(encoding="utf-8")), PLAN)
    except OSError:
        return {}
    except ValueError:
        return {DAMAGED: True}


def _sound(found: Any, kinds: Kinds) -> Facts:
    """Return what a file says that is of the right form; `DAMAGED` is among it if something is not."""
    if not isinstance(found, dict):
        return {DAMAGED: True}
    wrong = {name for name, kind in kinds.items() if not isinstance(found.get(name), kind | None)}
    sound = {name: value for name, value in found.items() if name not in wrong}
    return sound | {DAMAGED: True} if wrong else sound


def _holder(folder: Path) -> Holder | None:
    """Return who works, or worked, in a run's folder; nobody where the file says nothing of the kind."""
    holder = holder_of(lock_path(folder))
    numbers = {"pid": int, "time": NUMBER, "memory_share": NUMBER}
    return None if holder is None or DAMAGED in _sound(holder._asdict(), numbers) else holder


def _last_line(path: Path) -> Facts:
    """Return the last whole line of the metrics of training; nothing if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            return _sound(json.loads(line), LOGGED)
        except ValueError:
            continue  # cut short by a kill, or the rest of a longer one
    return {}


def _checkpoint(folder: Path) -> Facts | None:
    newest = next(iter(receipts(folder / "checkpoints")), None)
    if newest is None:
        return None
    return {
        "step": newest.step,
        "time": newest.time or newest.path.stat().st_mtime,
        "bytes": newest.bytes,
        "problem": size_problem(newest),
    }


def _command(state: Facts, run: str) -> str | None:
    """Return the command that continues a run: that of its last start, or of its file where that was not noted."""
    if arguments := state.get("arguments"):
        return f"python cli.py fit {arguments}"
    config = state.get("config")
    return f"python cli.py fit --config {shlex.quote(config)} --run {shlex.quote(run)}" if config else None


def _word(state: Facts, alive: bool) -> str:
    """Return how a run is: running, done, stopped, failed, killed, or unknown where it never said anything."""
    if alive:
        return RUNNING
    return "killed" if state.get("state") == RUNNING else state.get("state") or "unknown"


def _exit_code(state: Facts, alive: bool) -> int | None:
    if alive:
        return None
    return KILLED if state.get("state") == RUNNING else state.get("exit_code")


def _reason(state: Facts, holder: Holder | None, alive: bool) -> str | None:
    if alive:
        return None
    return _why_killed(state, holder) if state.get("state") == RUNNING else state.get("reason") or None


def _why_killed(state: Facts, holder: Holder | None) -> str:
    """Return what is known of the end of a run that could not say a word."""
    if holder is not None and holder.is_of_this_machine:
        if _kernel_log_names(holder.pid):
            return f"{OUT_OF_MEMORY[0]}: the kernel's log says that it killed this process"
        before, now = state.get("out_of_memory_kills"), out_of_memory_kills()
        if before is not None and now is not None and now > before:
            return (
                f"{OUT_OF_MEMORY[1]}: the kernel has killed {now - before} process(es) here since the start"
            )
    if holder is not None and holder.memory_share is not None and holder.memory_share > FULL:
        return f"{OUT_OF_MEMORY[1]}: {holder.memory_share:.0%} was in use at the last sign of life"
    return "killed without a word (kill -9, the out-of-memory killer, or the machine went down)"


def _kernel_log_names(pid: int) -> bool:
    """Tell whether the kernel's log, where it may be read, says that a process was killed for the lack of memory."""
    try:
        log = subprocess.run(
            ["dmesg"], capture_output=True, text=True, timeout=KERNEL_LOG_TIMEOUT_S, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    return any(
        f"process {pid} " in line.lower() and "killed" in line.lower()
        for line in log.splitlines()
        if "memory" in line
    )


def _to_go(plan: Facts, logged: Facts, step: int) -> float | None:
    """Return the seconds to the end at the last speed."""
    speed, steps, batch_tokens = logged.get("train/tokens_per_s"), plan.get("steps"), plan.get("batch_tokens")
    if not speed or not isfinite(speed) or steps is None or batch_tokens is None:
        return None
    return max(0, steps - step) * batch_tokens / speed


def _process(holder: Holder | None, alive: bool) -> Facts | None:
    if holder is None:
        return None
    return {
        "host": holder.host,
        "pid": holder.pid,
        "job": holder.job,
        "alive": alive,
        "last_sign_of_life": holder.time,
        "memory_share": holder.memory_share,
    }


def _queue(job: str | None) -> str | None:
    """Return what SLURM says of a job, None where there is no job or no SLURM."""
    if not job:
        return None
    try:
        done = subprocess.run(
            ["squeue", "--noheader", "--jobs", job, "--format", "%T %r"],
            capture_output=True,
            text=True,
            timeout=QUEUE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return " ".join(done.stdout.split()) or "not in the queue"


def _stacks(folder: Path) -> list[Path]:
    """Return the files that the watchdog wrote."""
    return sorted(path for path in (folder / "stacks").glob("rank_*.txt") if path.stat().st_size > 0)


def _lines(facts: Facts) -> list[str]:
    """Return what is known of one run, for people."""
    rows = [
        ("run", facts["run"]),
        ("state", _state_for_people(facts)),
        ("step", _progress(facts)),
        ("loss", _measured(facts, "loss", ".4f")),
        ("speed", f"{_measured(facts, 'tokens_per_s', ',.0f')} tokens/s"),
        ("to go", _duration(facts["eta_s"])),
        ("checkpoint", _checkpoint_for_people(facts)),
        ("starts", f"{facts['starts']} ({facts['restarts']} by SLURM)"),
        ("process", _process_for_people(facts["process"])),
        ("queue", facts["queue"] or "-"),
    ]
    lines = [f"{name:<11} {value}" for name, value in rows]
    if facts["damaged"]:
        lines.append(f"{'damaged':<11} {', '.join(facts['damaged'])}")
    if facts["stacks"]:
        lines.append(f"{'stacks':<11} {facts['stacks'][0]}" + " …" * (len(facts["stacks"]) > 1))
    return [*lines, *_advice(facts)]


def _state_for_people(facts: Facts) -> str:
    code = _code(facts)
    code = f" (exit code {code})" if code else ""
    reason = f": {facts['reason']}" if facts["reason"] else ""
    return f"{facts['state']}{code}{reason}"


def _advice(facts: Facts) -> list[str]:
    """Return what to do now, if there is anything."""
    again = facts["command"]
    if facts["state"] in ("running", "done") or again is None:
        return []
    if (facts["reason"] or "").startswith(OUT_OF_MEMORY):
        return ["", "Ask for more memory (--mem), or lower --data.init_args.device_batch_rows; then:", again]
    return ["", f"The same command continues: {again}"]


def _progress(facts: Facts) -> str:
    steps = facts["steps"]
    if steps:
        return f"{facts['step']} of {steps} ({facts['step'] / steps:.1%})"
    return f"{facts['step']}{' of ?' if 'plan.json' in facts['damaged'] else ''}"


def _code(facts: Facts) -> str:
    """Return the exit code; "" where there is none, "?" where it is damaged."""
    if facts["exit_code"] is None:
        return "?" if "state.json" in facts["damaged"] else ""
    return str(facts["exit_code"])


def _no_checkpoint(facts: Facts) -> str:
    return "?" if "checkpoints" in facts["damaged"] else "none"


def _checkpoint_for_people(facts: Facts) -> str:
    checkpoint = facts["checkpoint"]
    if checkpoint is None:
        return _no_checkpoint(facts)
    state = checkpoint["problem"] or "size as receipted"
    age = _duration(time.time() - checkpoint["time"])
    return f"step {checkpoint['step']}, {age} old, {size_text(checkpoint['bytes'])}, {state}"


def _process_for_people(process: Facts | None) -> str:
    if process is None:
        return "-"
    job = f"job {process['job']}, " if process["job"] else ""
    age = _duration(time.time() - process["last_sign_of_life"])
    return f"{job}{process['pid']} on {process['host']}, {'alive' if process['alive'] else 'gone'}, seen {age} ago"


def _table(every: list[Facts]) -> str:
    """Return all runs, one a line."""
    if not every:
        return f"{base_dir() / 'runs'}: no run yet"
    rows = [("run", "state", "step", "loss", "tokens/s", "to go", "checkpoint")]
    for facts in every:
        checkpoint = facts["checkpoint"]
        rows.append(
            (
                facts["run"],
                facts["state"] + (f" ({_code(facts)})" if _code(facts) not in ("", "0") else ""),
                _progress(facts),
                _measured(facts, "loss", ".4f"),
                _measured(facts, "tokens_per_s", ",.0f"),
                _duration(facts["eta_s"]),
                f"step {checkpoint['step']}" if checkpoint else _no_checkpoint(facts),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _measured(facts: Facts, name: str, form: str) -> str:
    """Return a number of the metrics; "-" where there is none, "?" where it is damaged."""
    if facts[name] is None:
        return "?" if "metrics/train.jsonl" in facts["damaged"] else "-"
    return format(facts[name], form)


def _duration(seconds: float | None) -> str:
    """Return a time span as h:mm:ss."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=1)
