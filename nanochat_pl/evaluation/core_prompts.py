"""What CORE asks, byte for byte as nanochat does, and where in the ids the answers begin.

    shots, solved, a blank line after each ── the question ── delimiter ── continuation

A multiple choice is one prompt for each choice, a schema one for each context; language modeling has the prompt
without and with its continuation, in this order.

Source:
    nanochat's `core_eval.py` (prompts, seeds, where continuations begin).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np

from nanochat_pl.evaluation.core_bundle import CoreItem, CoreKind
from nanochat_pl.evaluation.row_plan import Continuation, count_in_common

ORDER_SEED = 1337
SHOTS_SEED = 1234  # plus the number of the item


def item_order(n: int) -> list[int]:
    """Return the numbers 0 to n - 1 in the order in which the items are asked."""
    order = list(range(n))
    Random(ORDER_SEED).shuffle(order)
    return order


def draw_shots(index: int, pool: int, count: int) -> list[int]:
    """Return the places, in the order of asking, of the items shown before item `index`; never its own.

    Args:
        index: its place.
        pool: items that shots are drawn from: places 0 to pool - 1, its own among them.
        count: shots, at most pool - 1.
    """
    drawn = Random(SHOTS_SEED + index).sample(range(pool - 1), count)
    return [place + (place >= index) for place in drawn]


def render_prompts(kind: CoreKind, delimiter: str, item: CoreItem, shots: Sequence[CoreItem]) -> list[str]:
    """Return the prompts of one question, one for each option; without and with its end where there are none."""
    shown = "".join(f"{_solved(kind, delimiter, shot)}\n\n" for shot in shots)
    if kind == "language_modeling":
        opening = shown + item.contexts[0].strip() + delimiter
        return [opening.strip(), opening + item.continuations[0]]
    return [
        shown + context + delimiter + continuation
        for context in item.contexts
        for continuation in item.continuations
    ]


def _solved(kind: CoreKind, delimiter: str, item: CoreItem) -> str:
    """Return a question with its right answer."""
    context = item.contexts[item.gold if kind == "schema" else 0]
    continuation = item.continuations[item.gold if kind == "multiple_choice" else 0]
    return (context.strip() if kind == "language_modeling" else context) + delimiter + continuation


def find_continuations(kind: CoreKind, prompts: Sequence[np.ndarray]) -> list[Continuation]:
    """Return what is to be scored of a question's prompts, given as ids.

    Choices begin where the prompts first differ, the continuation of a schema where all end alike. The end of a text
    begins where the ids of the prompt without it stop being those of the prompt with it: at its border as a rule,
    before it where the tokenizer merges across.
    """
    if kind == "language_modeling":
        return [Continuation(prompts[1], count_in_common(prompts))]
    if kind == "multiple_choice":
        start = count_in_common(prompts)
        return [Continuation(ids, start) for ids in prompts]
    in_common = count_in_common([ids[::-1] for ids in prompts])
    return [Continuation(ids, max(1, len(ids) - in_common)) for ids in prompts]


def crop(continuation: Continuation, context: int) -> Continuation:
    """Return the last `context` ids; what is left of the continuation is scored from the second of them on."""
    excess = len(continuation.ids) - context
    if excess <= 0:
        return continuation
    return Continuation(continuation.ids[excess:], max(1, continuation.start - excess))
