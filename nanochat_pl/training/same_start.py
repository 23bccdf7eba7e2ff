"""All ranks must begin a run with the same weights at the same step; nobody would notice later that they did not.

What is compared is a few bytes a rank: a hash of sums over the weights' bits.
"""

from __future__ import annotations

import hashlib
from collections import Counter

import torch
from torch import Tensor, nn

from nanochat_pl.system.errors import Failure
from nanochat_pl.system.ranks import gathered

INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


def require_same_weights(module: nn.Module) -> None:
    """Compare every rank's weights; all ranks must call this, and each of them raises.

    Raises:
        Failure: some ranks' weights differ from those of most; a weight that does is named.
    """
    sums = {name: _sum_of_bits(weight) for name, weight in module.state_dict().items()}
    digest = hashlib.sha256(repr(list(sums.items())).encode()).hexdigest()
    digests = gathered(digest)
    if len(set(digests)) == 1:
        return
    odd = _odd_ones(digests)
    everyones = gathered(sums)
    usual = next(rank for rank in range(len(digests)) if rank not in odd)
    differing = [name for name in sums if everyones[odd[0]].get(name) != everyones[usual].get(name)]
    raise Failure(
        f"{_named(odd)} of {len(digests)} began with other weights than the rest: {', '.join(differing[:2])}\n"
        "Every rank must run the same code and versions with the same seed_everything and read the same files."
    )


def require_same_step(step: int) -> None:
    """Compare where every rank begins.

    Raises:
        Failure: not all at the same step.
    """
    steps = gathered(step)
    if len(set(steps)) > 1:
        odd = _odd_ones(steps)
        usual = Counter(steps).most_common(1)[0][0]
        raise Failure(
            f"{_named(odd)} of {len(steps)} would continue from step {steps[odd[0]]}, the rest from step {usual}\n"
            "The run's folder must be the same on all nodes: set NANOCHAT_BASE_DIR to a shared file system."
        )


def _odd_ones(values: list[str] | list[int]) -> list[int]:
    """Return the ranks that differ from the majority; where there is none, from the lowest rank."""
    usual = Counter(values).most_common(1)[0][0]
    return [rank for rank, value in enumerate(values) if value != usual]


def _named(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:8])) + (", …" if len(ranks) > 8 else "")
    return f"rank {shown}" if len(ranks) == 1 else f"ranks {shown}"


def _sum_of_bits(weight: Tensor) -> int:
    """Return a number that depends on every bit of a tensor and on the order of its rows."""
    rows = weight.detach().contiguous().view(INTEGERS[weight.element_size()])
    rows = rows.view(len(weight), -1).sum(dim=1, dtype=torch.int64)
    odd = torch.arange(1, 2 * len(rows), 2, device=rows.device)
    return int((rows * odd).sum())
