"""The few collective operations the optimizer needs, on flat tensors, under the names this torch has."""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor

# torch 2.13 renamed these two; the former names warn there and are the only ones before.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


def start_reduce_scatter(output: Tensor, full: Tensor) -> dist.Work:
    """Begin to add up `full` over ranks, the range of this rank into `output`; wait for what is returned."""
    return _reduce_scatter(output, full, op=dist.ReduceOp.SUM, async_op=True)


def start_all_gather(full: Tensor, own: Tensor) -> dist.Work:
    """Begin to put every rank's `own` into `full`, in the order of ranks; wait for what is returned."""
    return _all_gather(full, own, async_op=True)


def send_to_each(outbox: Tensor, out_sizes: Sequence[int], in_sizes: Sequence[int]) -> Tensor:
    """Send each rank its range of `outbox` and return what each sent, in the order of ranks.

    Args:
        outbox: flat.
        out_sizes: elements for each rank.
        in_sizes: elements from each rank.
    """
    inbox = outbox.new_empty(sum(in_sizes))
    dist.all_to_all_single(inbox, outbox, list(in_sizes), list(out_sizes))
    return inbox


def joined_on_first(own: Tensor, sizes: Sequence[int]) -> Tensor | None:
    """Return the flat pieces of all ranks behind each other on rank 0, None on the others.

    Args:
        own: this rank's piece, flat.
        sizes: elements of every rank's piece.
    """
    is_first = dist.get_rank() == 0
    nothing = [0] * (len(sizes) - 1)
    joined = send_to_each(own, [own.numel(), *nothing], sizes if is_first else [0, *nothing])
    return joined if is_first else None


def added_up(value: Tensor) -> Tensor:
    """Return the sum of `value` over all ranks."""
    total = value.clone()
    dist.all_reduce(total)
    return total
