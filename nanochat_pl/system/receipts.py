"""Which checkpoints of a run are complete, as their receipts say; no checkpoint is opened, and torch is not needed.

A checkpoint without its receipt, which is written last, is incomplete and is never chosen. How both are written is
said in `training/checkpoint_io.py`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

from nanochat_pl.system.files import sha256_of

KINDS = {"step": int, "bytes": int, "sha256": str, "model": dict, "world_size": int}
KINDS |= {"start": str | None, "time": int | float | None}  # of later receipts only
STEP_FILE = re.compile(r"step_(\d+)\.ckpt")


class Receipt(NamedTuple):
    """What is known of one checkpoint without opening it."""

    path: Path
    step: int
    bytes: int
    sha256: str
    model: dict[str, int]
    world_size: int
    start: str | None
    time: float | None


class Found(NamedTuple):
    """The newest valid checkpoint, if any, and a sentence about each newer one that was passed over."""

    receipt: Receipt | None
    rejected: tuple[str, ...]


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the file of the checkpoint after `step` optimizer steps."""
    return folder / f"step_{step:08d}.ckpt"


def receipt_path(checkpoint: Path) -> Path:
    """Return the file that vouches for `checkpoint`."""
    return checkpoint.with_suffix(".json")


def receipts(folder: Path) -> list[Receipt]:
    """Return the complete checkpoints of `folder`, newest step first. Contents are not read."""
    files = [path for path in folder.glob("step_*.ckpt") if STEP_FILE.fullmatch(path.name)]
    found = [receipt for path in files if (receipt := _read_receipt(path)) is not None]
    return sorted(found, key=lambda receipt: receipt.step, reverse=True)


def _read_receipt(checkpoint: Path) -> Receipt | None:
    """Return what a receipt says; None if it is missing or damaged."""
    try:
        facts = json.loads(receipt_path(checkpoint).read_text())
        if not all(isinstance(facts.get(name), kind) for name, kind in KINDS.items()):
            return None
        return Receipt(
            checkpoint,
            facts["step"],
            facts["bytes"],
            facts["sha256"],
            facts["model"],
            facts["world_size"],
            facts.get("start"),
            facts.get("time"),
        )
    except (OSError, ValueError, AttributeError):
        return None


def newest_valid(folder: Path) -> Found:
    """Find the newest checkpoint whose size and sha256 are those of its receipt."""
    rejected: list[str] = []
    complete = receipts(folder)
    for path in sorted(set(folder.glob("step_*.ckpt")) - {receipt.path for receipt in complete}):
        rejected.append(f"{path.name} was never finished (no valid receipt)")
    for receipt in complete:
        problem = _problem(receipt)
        if problem is None:
            return Found(receipt, tuple(rejected))
        rejected.append(f"{receipt.path.name} {problem}")
    return Found(None, tuple(rejected))


def size_problem(receipt: Receipt) -> str | None:
    """Return what is wrong with a checkpoint's size, or None."""
    size = receipt.path.stat().st_size
    return f"has {size} bytes instead of {receipt.bytes}" if size != receipt.bytes else None


def _problem(receipt: Receipt) -> str | None:
    """Return what is wrong with a checkpoint's bytes, or None."""
    if problem := size_problem(receipt):
        return problem
    if sha256_of(receipt.path) != receipt.sha256:
        return "does not match its sha256"
    return None
