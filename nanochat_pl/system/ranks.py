"""What the ranks of one run tell each other about plain values. Tensors are the strategies' business."""

from __future__ import annotations

from typing import TypeVar

import torch.distributed

Value = TypeVar("Value")


def gathered(value: Value) -> list[Value]:
    """Return `value` of every rank, in the order of ranks; of this one alone where there is no process group."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values: list[Value] = [value] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values
