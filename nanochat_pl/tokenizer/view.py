"""A conversation's tokens for a person to look at: what is learned in green, what is only read in red."""

from __future__ import annotations

from itertools import groupby

from nanochat_pl.tokenizer.conversation import Rendered
from nanochat_pl.tokenizer.encoding import Tokenizer

LEARNED, READ, RESET = "\x1b[32m", "\x1b[31m", "\x1b[0m"


def view(tokenizer: Tokenizer, rendered: Rendered, *, color: bool, with_ids: bool = False) -> str:
    """Return tokens with `|` between them; without colours what is learned stands in «».

    Args:
        tokenizer: the one it was rendered with.
        rendered: ids and mask.
        color: whether to use a terminal's colours.
        with_ids: write each token's id behind it.
    """
    shown = []
    for learned, stretch in groupby(zip(rendered.ids, rendered.mask, strict=True), key=lambda pair: pair[1]):
        text = "|".join(_token(tokenizer, token, with_ids) for token, _ in stretch)
        if color:
            text = f"{LEARNED if learned else READ}{text}{RESET}"
        elif learned:
            text = f"«{text}»"
        shown.append(text)
    return "|".join(shown)


def _token(tokenizer: Tokenizer, token: int, with_id: bool) -> str:
    """Return a token on one line; what cannot be printed is written as an escape."""
    text = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in tokenizer.decode([token])
    )
    return f"{text}({token})" if with_id else text
