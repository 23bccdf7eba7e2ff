"""A tokenizer so plain that its ids can be read: one id a byte, 256 is BOS."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class ByteTokenizer:
    """Ids are bytes; the only special token is BOS."""

    vocab_size = 257
    bos_id = 256
    fingerprint = "0" * 64

    def encode_flat(self, texts: Sequence[str], prepend_bos: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return all ids in one array, and where each text begins and the last one ends."""
        encoded = [[self.bos_id] * prepend_bos + list(text.encode()) for text in texts]
        offsets = np.cumsum([0, *map(len, encoded)])
        return np.array([token for ids in encoded for token in ids], np.uint32), offsets.astype(np.int64)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; BOS is nothing."""
        return bytes(token for token in ids if token < 256).decode()
