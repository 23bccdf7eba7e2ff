"""Checkpoints on disk: complete, verified, and at least one older one to fall back to.

    step_00000200.ckpt    torch.save of everything needed to resume; tensors, numbers, strings, lists, dicts only
    step_00000200.json    its receipt: step, bytes, sha256, and what shapes the model; written last
    last.ckpt             symbolic link to the newest complete one

A checkpoint without its receipt is incomplete and is never chosen; see `system/receipts.py`. The bytes are hashed
while they are written, so a receipt speaks of what was meant to reach the disk, not of what was read back from a
cache. When and why to save is the business of `callbacks/step_checkpoint.py`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from nanochat_pl.system.errors import Failure
from nanochat_pl.system.files import atomic_write, force_to_disk, temporary_beside, write_json
from nanochat_pl.system.printable import size_text
from nanochat_pl.system.receipts import Receipt, newest_valid, receipt_path, receipts

MARGIN_BYTES = 1 << 20  # for the receipt, and for what else is written meanwhile


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
        """Delete a checkpoint."""
        remove(Path(path))


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


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint, receipt first, so that half-deleted means incomplete."""
    receipt_path(checkpoint).unlink(missing_ok=True)
    checkpoint.unlink(missing_ok=True)


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
    """Refuse to start a run whose next checkpoint would not fit beside a complete one.

    Raises:
        Failure: where `folder` lies or will lie, less is free than two checkpoints need, those that are there counted.
    """
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    needed = 2 * checkpoint_bytes - sum(receipt.bytes for receipt in receipts(folder))
    if free < needed:
        raise Failure(
            f"{existing}: {size_text(free)} free, but two checkpoints need {size_text(needed)}\n"
            "Free some space there, or set NANOCHAT_BASE_DIR to a larger file system."
        )


def make_room(folder: Path) -> None:
    """Where the next checkpoint would not fit, give up the older ones first; the newest is never touched.

    Nothing is removed before the newest has been read and is what its receipt says.
    """
    complete = receipts(folder)
    if len(complete) < 2 or shutil.disk_usage(folder).free >= complete[0].bytes + MARGIN_BYTES:
        return
    if newest_valid(folder).receipt == complete[0]:
        for receipt in complete[1:]:
            remove(receipt.path)
