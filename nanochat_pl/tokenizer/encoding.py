"""A tokenizer: text to ids and back, nine special tokens, and its files.

    tokenizer.json     for the library `tokenizers`
    ranks.tiktoken     for tiktoken; what `load` reads the tokens from
    token_bytes.json   bytes each id stands for, 0 for special tokens
    meta.json          pattern, special tokens, fingerprint, what it was trained on, sha256 of the other files

The ids of the special tokens follow those of the merges, and no text ever becomes one of them: a user who types
`<|bos|>` gets the ids of these seven characters. The work is done in Rust (`rustbpe/`); how a vocabulary is learned
stands in `train.py`, how other programs write one in `interchange.py`. Nothing here is pickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nanochat_pl._rustbpe import Bpe
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.files import complete_folder, write_text
from nanochat_pl.tokenizer.interchange import (
    from_ranks_file,
    from_tokenizer_json,
    merges_follow_ranks,
    to_ranks_file,
    to_tokenizer_json,
)

SPECIAL_TOKENS = (
    "<|bos|>",  # begins every document
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",  # the assistant calls the tool
    "<|python_end|>",
    "<|output_start|>",  # the tool answers
    "<|output_end|>",
)
FORMAT = 1
TOKENIZER_JSON, RANKS, TOKEN_BYTES, META = "tokenizer.json", "ranks.tiktoken", "token_bytes.json", "meta.json"
FILES = (TOKENIZER_JSON, RANKS, TOKEN_BYTES, META)
REMEDY = "Train it again: python cli.py tokenizer train --corpus NAME|DIR --vocab_size N"


class EncodedTexts(NamedTuple):
    """The ids of n texts, one after another.

    Attributes:
        ids: (tokens,) uint32.
        offsets: (n + 1,) int64; text i is `ids[offsets[i]:offsets[i + 1]]`.
    """

    ids: np.ndarray
    offsets: np.ndarray


class Tokenizer:
    """A byte-level BPE with special tokens.

    Args:
        bpe: tokens and pattern.
        trained_on: JSON-ready facts about the text it was trained on, kept in its files.
    """

    def __init__(self, bpe: Bpe, trained_on: Mapping[str, Any] | None = None) -> None:
        self._bpe = bpe
        self.trained_on = dict(trained_on or {})
        self.special_ids = {name: bpe.vocab_size + place for place, name in enumerate(SPECIAL_TOKENS)}
        self.bos_id = self.special_ids["<|bos|>"]
        self.stop_ids = frozenset({self.bos_id, self.special_ids["<|assistant_end|>"]})

    @classmethod
    def from_ranks(
        cls,
        ranks: Sequence[bytes] | Mapping[bytes, int],
        pattern: str,
        trained_on: Mapping[str, Any] | None = None,
    ) -> Tokenizer:
        """Build a tokenizer from a vocabulary.

        Args:
            ranks: bytes of every token in order of rank, or the rank of every token; without special tokens.
            pattern: regular expression that cuts text into the pieces no merge crosses.
            trained_on: facts about the text it was trained on.

        Raises:
            ValueError: a single byte is missing, a token is there twice, ranks have gaps, the pattern is invalid.
        """
        if isinstance(ranks, Mapping):
            if sorted(ranks.values()) != list(range(len(ranks))):
                raise ValueError(f"ranks of {len(ranks)} tokens must be 0 to {len(ranks) - 1}, each once")
            ranks = sorted(ranks, key=ranks.__getitem__)
        return cls(Bpe(list(ranks), pattern), trained_on)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to worker processes as tokens and pattern."""
        return Tokenizer.from_ranks, (self.tokens, self.pattern, self.trained_on)

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return self._bpe.vocab_size + len(SPECIAL_TOKENS)

    @property
    def pattern(self) -> str:
        """Regular expression that cuts text into the pieces no merge crosses."""
        return self._bpe.pattern

    @cached_property
    def tokens(self) -> list[bytes]:
        """Bytes of every token in order of rank, without special tokens."""
        return [token for token, _ in self._bpe.mergeable_ranks()]

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """(V,) int32: how many bytes each id stands for, 0 for special tokens."""
        return np.array([*map(len, self.tokens), *[0] * len(SPECIAL_TOKENS)], np.int32)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) over tokens, pattern and special tokens: equal for tokenizers that give equal ids."""
        digest = hashlib.sha256()
        for part in (self.pattern.encode(), *(name.encode() for name in SPECIAL_TOKENS), *self.tokens):
            digest.update(len(part).to_bytes(8, "little") + part)
        return digest.hexdigest()

    def encode(
        self, text: str | bytes, prepend: int | str | None = None, append: int | str | None = None
    ) -> list[int]:
        """Return the ids of a text.

        Args:
            text: anything; names of special tokens in it are text like any other. Bytes need not be UTF-8.
            prepend: id, or name of a special token, to put before.
            append: id, or name of a special token, to put after.
        """
        return [*self._as_ids(prepend), *self._bpe.encode(text), *self._as_ids(append)]

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[list[int]]:
        """Return the ids of each text; all cores work."""
        ids, offsets = self.encode_flat(texts)
        listed, ends = ids.tolist(), offsets.tolist()
        return [listed[start:end] for start, end in pairwise(ends)]

    def encode_flat(self, texts: Sequence[str | bytes], prepend_bos: bool = False) -> EncodedTexts:
        """Encode many texts into one array, the fast way to feed training; all cores work.

        Args:
            texts: the texts.
            prepend_bos: begin each with BOS.
        """
        ids, offsets = self._bpe.encode_batch(texts, self.bos_id if prepend_bos else None)
        return EncodedTexts(np.frombuffer(ids, np.uint32), np.frombuffer(offsets, np.int64))

    def encode_special(self, name: str) -> int:
        """Return the id of a special token.

        Raises:
            BadInput: there is none of this name.
        """
        if name not in self.special_ids:
            raise BadInput(f"no special token {name!r}\nChoose one of: {' '.join(SPECIAL_TOKENS)}")
        return self.special_ids[name]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; what is not UTF-8 becomes U+FFFD, a special token its name."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of ids; of a special token, its name.

        Raises:
            ValueError: an id is outside the vocabulary.
        """
        ids = [int(token) for token in ids]
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise ValueError(f"id {token} is outside the vocabulary of {self.vocab_size}")
        first_special = self._bpe.vocab_size
        parts = []
        for is_special, run in groupby(ids, lambda token: token >= first_special):
            if is_special:
                parts += [SPECIAL_TOKENS[token - first_special].encode() for token in run]
            else:
                parts.append(self._bpe.decode_bytes(list(run)))
        return b"".join(parts)

    def save(self, folder: Path) -> None:
        """Write the files of this tokenizer.

        A folder that holds nothing else appears complete or not at all and replaces an older tokenizer. Among
        files of others, such as a model's, each file is replaced by itself and the one that vouches for the
        others comes last.

        Args:
            folder: where to; its parent is created.

        Raises:
            Failure: the disk refuses.
        """
        folder = Path(folder)
        contents = self._contents()
        try:
            if folder.is_dir() and any(path.name not in FILES for path in folder.iterdir()):
                _write(folder, contents)
            else:
                with complete_folder(folder) as new:
                    _write(new, contents)
        except OSError as error:
            raise Failure(f"{folder}: could not be written: {error.strerror or error}") from error

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read a tokenizer that `save` wrote, or one of the same kind that Hugging Face's libraries wrote.

        Raises:
            Failure: a file is missing, cut short or altered; the message names it and how to make it again.
        """
        folder = Path(folder)
        if (folder / TOKENIZER_JSON).is_file() and not any(
            (folder / name).exists() for name in (RANKS, META)
        ):
            return cls._load_tokenizer_json(folder / TOKENIZER_JSON)
        meta = _read_meta(folder / META)
        contents = {name: _read_verified(folder / name, digest) for name, digest in meta["files"].items()}
        try:
            tokens = from_ranks_file(contents[RANKS].decode("ascii"))
            tokenizer = cls.from_ranks(tokens, meta["pattern"], meta["trained_on"])
        except ValueError as error:
            raise Failure(f"{folder / RANKS}: {error}\n{REMEDY}") from None
        if tokenizer.fingerprint != meta["fingerprint"] or meta["special_tokens"] != list(SPECIAL_TOKENS):
            raise Failure(f"{folder / META}: describes another tokenizer than {RANKS} beside it\n{REMEDY}")
        return tokenizer

    @classmethod
    def _load_tokenizer_json(cls, path: Path) -> Tokenizer:
        """Read a `tokenizer.json` that stands alone, with nothing to vouch for it but itself."""
        try:
            vocabulary = from_tokenizer_json(_read(path).decode("utf-8"))
            tokenizer = cls.from_ranks(vocabulary.tokens, vocabulary.pattern)
            is_ours = merges_follow_ranks(vocabulary, tokenizer._bpe.merges())
        except ValueError as error:
            raise Failure(f"{path}: {error}, so it cannot be read as a tokenizer of this project") from None
        if vocabulary.special_tokens != list(SPECIAL_TOKENS):
            raise Failure(
                f"{path}: its special tokens are not the nine of a conversation, in their order\n"
                f"They must be: {' '.join(SPECIAL_TOKENS)}"
            )
        if not is_ours:
            raise Failure(f"{path}: merges its tokens in another order than that of their ids")
        return tokenizer

    def to_json(self, begin_with_bos: bool = False) -> str:
        """Return the `tokenizer.json` for the library `tokenizers`.

        Args:
            begin_with_bos: let it put BOS before a text, unless told to add no special tokens.
        """
        first = "<|bos|>" if begin_with_bos else None
        return to_tokenizer_json(self.tokens, self._bpe.merges(), self.pattern, SPECIAL_TOKENS, first)

    def _as_ids(self, token: int | str | None) -> list[int]:
        if token is None:
            return []
        return [self.encode_special(token) if isinstance(token, str) else token]

    def _contents(self) -> dict[str, str]:
        """Return the text of every file; the last vouches for the others."""
        contents = {
            TOKENIZER_JSON: self.to_json(),
            RANKS: to_ranks_file(self.tokens),
            TOKEN_BYTES: json.dumps(self.token_bytes.tolist()),
        }
        meta = {
            "format": FORMAT,
            "vocab_size": self.vocab_size,
            "pattern": self.pattern,
            "special_tokens": list(SPECIAL_TOKENS),
            "fingerprint": self.fingerprint,
            "trained_on": self.trained_on,
            "files": {name: _sha256(text.encode()) for name, text in contents.items()},
        }
        return contents | {META: json.dumps(meta | {"sha256": _meta_digest(meta)}, indent=1) + "\n"}


def _write(folder: Path, contents: Mapping[str, str]) -> None:
    for name, text in contents.items():
        write_text(folder / name, text)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise Failure(f"{path}: {reason}, so there is no complete tokenizer here\n{REMEDY}") from None


def _read_verified(path: Path, digest: str) -> bytes:
    """Return the contents of a file that must have this sha256."""
    contents = _read(path)
    if _sha256(contents) != digest:
        raise Failure(f"{path}: damaged or altered; its sha256 is not the one in {META}\n{REMEDY}")
    return contents


def _read_meta(path: Path) -> dict[str, Any]:
    """Return a `meta.json` that is whole and of a format known here."""
    try:
        meta = json.loads(_read(path))
        digest = meta.pop("sha256")
        is_whole = digest == _meta_digest(meta) and set(meta["files"]) == set(FILES) - {META}
    except (ValueError, KeyError, TypeError, AttributeError):
        is_whole = False
    if not is_whole:
        raise Failure(f"{path}: damaged or altered\n{REMEDY}")
    if meta["format"] != FORMAT:
        raise Failure(f"{path}: format {meta['format']}; this version reads format {FORMAT}\n{REMEDY}")
    return meta


def _sha256(contents: bytes) -> str:
    return hashlib.sha256(contents).hexdigest()


def _meta_digest(meta: Mapping[str, Any]) -> str:
    """Return the sha256 of a `meta.json`'s content, whatever its spacing."""
    return _sha256(json.dumps(meta, sort_keys=True).encode())
