"""What a run ran on: code, machine, versions and an assumed price, noted each time `fit` starts.

A run may be stopped and continued on other machines, so `environment.json` keeps one entry a start. Nothing in it
names a host, a user or a path: report cards are made from it, and those are shared. What cannot be found out, such as
the commit of a copy without git, is None and never an error.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nanochat_pl import __version__
from nanochat_pl.system.files import write_json

ROOT = Path(__file__).resolve().parents[2]
GIT_TIMEOUT_S = 5.0
CODE = ("*.py", "*.md", "*.rs", "*.html", "*.toml", "*.sh")  # what nanochat's report counts
DOLLARS_PER_GPU_HOUR = {"H100": 3.00, "A100": 1.79, "V100": 0.55}  # nanochat's report, after Lambda Cloud
DOLLARS_PER_OTHER_GPU_HOUR = 2.00


def environment(device_type: str, devices: int) -> dict[str, Any]:
    """Return the facts of a start, as JSON can hold them.

    Args:
        device_type: what the run computes on, "cpu", "cuda", ….
        devices: how many of them, over all nodes.
    """
    import torch

    git, gpus = git_facts(ROOT), _gpus()
    is_priced = device_type == "cuda" and bool(gpus["gpus"])
    return {
        "time": time.time(),
        "git": git,
        "code": git and code_facts(ROOT),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cpus": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "device": device_type,
        "devices": devices,
        **gpus,
        "dollars_per_gpu_hour": dollars_per_gpu_hour(gpus["gpus"][0]) if is_priced else None,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "lightning": _version("lightning"),
            "nanochat_pl": __version__,
        },
    }


def record_start(path: Path, facts: dict[str, Any]) -> None:
    """Add the facts of a start to a run's `environment.json`; a damaged file begins anew."""
    write_json(path, {"starts": [*_starts(path), facts]})


def _starts(path: Path) -> list[Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["starts"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return found if isinstance(found, list) else []


def git_facts(folder: Path) -> dict[str, Any] | None:
    """Return commit, branch, first line of the message, and whether files were changed since.

    Returns:
        None where there is no git, or `folder` is not the top of a checkout: the commit of some project this
        package is installed within says nothing about it.
    """
    top = _git(folder, "rev-parse", "--show-toplevel")
    commit = _git(folder, "rev-parse", "--short", "HEAD")
    if not top or not commit or Path(top).resolve() != folder.resolve():
        return None
    status = _git(folder, "status", "--porcelain")
    return {
        "commit": commit,
        "branch": _git(folder, "rev-parse", "--abbrev-ref", "HEAD"),
        "message": (_git(folder, "log", "-1", "--format=%s") or "")[:80],
        "dirty": None if status is None else bool(status),
    }


def code_facts(folder: Path) -> dict[str, int] | None:
    """Return how many tracked source files a checkout has, their lines and characters; None without git."""
    listed = _git(folder, "ls-files", "-z", "--", *CODE)
    if listed is None:
        return None
    texts = []
    for name in filter(None, listed.split("\0")):
        try:
            texts.append((folder / name).read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue  # deleted, and not yet committed so
    return {
        "files": len(texts),
        "lines": sum(text.count("\n") for text in texts),
        "characters": sum(map(len, texts)),
    }


def _git(folder: Path, *words: str) -> str | None:
    """Return what git prints, None where it is missing, slow or refuses."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            timeout=GIT_TIMEOUT_S,
            check=True,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace").strip()


def _gpus() -> dict[str, Any]:
    """Return names and memory of this node's GPUs, and the CUDA torch was built for."""
    import torch

    if not torch.cuda.is_available():
        return {"gpus": [], "gpu_memory_bytes": None, "cuda": None}
    seen = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return {
        "gpus": [device.name for device in seen],
        "gpu_memory_bytes": sum(device.total_memory for device in seen),
        "cuda": torch.version.cuda,
    }


def dollars_per_gpu_hour(gpu_name: str) -> float:
    """Return an assumed hourly price of a GPU by the name its driver reports."""
    prices = (price for words, price in DOLLARS_PER_GPU_HOUR.items() if words in gpu_name)
    return next(prices, DOLLARS_PER_OTHER_GPU_HOUR)


def _cpu_name() -> str | None:
    """Return the CPU's name as the kernel reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, None) or platform.processor() or None


def _memory_bytes() -> int | None:
    """Return the memory of this machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
