"""The slow twin of the Rust BPE: every count is made anew before every merge, every lookup goes over all tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise

import regex

Pair = tuple[int, int]
Words = Counter[tuple[int, ...]]


def words_of(texts: Iterable[str], pattern: str) -> Words:
    """Return how often each pretoken occurs, as ids of bytes."""
    return Counter(tuple(piece.encode()) for text in texts for piece in regex.findall(pattern, text))


def pair_counts(words: Words) -> Counter[Pair]:
    """Return how often each pair of neighbours occurs."""
    counts: Counter[Pair] = Counter()
    for word, count in words.items():
        for pair in pairwise(word):
            counts[pair] += count
    return counts


def merged(words: Words, pair: Pair, joined: int) -> Words:
    """Return the words with every occurrence of `pair`, from left to right, replaced by `joined`."""
    after: Words = Counter()
    for word, count in words.items():
        ids, at = [], 0
        while at < len(word):
            is_pair = word[at : at + 2] == pair
            ids.append(joined if is_pair else word[at])
            at += 2 if is_pair else 1
        after[tuple(ids)] += count
    return after


def learn_merges(words: Words, wanted: int, among_equals: Callable[[list[Pair]], Pair] = min) -> list[Pair]:
    """Return the pairs in the order they are merged, at most `wanted`.

    Args:
        words: how often each pretoken occurs.
        wanted: number of merges.
        among_equals: which of the most frequent pairs is merged.
    """
    merges: list[Pair] = []
    while len(merges) < wanted and (counts := pair_counts(words)):
        most = max(counts.values())
        pair = among_equals([pair for pair, count in counts.items() if count == most])
        words = merged(words, pair, 256 + len(merges))
        merges.append(pair)
    return merges


def tokens_of(merges: list[Pair]) -> list[bytes]:
    """Return the bytes of every token, single bytes first."""
    tokens = [bytes([byte]) for byte in range(256)]
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    return tokens


def encode_piece(piece: bytes, tokens: list[bytes]) -> list[int]:
    """Return the ids of one pretoken: the pair that makes the token of the lowest rank is joined first."""
    parts = [bytes([byte]) for byte in piece]
    while True:
        joined = [(tokens.index(a + b), at) for at, (a, b) in enumerate(pairwise(parts)) if a + b in tokens]
        if not joined:
            return [tokens.index(part) for part in parts]
        rank, at = min(joined)
        parts[at : at + 2] = [tokens[rank]]
