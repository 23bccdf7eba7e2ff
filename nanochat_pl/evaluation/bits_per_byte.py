"""Bits per byte: the loss of a language model in a unit that does not depend on its vocabulary.

The nats of every scored target are added up and divided by ln 2 times the bytes these targets stand for. Targets
of -1 and tokens without bytes (the special ones) count on neither side. Compare values only across equal
validation rows: packing and tokenizer shift them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


class BitsPerByte(Metric):
    """Total nats over total bytes, added up over batches and over ranks.

    Args:
        token_bytes: (V,) bytes each id stands for, 0 for special tokens.
    """

    higher_is_better = False
    full_state_update = False
    nats: Tensor
    bytes: Tensor
    token_bytes: Tensor

    def __init__(self, token_bytes: Sequence[int] | Tensor) -> None:
        super().__init__()
        self.register_buffer("token_bytes", torch.as_tensor(token_bytes, dtype=torch.int64), persistent=False)
        self.add_state("nats", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("bytes", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, losses: Tensor, targets: Tensor) -> None:
        """Add one batch.

        Args:
            losses: (B, T) nats of each target; ignored where the target is not scored.
            targets: (B, T) ids, -1 where not scored.
        """
        sizes = self.token_bytes[targets.clamp(min=0)] * (targets >= 0)  # (B, T)
        self.nats += torch.where(sizes > 0, losses, 0.0).double().sum()
        self.bytes += sizes.sum()

    def compute(self) -> Tensor:
        """Return bits per byte, a 0-d float64; infinite where no byte was scored."""
        if self.bytes == 0:
            return torch.full_like(self.nats, math.inf)
        return self.nats / (math.log(2) * self.bytes.double())
