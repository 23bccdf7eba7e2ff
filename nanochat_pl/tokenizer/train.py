"""Texts to a tokenizer: what is read of them, and whether they suffice. The merges are learned in Rust.

Long documents are cropped, so that a few of them do not decide the vocabulary, and reading stops where enough was
read. Where texts come from is the caller's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nanochat_pl._rustbpe import train_from_iterator
from nanochat_pl.system.errors import BadInput
from nanochat_pl.tokenizer.encoding import SPECIAL_TOKENS, Tokenizer

SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+"
    r"|\p{N}{1,2}"  # GPT-4 has {1,3}; a small vocabulary should not spend its ids on numbers
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
SMALLEST_VOCAB = 256 + len(SPECIAL_TOKENS)
ROUND_TO = 64  # vocabularies of a multiple of this need no padding in the model


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, *, max_chars: int, doc_cap: int = 10_000
) -> Tokenizer:
    """Learn a tokenizer.

    Args:
        texts: documents, consumed once and never held as a whole.
        vocab_size: number of ids, the 256 single bytes and the special tokens included.
        max_chars: stop reading after the document that exceeds this many characters.
        doc_cap: characters read of each document.

    Returns:
        The tokenizer; `trained_on` has the numbers of documents and characters read.

    Raises:
        BadInput: vocab_size is too small, or larger than the texts support; the message suggests another.
    """
    for name, value, least in (
        ("vocab_size", vocab_size, SMALLEST_VOCAB),
        ("max_chars", max_chars, 1),
        ("doc_cap", doc_cap, 1),
    ):
        if value < least:
            raise BadInput(
                f"{name}={value} is too small; it must be at least {least}{_REASONS.get(name, '')}"
            )
    reading = _Reading(texts, max_chars, doc_cap)
    bpe = train_from_iterator(reading, vocab_size - len(SPECIAL_TOKENS), SPLIT_PATTERN)
    supported = bpe.vocab_size + len(SPECIAL_TOKENS)
    if supported < vocab_size:
        raise BadInput(
            f"vocab_size={vocab_size}: the {reading.characters:,} characters of {reading.documents:,} documents read "
            f"support only {supported} ids\nUse --vocab_size {_rounded(supported)}, or give more text."
        )
    facts = {"documents": reading.documents, "characters": reading.characters}
    return Tokenizer(bpe, facts | {"max_chars": max_chars, "doc_cap": doc_cap})


_REASONS = {"vocab_size": f": 256 single bytes and {len(SPECIAL_TOKENS)} special tokens"}


class _Reading:
    """Documents cropped, until enough was read; counts what it gave."""

    def __init__(self, texts: Iterable[str], max_chars: int, doc_cap: int) -> None:
        self.texts, self.max_chars, self.doc_cap = texts, max_chars, doc_cap
        self.documents = self.characters = 0

    def __iter__(self) -> Iterator[str]:
        for text in self.texts:
            cropped = text[: self.doc_cap]
            self.documents += 1
            self.characters += len(cropped)
            yield cropped
            if self.characters > self.max_chars:
                return


def _rounded(vocab_size: int) -> int:
    """Return the largest convenient vocabulary of at most this size."""
    return max(vocab_size - vocab_size % ROUND_TO, SMALLEST_VOCAB)
