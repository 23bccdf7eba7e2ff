"""`doctor`: what is wrong with this machine, and the command that mends it. Neither torch nor lightning is imported."""

from __future__ import annotations

import json as json_
import sys
import threading
import time
from collections.abc import Callable

from nanochat_pl.commands import machine_checks as machine
from nanochat_pl.commands import surroundings_checks as surroundings
from nanochat_pl.commands.finding import Finding, fail, warn
from nanochat_pl.system.errors import Failure

PATIENCE_S = 20.0

CHECKS: dict[str, Callable[[], Finding]] = {
    "python": machine.python,
    "torch": machine.torch,
    "lightning": machine.lightning,
    "rustbpe": machine.tokenizer_crate,
    "compiler": machine.compiler,
    "gpu": machine.gpu,
    "memory": machine.main_memory,
    "shared memory": machine.shared_memory,
    "limits": machine.limits,
    "sandbox": machine.sandbox,
    "disk": surroundings.disk,
    "inodes": surroundings.inodes,
    "temporary": surroundings.temporary_folder,
    "data": surroundings.data,
    "tokenizers": surroundings.tokenizers,
    "offline": surroundings.offline,
    "slurm": surroundings.slurm,
    "port": surroundings.port,
    "encoding": surroundings.encoding,
    "clock": surroundings.clock,
}


def doctor(json: bool = False) -> None:
    """Check what a run needs, and print for each finding the command that mends it.

    Args:
        json: print JSON instead of a table.
    """
    met: list[Exception] = []
    findings = examined(CHECKS, met=met)
    print(_as_json(findings) if json else _table(findings))
    if met and "--debug" in sys.argv:
        raise met[0]
    failed = [name for name, finding in findings.items() if finding.state == "fail"]
    if failed:
        raise Failure(f"{len(failed)} of {len(findings)} checks failed: {', '.join(failed)}")


def examined(
    checks: dict[str, Callable[[], Finding]],
    patience_s: float = PATIENCE_S,
    met: list[Exception] | None = None,
) -> dict[str, Finding]:
    """Return what each check finds; a disk or a driver that does not answer is a finding too.

    Args:
        checks: by name.
        patience_s: seconds for all of them, which run side by side.
        met: takes what checks raised that went wrong themselves.
    """
    met = [] if met is None else met
    found: dict[str, Finding] = {}
    threads = {
        name: threading.Thread(
            target=lambda n=name, c=check: found.update({n: _checked(c, met)}), daemon=True
        )
        for name, check in checks.items()
    }
    for thread in threads.values():
        thread.start()
    deadline = time.monotonic() + patience_s
    for thread in threads.values():
        thread.join(max(0.0, deadline - time.monotonic()))
    silent = fail(
        f"no answer within {patience_s:.0f} s", "look at the disk, the driver or the file server itself"
    )
    return {name: found.get(name, silent) for name in checks}


def _checked(check: Callable[[], Finding], met: list[Exception]) -> Finding:
    """Return what a check finds; one that itself goes wrong is a finding too."""
    try:
        return check()
    except Exception as error:  # a doctor that dies of the first symptom helps nobody
        met.append(error)
        return warn(f"could not be checked: {type(error).__name__}: {error}", "python cli.py doctor --debug")


def _as_json(findings: dict[str, Finding]) -> str:
    return json_.dumps([{"check": name, **finding._asdict()} for name, finding in findings.items()], indent=1)


def _table(findings: dict[str, Finding]) -> str:
    """Return one line a check, and one below with the remedy."""
    width = max(map(len, findings))
    lines = []
    for name, finding in findings.items():
        lines.append(f"{finding.state:<4}  {name:<{width}}  {finding.found}")
        if finding.remedy:
            lines.append(f"{'':<{width + 6}}  -> {finding.remedy}")
    return "\n".join(lines)
