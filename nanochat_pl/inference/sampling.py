"""Sampling: from logits to the next id, and a completion that recomputes everything for each id.

`sample_rows` is the engine's: every row has its own settings and its own randomness, a uniform number between 0 and 1
looked up in its distribution, so that what a row says does not depend on its neighbours. `complete` is the plain
truth the engine is checked against; it is fast enough for a few samples during training.

Letters: B rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from nanochat_pl.model.gpt import GPT
from nanochat_pl.system.errors import BadInput

LOWEST_TEMPERATURE = 1e-30  # already here only the largest can be drawn; 1 / 1e-40 is infinite in fp32
HIGHEST_TEMPERATURE = 1e30  # already here every id is drawn alike; beyond 3e38 fp32 ends
LARGEST_TOP_K = 2**63 - 1  # what an int64 holds


@dataclass(frozen=True)
class SamplingSettings:
    """How one prompt is continued.

    Args:
        temperature: divides the logits; 0 takes the largest, ties to the lowest id, and ignores the filters.
        top_k: only the k largest logits can be drawn, and those equal to the last of them; null means all.
        top_p: of these only the likeliest that together reach this probability; null or 1 means all.
        min_p: of these only those at least this fraction as likely as the likeliest; null or 0 means all.
        seed: equal seeds draw equal ids from equal prompts; null means a new one every time.
        max_new_tokens: ids to add at most, those of tool output included; null means up to the context's end.

    Raises:
        BadInput: a value is out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            _require_number(field.name, getattr(self, field.name))
        _require_sampling(self.temperature, self.top_k)
        if self.temperature > HIGHEST_TEMPERATURE:
            raise BadInput(
                f"temperature={self.temperature} draws every id alike; give a number, mostly between 0 and 2"
            )
        if (self.top_k or 0) > LARGEST_TOP_K:
            raise BadInput(f"top_k={self.top_k} is more than any vocabulary has; leave it out for all ids")
        _require_fraction("top_p", self.top_p, is_zero_allowed=False)
        _require_fraction("min_p", self.min_p, is_zero_allowed=True)
        for name in ("seed", "max_new_tokens"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise BadInput(f"{name}={value} is negative; give 0 or more, or leave it out")


def _require_number(name: str, value: object) -> None:
    """Refuse text, truth values and, where ids are counted, fractions."""
    kinds = (int,) if name in ("top_k", "seed", "max_new_tokens") else (int, float)
    if name != "temperature" and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise BadInput(f"{name}={value!r} is not {'an integer' if len(kinds) == 1 else 'a number'}")


def _require_fraction(name: str, value: float | None, *, is_zero_allowed: bool) -> None:
    if value is not None and not (0 < value <= 1 or (value == 0 and is_zero_allowed)):
        raise BadInput(
            f"{name}={value} is no fraction {'from' if is_zero_allowed else 'above'} 0 to 1; leave it out for none"
        )


class RowSettings:
    """The settings of all rows as columns (B, 1), on the device of their logits.

    Args:
        settings: one per row.
        device: where the logits are.
    """

    def __init__(self, settings: Sequence[SamplingSettings], device: str | torch.device = "cpu") -> None:
        def column(values: Sequence[float], dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)[:, None]

        self.is_greedy = all(row.temperature == 0 for row in settings)
        self.largest_k = max((row.top_k or 0 for row in settings), default=0)
        self.top_p_rows = [place for place, row in enumerate(settings) if (row.top_p or 1) < 1]
        self.has_min_p = any(row.min_p for row in settings)
        self.greedy = column([row.temperature == 0 for row in settings], torch.bool)
        self.temperature = column([max(row.temperature, LOWEST_TEMPERATURE) for row in settings])
        self.top_k = column([row.top_k or 0 for row in settings], torch.int64)
        self.top_p = column([row.top_p or 1.0 for row in settings], torch.float64)
        self.min_p = column([row.min_p or 0.0 for row in settings])


@torch.no_grad()
def sample_rows(logits: Tensor, settings: RowSettings, uniforms: Sequence[float]) -> Tensor:
    """Draw the next id of each row by its own settings.

    The ids that pass the filters stand in order of id on a line, each as long as it is likely; the uniform number
    of the row says where on the line to look.

    Args:
        logits: (B, V) fp32; what must not be drawn is -inf.
        settings: those of the rows.
        uniforms: (B,) numbers in [0, 1), multiples of 2^-32; rows without temperature ignore theirs.

    Returns:
        (B,) int64 ids; -1 where a logit of the row is not a number.
    """
    largest, drawn = logits.max(-1, keepdim=True)  # (B, 1)
    if not settings.is_greedy:
        drawn = torch.where(settings.greedy, drawn, _look_up(_filtered_odds(logits, settings), uniforms))
    return drawn.masked_fill(largest.isnan(), -1)[:, 0]


def _look_up(odds: Tensor, uniforms: Sequence[float]) -> Tensor:
    """Return the first id that ends beyond the row's point on its line, (B, 1)."""
    line = odds.cumsum(-1, dtype=torch.float64)  # (B, V)
    points = torch.tensor(uniforms, dtype=torch.float64, device=odds.device)[:, None] * line[:, -1:]
    return torch.searchsorted(line, points, right=True)


def _filtered_odds(logits: Tensor, settings: RowSettings) -> Tensor:
    """Return the probability of every id divided by that of the likeliest, (B, V); 0 where a filter drops it.

    A filter is a lowest odds: equal logits pass or fail together, whatever order a sort gives them.
    """
    odds = ((logits - logits.amax(-1, keepdim=True)) / settings.temperature).exp()  # the largest is 1
    if settings.largest_k:
        odds = _keep(odds, _lowest_of_top_k(odds, settings))
    if settings.top_p_rows:
        odds = _keep(odds, _lowest_of_top_p(odds, settings))
    return _keep(odds, settings.min_p) if settings.has_min_p else odds


def _keep(odds: Tensor, lowest: Tensor) -> Tensor:
    """Drop odds (B, V) below `lowest` (B, 1)."""
    return odds.masked_fill(odds < lowest, 0)


def _lowest_of_top_k(odds: Tensor, settings: RowSettings) -> Tensor:
    """Return the k-th largest odds of each row, (B, 1); 0 where the row has no k."""
    width = min(settings.largest_k, odds.size(-1))
    largest = odds.topk(width).values  # (B, width), falling
    lowest = largest.gather(-1, (settings.top_k - 1).clamp(0, width - 1))
    return lowest.masked_fill((settings.top_k == 0) | (settings.top_k > odds.size(-1)), 0)


def _lowest_of_top_p(odds: Tensor, settings: RowSettings) -> Tensor:
    """Return the odds of the last id needed to reach top_p, (B, 1); 0 where the row has none."""
    lowest = odds.new_zeros(odds.size(0), 1)
    rows = settings.top_p_rows
    falling = odds[rows].sort(-1, descending=True).values  # (rows, V)
    line = falling.cumsum(-1, dtype=torch.float64)
    needed = torch.searchsorted(line, settings.top_p[rows] * line[:, -1:])  # (rows, 1), the first to reach it
    needed = needed.clamp(max=odds.size(-1) - 1)  # beyond the end where odds are not numbers
    lowest[rows] = falling.gather(-1, needed)
    return lowest


@torch.no_grad()
def sample_next(
    logits: Tensor,
    temperature: float = 0.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw the next id of each row.

    Args:
        logits: (B, V) fp32.
        temperature: divides the logits; 0 takes the largest, ties to the lowest id.
        top_k: only the k largest logits of a row can be drawn; None means all.
        generator: source of randomness on the device of `logits`; None means torch's own.

    Returns:
        (B,) int64 ids.

    Raises:
        BadInput: `temperature` is negative or `top_k` below 1.
    """
    _require_sampling(temperature, top_k)
    if temperature == 0.0:
        return logits.argmax(-1)
    if top_k is not None and top_k < logits.size(-1):
        values, ids = logits.topk(top_k)  # (B, k)
        return ids.gather(-1, _draw(values, temperature, generator))[:, 0]
    return _draw(logits, temperature, generator)[:, 0]


def _draw(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """Return one column number per row, (B, 1); the largest logit becomes 0 first, so no temperature overflows."""
    logits = (logits - logits.amax(-1, keepdim=True)) / max(temperature, LOWEST_TEMPERATURE)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)


def _require_sampling(temperature: float, top_k: int | None) -> None:
    if math.isnan(temperature):
        raise BadInput("temperature=nan is no number; give 0 for the likeliest id or more for chance")
    if temperature < 0.0:
        raise BadInput(
            f"temperature={temperature} is negative; give 0 for the likeliest id or more for chance"
        )
    if top_k is not None and top_k < 1:
        raise BadInput(f"top_k={top_k} leaves no id to draw; give 1 or more, or leave it out")


@torch.no_grad()
def complete(
    gpt: GPT,
    ids: list[int],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
    stop_ids: Collection[int] = frozenset(),
) -> list[int]:
    """Continue `ids`; each new id sees the last `sequence_len` ids before it.

    Args:
        gpt: the model; runs eagerly even where it was compiled, for every length would compile anew.
        ids: at least one id, usually beginning with BOS.
        max_new_tokens: number of ids to add at most.
        temperature: see `sample_next`.
        top_k: see `sample_next`.
        generator: see `sample_next`.
        stop_ids: the completion ends before the first of these.

    Returns:
        The new ids only, without the stop id.

    Raises:
        BadInput: `ids` is empty, or see `sample_next`.
    """
    if not ids:
        raise BadInput("ids is empty; begin with at least the BOS id")
    _require_sampling(temperature, top_k)
    context, new = list(ids), []
    for _ in range(max_new_tokens):
        logits = _last_logits(gpt, context[-gpt.config.sequence_len :])  # (1, V)
        drawn = int(sample_next(logits, temperature, top_k, generator))
        if drawn in stop_ids:
            break
        context.append(drawn)
        new.append(drawn)
    return new


def _last_logits(gpt: GPT, ids: list[int]) -> Tensor:
    """Return the logits after the last of `ids`, (1, V)."""
    batch = torch.tensor([ids], device=gpt.lm_head.weight.device)  # (1, T)
    return gpt.logits(gpt.hidden(batch)[:, -1])
