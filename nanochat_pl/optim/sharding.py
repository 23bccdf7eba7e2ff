"""How weights, gradients and moments lie on the ranks: three answers to the same few questions.

    Replicated    every rank has everything; gradients come averaged (one device, DDP)
    ZeroRanges    weights everywhere, gradients not yet averaged; a rank averages, updates and keeps the moments of an
                  equal range of the flattened parameters, and hands its weights to all
    Rows          weights, gradients and moments lie on the ranks row by row (FSDP2); gradients come averaged

`MuonAdamW` asks for this rank's part of a weight and of its gradient, updates it, and calls `publish`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nanochat_pl.optim.collectives import (
    added_up,
    joined_on_first,
    start_all_gather,
    start_reduce_scatter,
)
from nanochat_pl.optim.ownership import EqualRanges, Part, row_part


class Replicated:
    """Every rank, or the only one, has everything and communicates nothing."""

    rank, ranks = 0, 1

    def place(self, groups: Sequence[dict[str, Any]], owners: dict[Tensor, int]) -> None:
        """Decide what lies where, once all groups of the optimizer are known.

        Args:
            groups: the optimizer's.
            owners: which rank orthogonalizes a matrix.
        """

    def part(self, param: Tensor, rank: int) -> Part:
        """Return which elements of a parameter `rank` holds."""
        return Part(0, param.numel())

    def reduce(self, params: Sequence[Tensor]) -> None:
        """Begin to average the gradients of these parameters over ranks, where that is not done yet."""

    def gradient(self, param: Tensor) -> Tensor:
        """Return this rank's part of the averaged gradient, in the shape of `weight`."""
        return param.grad

    def weight(self, param: Tensor) -> Tensor:
        """Return this rank's part of a parameter; writing to it writes to the parameter."""
        return param

    def publish(self, params: Sequence[Tensor]) -> None:
        """Begin to give the other ranks what this one has updated of these parameters."""

    def finish(self) -> None:
        """Wait for what `publish` began."""

    def added_up(self, value: Tensor) -> Tensor:
        """Return the sum over ranks of something computed from parts."""
        return value

    def own_part(self, param: Tensor, whole: Tensor) -> Tensor:
        """Return a copy of this rank's part of a tensor shaped like a parameter, on the parameter's device."""
        own, weight = self.part(param, self.rank), self.weight(param)
        piece = whole.reshape(-1)[own.start : own.end]
        return piece.to(weight.device, weight.dtype, copy=True).view(weight.shape)

    def whole(self, param: Tensor, part: Tensor) -> Tensor | None:
        """Return, on rank 0, the tensor whose parts the ranks give; None on the others."""
        return part


class _Spread(Replicated):
    """What is common to the two that spread moments over ranks.

    Args:
        rank: this one.
        ranks: how many there are, all of the default process group.
    """

    def __init__(self, rank: int, ranks: int) -> None:
        self.rank, self.ranks = rank, ranks

    def added_up(self, value: Tensor) -> Tensor:
        return added_up(value)

    def whole(self, param: Tensor, part: Tensor) -> Tensor | None:
        """Return, on rank 0 and in its main memory, the tensor whose parts the ranks give; None on the others."""
        sizes = [self.part(param, rank).size for rank in range(self.ranks)]
        joined = joined_on_first(part.reshape(-1), sizes)
        return None if joined is None else joined.view(param.shape).cpu()


class Rows(_Spread):
    """Parameters are DTensors cut along their rows."""

    def part(self, param: Tensor, rank: int) -> Part:
        rows = param.shape[0]
        return row_part(rows, param.numel() // rows, rank, self.ranks)

    def gradient(self, param: Tensor) -> Tensor:
        return param.grad.to_local()

    def weight(self, param: Tensor) -> Tensor:
        return param.detach().to_local()


class ZeroRanges(_Spread):
    """Matrices are one vector, all else another, each cut into equal ranges: so are gradients, moments and work.

    Matrices follow each other by owner, so that most, often all, lie with the rank that orthogonalizes them.
    """

    def place(self, groups: Sequence[dict[str, Any]], owners: dict[Tensor, int]) -> None:
        by_kind: dict[Any, list[Tensor]] = defaultdict(list)
        for group in groups:
            for param in group["params"]:
                by_kind[group["kind"], param.dtype, param.device].append(param)
        self._regions = [
            Region(sorted(params, key=lambda param: owners.get(param, 0)), self.rank, self.ranks)
            for params in by_kind.values()
        ]
        self._region_of = {param: region for region in self._regions for param in region.numbers}

    def part(self, param: Tensor, rank: int) -> Part:
        return self._region_of[param].part(param, rank)

    def reduce(self, params: Sequence[Tensor]) -> None:
        for region, own in self._by_region(params):
            region.start_reducing(own)

    def gradient(self, param: Tensor) -> Tensor:
        return self._region_of[param].gradient(param)

    def weight(self, param: Tensor) -> Tensor:
        own = self.part(param, self.rank)
        return param.detach().view(-1)[own.start : own.end]

    def publish(self, params: Sequence[Tensor]) -> None:
        for region, own in self._by_region(params):
            region.start_gathering(own, [self.weight(param) for param in own])

    def finish(self) -> None:
        for region in self._regions:
            region.finish()

    def _by_region(self, params: Sequence[Tensor]) -> list[tuple[Region, list[Tensor]]]:
        found = [(region, [param for param in params if param in region.numbers]) for region in self._regions]
        return [(region, own) for region, own in found if own]


class Region:
    """Parameters behind each other as one vector, and its way through a step.

        gradients ─► vector ═ reduce-scatter ═► share ─► (update) ─► share ═ all-gather ═► vector ─► weights

    Args:
        params: in their order.
        rank: this rank.
        ranks: how many there are.
    """

    def __init__(self, params: Sequence[Tensor], rank: int, ranks: int) -> None:
        self.rank, self.ranks = rank, ranks
        self.numbers = {param: number for number, param in enumerate(params)}
        self.ranges = EqualRanges([param.numel() for param in params], ranks)
        self._work: dist.Work | None = None
        self._updated: list[Tensor] = []

    def part(self, param: Tensor, rank: int) -> Part:
        """Return which elements of a parameter `rank` holds."""
        return self.ranges.part(self.numbers[param], rank)

    def start_reducing(self, params: Sequence[Tensor]) -> None:
        """Begin to add up gradients."""
        self._vector = params[0].new_zeros(self.ranks * self.ranges.share)
        self._share = params[0].new_empty(self.ranges.share)
        gradients = [param.grad.reshape(-1) for param in params]
        torch._foreach_copy_([self._place(param) for param in params], gradients)
        self._work = start_reduce_scatter(self._share, self._vector)

    def gradient(self, param: Tensor) -> Tensor:
        """Return this rank's part of an averaged gradient."""
        if self._work is not None:
            self._work.wait()
            self._work = None
            self._share.div_(self.ranks)
        return self._place_in_share(param)

    def start_gathering(self, params: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
        """Begin to give all ranks this rank's part of updated weights; its gradients are not needed any more."""
        self._updated = list(params)
        torch._foreach_copy_([self._place_in_share(param) for param in params], weights)
        self._work = start_all_gather(self._vector, self._share)

    def finish(self) -> None:
        """Take over what all ranks have updated."""
        if self._work is None:
            return
        self._work.wait()
        flat = [param.detach().view(-1) for param in self._updated]
        torch._foreach_copy_(flat, [self._place(param) for param in self._updated])
        self._work, self._updated = None, []
        del self._vector, self._share

    def _place(self, param: Tensor) -> Tensor:
        start = self.ranges.offsets[self.numbers[param]]
        return self._vector[start : start + param.numel()]

    def _place_in_share(self, param: Tensor) -> Tensor:
        own = self.part(param, self.rank)
        start = self.ranges.offsets[self.numbers[param]] + own.start - self.rank * self.ranges.share
        return self._share[start : start + own.size] if own.size else self._share[:0]
