"""Checkpoints on disk: complete, verified, and at least one older one to fall back to.

    step_00000200.ckpt    torch.save of everything needed to resume; tensors, numbers, strings, lists, dicts only
    step_00000200.json    its receipt: step, bytes, sha256, and what shapes the model; written last
    last.ckpt             symbolic link to the newest complete one

A checkpoint without its receipt is incomplete and is never chosen. The bytes are hashed while they are written, so
a receipt speaks of what was meant to reach the disk, not of what was read back from a cache. When and why to save
is the business of `callbacks/step_checkpoint.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from nanochat_pl.system.errors import Failure
from nanochat_pl.system.files import atomic_write, force_to_disk, sha256_of, temporary_beside, write_json

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


class Found(NamedTuple):
    """The newest valid checkpoint, if any, and a sentence about each newer one that was passed over."""

    receipt: Receipt | None
    rejected: tuple[str, ...]


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's file access for checkpoints: streamed beside the target, forced to disk, renamed, receipted.

    A full disk must not end a month of training: a failed save leaves the older checkpoints alone, keeps the
    error in `error`, and returns; the callback that asked for the save looks there and decides.
    """

    def __init__(self) -> None:
        self.error: OSError | None = None
        self.facts: dict[str, Any] = {}

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write `checkpoint` to `path` and its receipt beside it."""
        path, self.error = Path(path), None
        try:
            written = _write(checkpoint, path)
            facts = {"step": checkpoint["global_step"], "bytes": written.bytes, "sha256": written.hexdigest()}
            facts |= {"time": time.time(), **self.facts}
            write_json(receipt_path(path), facts)
        except OSError as error:
            self.error = error

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint; tensors stay on the disk until they are copied, and no pickled code is run."""
        return torch.load(path, map_location=map_location or "cpu", weights_only=True, mmap=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint, receipt first, so that half-deleted means incomplete."""
        receipt_path(Path(path)).unlink(missing_ok=True)
        Path(path).unlink(missing_ok=True)


class _HashingFile:
    """A write-only file object that counts and hashes what passes through."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest, self.bytes = file, hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        self.bytes += len(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def _write(checkpoint: dict[str, Any], path: Path) -> _HashingFile:
    """Stream `checkpoint` to `path` without a second copy in memory.

    Raises:
        OSError: the disk refused; torch would hide that behind a RuntimeError about offsets.
    """
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        hashing = _HashingFile(file)
        try:
            torch.save(checkpoint, hashing)
        except RuntimeError:
            if hashing.error is None:
                raise
            raise hashing.error from None
    return hashing


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
    try:
        facts = json.loads(receipt_path(checkpoint).read_text())
        return Receipt(
            checkpoint,
            facts["step"],
            facts["bytes"],
            facts["sha256"],
            facts["model"],
            facts["world_size"],
            facts.get("start"),
        )
    except (OSError, ValueError, KeyError):
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


def _problem(receipt: Receipt) -> str | None:
    """Return what is wrong with a checkpoint's bytes, or None."""
    size = receipt.path.stat().st_size
    if size != receipt.bytes:
        return f"has {size} bytes instead of {receipt.bytes}"
    if sha256_of(receipt.path) != receipt.sha256:
        return "does not match its sha256"
    return None


def refuse_other_model(receipt: Receipt, model: Mapping[str, int]) -> None:
    """Refuse to resume weights of one shape into a model of another.

    Raises:
        Failure: a key of the model's configuration differs; the message shows both values.
    """
    differing = [key for key in sorted({*receipt.model, *model}) if receipt.model.get(key) != model.get(key)]
    if differing:
        changes = ", ".join(f"{key}={receipt.model.get(key)} -> {model.get(key)}" for key in differing)
        raise Failure(
            f"{receipt.path.parent.parent.name}: the checkpoint at step {receipt.step} is of another model: {changes}\n"
            "Restore these values to continue, or add --fresh to start over (the old run is moved aside)."
        )


def refuse_other_start(receipt: Receipt, start: str | None) -> None:
    """Refuse to continue a run whose first weights are not those it would start from today.

    Args:
        receipt: of its newest checkpoint.
        start: sha256 of the weights of the artifact a new run would start from; None for none.

    Raises:
        Failure: they differ.
    """
    if receipt.start != start:
        run = receipt.path.parent.parent.name
        raise Failure(
            f"{run}: started from weights {_short(receipt.start)}, but init_from has {_short(start)} now\n"
            "Add --fresh to start over from these (the old run is moved aside), or put the former artifact back."
        )


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "of its own"


def point_last_at(checkpoint: Path) -> None:
    """Make `last.ckpt` a link to `checkpoint`; readers see the old target or the new one."""
    link = checkpoint.with_name("last.ckpt")
    temporary = temporary_beside(link)
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(checkpoint.name)
    os.replace(temporary, link)
    force_to_disk(checkpoint.parent)


def require_free_space(folder: Path, checkpoint_bytes: int) -> None:
    """Refuse to start a run whose first two checkpoints would not fit.

    Raises:
        Failure: less than twice `checkpoint_bytes` is free where `folder` lies or will lie.
    """
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < 2 * checkpoint_bytes:
        raise Failure(
            f"{existing}: {free / 1e9:.2f} GB free, but two checkpoints need {2 * checkpoint_bytes / 1e9:.2f} GB\n"
            "Free some space there, or set NANOCHAT_BASE_DIR to a larger file system."
        )
