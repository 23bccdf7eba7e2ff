"""Checks of where a run would live: disks, data, environment, cluster, network, clock."""

from __future__ import annotations

import errno
import locale
import os
import re
import shlex
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path

from nanochat_pl.commands.finding import Finding, fail, ok, warn
from nanochat_pl.commands.machine_checks import gpus
from nanochat_pl.system.assets import CORPORA
from nanochat_pl.system.errors import Failure
from nanochat_pl.system.paths import base_dir, corpus_dir

ROOM_FOR_D20 = 12e9  # two checkpoints of 5.6 GB
LEAST_INODES = 10_000
LEAST_TEMPORARY = 1e9
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
MOST_SKEW_S = 5.0
SITE = Path(__file__).resolve().parents[2] / "slurm" / "rendered" / "site.sh"
MADE_IN = 2026  # a clock that shows an earlier year is wrong


def _standing(folder: Path) -> Path:
    """Return the nearest folder that exists."""
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def disk() -> Finding:
    """Where runs are written: may they be, is there room."""
    folder = _standing(base_dir())
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.1f} GB free for {base_dir()}"
    try:
        _try_to_write(folder)
    except OSError as error:
        return fail(f"{folder} cannot be written: {error.strerror}", _elsewhere(error.errno))
    if free < ROOM_FOR_D20:
        return warn(
            f"{text}; two checkpoints of the d20 need 12", "export NANOCHAT_BASE_DIR=/scratch/$USER/nanochat"
        )
    return ok(text)


def _try_to_write(folder: Path) -> None:
    """Write a block there and take it away again.

    Raises:
        OSError: the folder is missing or full, or may not be written.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"0" * 4096)
        file.flush()
        os.fsync(file.fileno())


def _elsewhere(number: int | None) -> str:
    """Return what to do about a disk that refuses: a quota is asked for by `quota`, the rest by `df`."""
    look = "quota -s" if number == errno.EDQUOT else f"df -h {base_dir()}"
    return f"{look}; export NANOCHAT_BASE_DIR=/scratch/$USER/nanochat"


def inodes() -> Finding:
    """How many files may still be made there."""
    facts = os.statvfs(_standing(base_dir()))
    if facts.f_files == 0:
        return ok("not counted by this file system")
    text = f"{facts.f_favail:,} files may still be made"
    if facts.f_favail < LEAST_INODES:
        return warn(text, f"du --inodes -d 2 {base_dir()} | sort -n | tail")
    return ok(text)


def temporary_folder() -> Finding:
    """TMPDIR: compilers and loggers write there, checkpoints do not; Python silently passes over one that is broken."""
    asked = os.environ.get("TMPDIR")
    name = f"TMPDIR={asked}" if asked else "the temporary folder"
    try:
        folder = Path(asked or tempfile.gettempdir())
        _try_to_write(folder)
    except OSError as error:
        return fail(f"{name} cannot be written: {error.strerror}", _another_tmpdir(asked, error.errno))
    free = shutil.disk_usage(folder).free
    same = folder.stat().st_dev == _standing(base_dir()).stat().st_dev
    text = f"{folder}, {free / 1e9:.1f} GB free, {'same' if same else 'other'} file system as the runs"
    if free < LEAST_TEMPORARY:
        return warn(f"{text}; the compiler needs 1 GB", _another_tmpdir(asked, errno.ENOSPC))
    return ok(text)


def _another_tmpdir(asked: str | None, number: int | None) -> str:
    """Return the command that gives a usable TMPDIR: the folder is made if only that is lacking, else another is."""
    if asked and number == errno.ENOENT:
        return f"mkdir -p {shlex.quote(asked)}"
    return f"export TMPDIR={shlex.quote(f'{base_dir()}/tmp')}; mkdir -p $TMPDIR"


def data() -> Finding:
    """The corpora that are here, by their manifests and sizes; hashes are the business of `data check`."""
    from nanochat_pl.system.corpus import open_corpus

    here = [name for name in CORPORA if corpus_dir(name).is_dir()]
    if not here:
        return warn(f"no corpus in {base_dir() / 'data'}", "python cli.py data list")
    told = []
    for name in here:
        try:
            corpus = open_corpus(corpus_dir(name))
        except Failure as failure:
            return fail(str(failure).splitlines()[0], "python cli.py data check --for CONFIG")
        told.append(f"{name} ({len(corpus.train)} + {len(corpus.val)} shards)")
    return ok(", ".join(told))


def tokenizers() -> Finding:
    """The tokenizers that are here."""
    folder = base_dir() / "tokenizers"
    complete = [path.parent.name for path in sorted(folder.glob("*/tokenizer.json"))]
    started = [path.name for path in sorted(folder.glob("*")) if path.is_dir() and path.name not in complete]
    if started:
        return fail(
            f"incomplete: {', '.join(started)}", f"python cli.py tokenizer train --corpus {started[0]}"
        )
    if not complete:
        return warn(f"none in {folder}", "python cli.py tokenizer train --corpus NAME")
    return ok(", ".join(complete))


def offline() -> Finding:
    """Whether libraries are told not to look for the network, which compute nodes lack."""
    missing = [name for name in OFFLINE if os.environ.get(name) != "1"]
    if not missing:
        return ok("libraries are told not to ask the network")
    if "SLURM_JOB_ID" in os.environ:
        return warn(
            f"{', '.join(missing)} not set in a job", f"export {' '.join(f'{name}=1' for name in missing)}"
        )
    return ok("network allowed; only data fetch uses it")


def slurm() -> Finding:
    """Whether a job's variables fit what Lightning makes of them."""
    job = os.environ.get("SLURM_JOB_ID")
    logs = _folder_of_logs(SITE)
    if logs and not Path(logs).is_dir():
        return fail(
            f"{logs} is missing; SLURM ends each job that is to write there", f"mkdir -p {shlex.quote(logs)}"
        )
    if job is None:
        has_slurm = shutil.which("sbatch") is not None
        return ok("not in a job; sbatch is here" if has_slurm else "no SLURM here")
    tasks = os.environ.get("SLURM_NTASKS_PER_NODE", "").split("(")[0]
    nodes = os.environ.get("SLURM_JOB_NUM_NODES", "1")
    text = f"job {job}, {nodes} node(s), {tasks or '?'} task(s) a node"
    if os.environ.get("SLURM_NTASKS") and not tasks:
        return warn(f"{text}: --ntasks alone is not understood", "sbatch --ntasks-per-node=GPUS")
    if gpus() and tasks.isdigit() and int(tasks) != len(gpus()):
        return warn(f"{text}, but {len(gpus())} GPU(s)", f"sbatch --ntasks-per-node={len(gpus())}")
    return ok(text)


def _folder_of_logs(site: Path) -> str | None:
    """Return where the rendered templates let SLURM write; None where nothing was rendered."""
    if not site.is_file():
        return None
    told = re.search(r'^LOGS="(.+)"$', site.read_text(encoding="utf-8"), re.MULTILINE)
    return told[1] if told else None


def port() -> Finding:
    """The port at which ranks meet."""
    asked = os.environ.get("MASTER_PORT", "0")
    if not asked.isdigit() or int(asked) > 65535:
        return fail(f"MASTER_PORT={asked} is no port", "unset MASTER_PORT")
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", int(asked)))
        except OSError as error:
            return fail(f"MASTER_PORT={asked}: {error.strerror}", "unset MASTER_PORT")
    return ok(f"MASTER_PORT={asked} is free" if asked != "0" else "a free one is taken")


def encoding() -> Finding:
    """Whether texts other than English can be printed and named."""
    found = locale.getpreferredencoding(False)
    if found.upper().replace("-", "") != "UTF8" or sys.getfilesystemencoding() != "utf-8":
        return warn(f"{found}; texts may not be printable", "export LC_ALL=C.UTF-8 PYTHONUTF8=1")
    return ok(found)


def clock() -> Finding:
    """The clock, against the one of the file system; only times in files depend on it."""
    with tempfile.NamedTemporaryFile(dir=_writable()) as file:
        skew = os.stat(file.name).st_mtime - time.time()
    text = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    if time.localtime().tm_year < MADE_IN:
        return warn(f"{text} cannot be", "timedatectl set-ntp true")
    if abs(skew) > MOST_SKEW_S:
        return warn(
            f"{text}; the file server's clock is {skew:+.0f} s off",
            "chronyc tracking (ask the administrators)",
        )
    return ok(text)


def _writable() -> Path:
    """Return where runs are written, or where temporary files are if that may not be written."""
    folder = _standing(base_dir())
    return folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())
