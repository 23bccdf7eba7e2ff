"""The two forms in which other programs read a tokenizer: tiktoken's ranks and Hugging Face's `tokenizer.json`.

Pure functions between tokens in memory and text; which files there are and what vouches for them is said in
`encoding.py`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence


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
) -> str:
    """Return a `tokenizer.json` for the library `tokenizers`, which gives the same ids.

    Unlike our own encoding, that library reads the name of a special token inside a text as that token, unless
    its `encode_special_tokens` is set.

    Args:
        tokens: the bytes of each rank.
        merges: the two ids every token of two bytes or more is made of, in order of rank.
        pattern: regular expression that cuts text into the pieces no merge crosses.
        special_tokens: their names; their ids follow the tokens'.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

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
    return tokenizer.to_str(pretty=False)


def _letter_of_byte() -> list[str]:
    """Return the visible character GPT-2 writes for each byte: itself where it has a glyph, else one from U+0100 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    further = iter(range(0x100, 0x200))
    return [chr(byte if byte in visible else next(further)) for byte in range(256)]
