"""Checks of what is installed and what the machine has: Python, torch, compiler, GPU, memory, limits."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from nanochat_pl.commands.finding import Finding, fail, ok, warn
from nanochat_pl.sandbox.process import tier
from nanochat_pl.system.hardware import find_gpu, has_compiler
from nanochat_pl.system.memory import memory

OLDEST_PYTHON = (3, 10)
OLDEST_TORCH = (2, 10)  # earlier ones can be made to run code by a file of weights (CVE-2026-24747)
LIGHTNING_FROM, LIGHTNING_BELOW = (2, 6, 6), (2, 7)  # 2.6.2 and 2.6.3 were malicious
SMI_TIMEOUT_S = 10
LEAST_MEMORY, LEAST_SHARED_MEMORY = 4e9, 64e6
LEAST_OPEN_FILES = 1024
BUSY_SHARE = 0.1
OTHER_TORCH = ".venv/bin/uv pip install --python .venv/bin/python --reinstall torch --torch-backend auto"
OLDEST_DRIVER = {
    12: 525,
    13: 580,
}  # by CUDA's major version, after NVIDIA's notes on its minor version compatibility


def python() -> Finding:
    """Python itself."""
    found = f"{sys.version.split()[0]} at {sys.executable}"
    if sys.version_info < OLDEST_PYTHON:
        return fail(f"{found}; 3.10 is the oldest that works", "make clean; make install PYTHON=python3.12")
    return ok(found)


def torch() -> Finding:
    """torch and its build; torch itself is not imported, which takes seconds and may itself be what is broken."""
    try:
        installed = version("torch")
    except PackageNotFoundError:
        return fail("not installed", "make install")
    cuda = _cuda_of_torch()
    found = f"{installed}, {f'for CUDA {cuda}' if cuda else 'for CPUs only'}"
    if numbers(installed) < OLDEST_TORCH:
        return fail(f"{found}; 2.10 is the oldest that is safe", "make install")
    if gpus() and not cuda:
        return fail(f"{found}, but there is a GPU", OTHER_TORCH)
    if gpus() and cuda and _is_driver_older_than(cuda, gpus()[0].driver):
        return fail(f"{found}, which the GPU's driver {gpus()[0].driver} is too old for", OTHER_TORCH)
    return ok(found)


def _is_driver_older_than(cuda: str, driver: str) -> bool:
    major = (*numbers(driver), 0)[0]
    return 0 < major < OLDEST_DRIVER.get((*numbers(cuda), 0)[0], 0)


def _cuda_of_torch() -> str | None:
    """Return the version of CUDA that torch was built for, from its file of versions."""
    spec = find_spec("torch")
    file = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    if file is None or not file.exists():
        return None
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("cuda") and "=" in line:
            value = line.rpartition("=")[2].strip().strip("'\"")
            return None if value == "None" else value
    return None


def lightning() -> Finding:
    """Lightning, of the versions this project was tested with."""
    try:
        installed = version("lightning")
    except PackageNotFoundError:
        return fail("not installed", "make install")
    if not LIGHTNING_FROM <= numbers(installed) < LIGHTNING_BELOW:
        return fail(f"{installed}; it must be 2.6.6 or a later 2.6", "make install")
    return ok(installed)


def numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of a version such as `2.13.0+cpu`."""
    parts = text.split("+")[0].split(".")
    return tuple(int(part) for part in parts if part.isdigit())


def tokenizer_crate() -> Finding:
    """The tokenizer's trainer and encoder in Rust."""
    spec = find_spec("nanochat_pl._rustbpe")
    if spec is None:
        return fail("the crate rustbpe is not built", "make install")
    return ok(f"built, {Path(spec.origin or '').name}")


def compiler() -> Finding:
    """What `torch.compile` needs."""
    if has_compiler():
        return ok(os.environ.get("CXX") or "g++ and Python's headers")
    return warn("no C++ compiler or no Python.h; models are not compiled", "apt install g++ python3-dev")


class GpuState(NamedTuple):
    """What the driver says of one GPU; memory in MiB."""

    name: str
    total: int
    used: int
    driver: str


@cache
def gpus() -> tuple[GpuState, ...]:
    """Return the GPUs that the driver knows; none where there is no driver."""
    query = "--query-gpu=name,memory.total,memory.used,driver_version"
    try:
        done = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=SMI_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    return tuple(
        GpuState(name, int(total), int(used), driver)
        for name, total, used, driver in (row for row in rows if len(row) == 4)
        if total.isdigit() and used.isdigit()
    )


def gpu() -> Finding:
    """GPUs, and whether somebody uses them already."""
    found = gpus()
    if not found:
        if shutil.which("nvidia-smi"):
            return fail("nvidia-smi finds no GPU or does not answer", "nvidia-smi; in a job: sbatch --gpus 1")
        return warn("none; everything runs on the CPU", "on a cluster: srun --gpus 1 python cli.py doctor")
    first = found[0]
    text = f"{len(found)} x {first.name}, {first.total / 1024:.0f} GiB, driver {first.driver}"
    busy = [str(i) for i, one in enumerate(found) if one.used > BUSY_SHARE * one.total]
    if busy:
        return warn(f"{text}; in use already: {', '.join(busy)}", "nvidia-smi; export CUDA_VISIBLE_DEVICES=…")
    if find_gpu(first.name) is None:
        return warn(
            f"{text}; its peak is not known, so no utilization is shown", "add it to system/hardware.py"
        )
    return ok(text)


def main_memory() -> Finding:
    """Memory of the machine, or of the container."""
    found = memory()
    if found is None:
        return warn("unknown on this system", "free -g")
    text = f"{(found.limit_bytes - found.used_bytes) / 1e9:.1f} of {found.limit_bytes / 1e9:.1f} GB free"
    if found.limit_bytes - found.used_bytes < LEAST_MEMORY:
        return warn(text, "in a job: sbatch --mem 64G; else: ps aux --sort -rss | head")
    return ok(text)


def shared_memory() -> Finding:
    """/dev/shm, through which loaders and ranks of one machine hand tensors."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return warn("no /dev/shm", "--data.init_args.num_workers 0")
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.1f} GB free in /dev/shm"
    if free < LEAST_SHARED_MEMORY:
        return warn(text, "in a container: --shm-size 8g (docker), or --data.init_args.num_workers 0")
    return ok(text)


def limits() -> Finding:
    """What this user may open and start."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    memlock = "unlimited" if locked == resource.RLIM_INFINITY else f"{locked // 1024} KiB"
    text = f"{files} open files, {memlock} of locked memory"
    if files < LEAST_OPEN_FILES:
        return warn(text, "ulimit -n 65536")
    return ok(text)


def sandbox() -> Finding:
    """What holds back the programs a model writes (HumanEval)."""
    found = tier()
    if found.is_safe:
        return ok(found.reason)
    return warn(found.reason, "test HumanEval on Linux, x86_64 or aarch64")
