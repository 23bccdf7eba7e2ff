"""Tokenizers so plain that their ids can be read: one id a byte, special tokens from 256 on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from nanochat_pl.tokenizer.encoding import SPECIAL_TOKENS


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


class ChatByteTokenizer(ByteTokenizer):
    """With all special tokens, in their order: 256 is BOS, 261 and 262 frame a call, 263 and 264 its result."""

    special_ids = {name: 256 + place for place, name in enumerate(SPECIAL_TOKENS)}  # noqa: RUF012
    vocab_size = 256 + len(SPECIAL_TOKENS)

    def encode(self, text: str) -> list[int]:
        """Return the bytes of a text."""
        return list(text.encode())

    def encode_special(self, name: str) -> int:
        """Return the id of a special token."""
        return self.special_ids[name]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of ids; of a special token, its name."""
        return b"".join(
            bytes([token]) if token < 256 else SPECIAL_TOKENS[token - 256].encode() for token in ids
        )

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; what is not UTF-8 becomes U+FFFD."""
        return self.decode_bytes(ids).decode(errors="replace")
