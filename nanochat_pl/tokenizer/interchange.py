"""The two forms in which other programs read a tokenizer: tiktoken's ranks and Hugging Face's `tokenizer.json`.

Pure functions between tokens in memory and text; which files there are and what vouches for them is said in
`encoding.py`, what transformers wants beside `tokenizer.json` in `huggingface.py`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple


class Vocabulary(NamedTuple):
    """What a `tokenizer.json` says.

    Attributes:
        tokens: the bytes of each rank.
        merges: pairs of ids that become one, the first the most urgent.
        pattern: regular expression that cuts text into the pieces no merge crosses.
        special_tokens: their names; their ids follow the tokens'.
    """

    tokens: list[bytes]
    merges: list[tuple[int, int]]
    pattern: str
    special_tokens: list[str]


def to_ranks_file(tokens: Sequence[bytes]) -> str:
    """Return one line a token, its bytes in base64 and its rank, as `tiktoken.load` reads it.

    Args:
        tokens: the bytes of each rank.
    """
    return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))


def from_ranks_file(text: str) -> list[bytes]:
    """Return the bytes of each rank.

    Raises:
        ValueError: a line is not a token with its rank, or the ranks are not 0, 1, 2, ...
    """
    tokens = []
    for rank, line in enumerate(text.splitlines()):
        try:
            encoded, number = line.split()
            tokens.append(base64.b64decode(encoded, validate=True))
            in_order = int(number) == rank
        except (ValueError, binascii.Error):
            in_order = False
        if not in_order:
            raise ValueError(f"line {rank + 1} is not a token of rank {rank}")
    return tokens


def to_tokenizer_json(
    tokens: Sequence[bytes],
    merges: Sequence[tuple[int, int]],
    pattern: str,
    special_tokens: Sequence[str],
    first: str | None = None,
) -> str:
    """Return a `tokenizer.json` for the library `tokenizers`, which gives the same ids.

    Unlike our own encoding, that library reads the name of a special token inside a text as that token, unless
    its `encode_special_tokens` is set.

    Args:
        tokens: the bytes of each rank.
        merges: the two ids every token of two bytes or more is made of, in order of rank.
        pattern: regular expression that cuts text into the pieces no merge crosses.
        special_tokens: their names; their ids follow the tokens'.
        first: name of a special token that is to begin every text encoded with special tokens; None means none.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    letters = _letter_of_byte()
    written = ["".join(letters[byte] for byte in token) for token in tokens]
    vocabulary = {token: rank for rank, token in enumerate(written)}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, [(written[left], written[right]) for left, right in merges], fuse_unk=False)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(name, normalized=False, special=True) for name in special_tokens]
    )
    if first is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A",
            pair=f"{first} $A $B:1",
            special_tokens=[(first, len(tokens) + special_tokens.index(first))],
        )
    return tokenizer.to_str(pretty=False)


def from_tokenizer_json(text: str) -> Vocabulary:
    """Return what a `tokenizer.json` says, of this project or saved anew by another program.

    Raises:
        ValueError: it is damaged, or no byte-level BPE that cuts text by one regular expression.
    """
    try:
        value = json.loads(text)
        model, pattern = value["model"], _split_pattern(value)
        specials = {token["content"]: token["id"] for token in value["added_tokens"]}
        ranks = {token: rank for token, rank in model["vocab"].items() if specials.get(token) != rank}
        merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
        tokens = _bytes_of_ranks(ranks)
        if sorted(specials.values()) != list(range(len(tokens), len(tokens) + len(specials))):
            raise ValueError("the ids of its special tokens do not follow those of the tokens")
        merged = [(ranks[left], ranks[right]) for left, right in merges]
    except (KeyError, TypeError, AttributeError, UnicodeError, RecursionError) as error:
        raise ValueError(f"is damaged or of another kind ({type(error).__name__}: {error})") from None
    return Vocabulary(tokens, merged, pattern, sorted(specials, key=specials.__getitem__))


def merges_follow_ranks(vocabulary: Vocabulary, merges: Sequence[tuple[int, int]]) -> bool:
    """Tell whether merging by a vocabulary's own list is merging by rank, as tiktoken and this project do.

    Some programs list every pair that makes a token, not only the one training found; what counts is that a pair
    that makes a token of lower rank comes first.

    Args:
        vocabulary: what is to be judged.
        merges: the two ids every token of two bytes or more is made of, by rank.
    """
    if vocabulary.merges == list(merges):
        return True
    ranks = {token: rank for rank, token in enumerate(vocabulary.tokens)}
    made = [ranks.get(vocabulary.tokens[a] + vocabulary.tokens[b], -1) for a, b in vocabulary.merges]
    in_order = all(earlier <= later for earlier, later in pairwise(made))
    return in_order and min(made, default=0) >= 0 and set(merges) <= set(vocabulary.merges)


def _split_pattern(tokenizer: Mapping[str, Any]) -> str:
    """Return the regular expression by which a `tokenizer.json` cuts text.

    Raises:
        ValueError: text goes through more, or through less, than this and the bytes.
    """
    model, steps = tokenizer["model"], tokenizer["pre_tokenizer"].get("pretokenizers", [])
    only_merges = not any(
        model.get(key)
        for key in ("dropout", "byte_fallback", "continuing_subword_prefix", "end_of_word_suffix")
    )
    if model["type"] != "BPE" or tokenizer.get("normalizer") or not only_merges:
        raise ValueError("is no plain byte-level BPE")
    if [step["type"] for step in steps] != ["Split", "ByteLevel"]:
        raise ValueError("does not cut text by one regular expression")
    split, to_bytes = steps
    if split["behavior"] != "Isolated" or split.get("invert") or "Regex" not in split["pattern"]:
        raise ValueError("does not cut text by one regular expression")
    if to_bytes["add_prefix_space"] or to_bytes["use_regex"]:
        raise ValueError("changes text before it cuts it")
    return split["pattern"]["Regex"]


def _bytes_of_ranks(ranks: Mapping[str, int]) -> list[bytes]:
    """Return the bytes of the tokens in order of rank."""
    byte_of = {letter: byte for byte, letter in enumerate(_letter_of_byte())}
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ValueError(f"the ids of its {len(ranks)} tokens are not 0 to {len(ranks) - 1}")
    return [bytes(byte_of[letter] for letter in token) for token in sorted(ranks, key=ranks.__getitem__)]


def _letter_of_byte() -> list[str]:
    """Return the visible character GPT-2 writes for each byte: itself where it has a glyph, else one from U+0100 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    further = iter(range(0x100, 0x200))
    return [chr(byte if byte in visible else next(further)) for byte in range(256)]
