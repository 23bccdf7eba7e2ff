"""The ids of prompts, encoded once: kept below the base directory under the digest of what was encoded.

    cache/prompt_ids/3f/3f9a….safetensors     ids, each prompt without what it has in common with the one before

Prompts of one question differ in their last words only, so little is kept twice. A file that is missing, damaged or
cannot be written costs the time to encode anew, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from nanochat_pl.evaluation.row_plan import count_in_common
from nanochat_pl.system.files import atomic_write

FORMAT = 1


class Encoder(Protocol):
    """Whoever makes ids of texts; see `likelihood.Scorer`."""

    fingerprint: str

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text."""


def encode_once(encoder: Encoder, texts: Sequence[str], folder: Path) -> list[np.ndarray]:
    """Return the ids of each text, from the cache where they are in it.

    Args:
        encoder: its fingerprint vouches for equal ids.
        texts: one or more.
        folder: the cache.
    """
    digest = _digest(encoder.fingerprint, texts)
    path = folder / digest[:2] / f"{digest}.safetensors"
    with suppress(OSError, SafetensorError, KeyError, ValueError):
        return _unpack(load_file(path), len(texts))
    rows = encoder.encode(texts)
    with (
        suppress(OSError, SafetensorError),
        atomic_write(path) as temporary,
    ):  # a full disk is no reason to stop
        save_file(_pack(rows), temporary)
    return rows


def _digest(fingerprint: str, texts: Sequence[str]) -> str:
    digest = sha256(f"{FORMAT} {fingerprint} {len(texts)}".encode())
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def _pack(rows: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return all ids but those each row has in common with the one before, and where they belong."""
    shared = [0, *(count_in_common(pair) for pair in pairwise(rows))]
    rests = [row[count:] for row, count in zip(rows, shared, strict=True)]
    ids = np.concatenate(rests)
    narrow = np.uint16 if ids.max(initial=0) < 1 << 16 else np.uint32
    return {
        "ids": ids.astype(narrow),
        "lengths": np.array([len(rest) for rest in rests], np.int64),
        "shared": np.array(shared, np.int64),
    }


def _unpack(packed: dict[str, np.ndarray], count: int) -> list[np.ndarray]:
    """Undo `_pack`.

    Raises:
        ValueError, KeyError: these are not `count` rows.
    """
    lengths, shared = packed["lengths"], packed["shared"]
    if len(lengths) != count or len(shared) != count or lengths.sum() != len(packed["ids"]):
        raise ValueError("not the rows that were asked for")
    rows: list[np.ndarray] = []
    before = np.empty(0, np.uint32)
    for rest, common in zip(np.split(packed["ids"], lengths.cumsum()[:-1]), shared, strict=True):
        before = np.concatenate((before[:common], rest)).astype(np.uint32)
        rows.append(before)
    return rows
