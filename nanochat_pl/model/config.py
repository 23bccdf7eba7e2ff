"""The shape of a GPT as plain numbers.

Everything that depends on the shape alone (parameters, FLOPs, bytes) is in `accounting.py`; the network is in
`gpt.py`. No torch here, so planning and `--help` need not import it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from nanochat_pl.system.errors import BadInput


@dataclass(frozen=True)
class GPTConfig:
    """Everything needed to build the network.

    Args:
        sequence_len: longest context in tokens; the rotary tables reach this far.
        vocab_size: number of token ids, special ones included.
        n_layer: number of blocks, called depth where it is the one dial.
        n_head: number of query heads; divides `n_embd` into heads of even width.
        n_kv_head: number of key and value heads; divides `n_head`.
        n_embd: width of the residual stream.

    Raises:
        BadInput: a number is not a positive integer, or the heads do not divide.
    """

    sequence_len: int = 2048
    vocab_size: int = 65536
    n_layer: int = 20
    n_head: int = 10
    n_kv_head: int = 10
    n_embd: int = 1280

    def __post_init__(self) -> None:
        for key, value in asdict(self).items():
            _require_positive(key, value)
        if self.n_embd % self.n_head:
            raise BadInput(
                f"n_head={self.n_head} does not divide n_embd={self.n_embd}; {_divisors(self.n_embd)}"
            )
        if self.n_head % self.n_kv_head:
            raise BadInput(
                f"n_kv_head={self.n_kv_head} does not divide n_head={self.n_head}; {_divisors(self.n_head)}"
            )
        if self.head_dim % 2:
            raise BadInput(
                f"head_dim={self.head_dim} (n_embd={self.n_embd} / n_head={self.n_head}) is odd, but rotary "
                "embeddings turn pairs; choose an even head width"
            )

    @classmethod
    def from_depth(
        cls,
        depth: int,
        *,
        vocab_size: int = 65536,
        sequence_len: int = 2048,
        aspect_ratio: int = 64,
        head_dim: int = 128,
        n_kv_head: int | None = None,
    ) -> GPTConfig:
        """Derive the shape from the depth: width = depth x aspect_ratio, rounded up to whole heads.

        Args:
            depth: number of blocks.
            vocab_size: number of token ids.
            sequence_len: longest context in tokens.
            aspect_ratio: width per block.
            head_dim: width of one head, even.
            n_kv_head: key and value heads; None means as many as query heads.

        Raises:
            BadInput: a number is not a positive integer, or the heads do not divide.
        """
        for key, value in {"depth": depth, "aspect_ratio": aspect_ratio, "head_dim": head_dim}.items():
            _require_positive(key, value)
        n_head = -(-depth * aspect_ratio // head_dim)
        return cls(
            sequence_len=sequence_len,
            vocab_size=vocab_size,
            n_layer=depth,
            n_head=n_head,
            n_kv_head=n_head if n_kv_head is None else n_kv_head,
            n_embd=n_head * head_dim,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GPTConfig:
        """Rebuild what `to_dict` gave; absent keys take their defaults.

        Raises:
            BadInput: a key is unknown or a value impossible.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise BadInput(f"model configuration: unknown key {unknown[0]!r}; known are {', '.join(known)}")
        return cls(**values)

    def to_dict(self) -> dict[str, int]:
        """Return the fields as JSON-ready numbers."""
        return asdict(self)

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.n_embd // self.n_head


def _require_positive(key: str, value: object) -> None:
    """Refuse everything but the integers 1, 2, 3, ..."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise BadInput(f"{key}: {value!r} is not a positive integer; give 1 or more")


def _divisors(number: int) -> str:
    """Return the remedy for a count that must divide `number`."""
    small = [divisor for divisor in range(1, number + 1) if number % divisor == 0]
    return f"choose one of {', '.join(map(str, small[:12]))}{', ...' if len(small) > 12 else ''}"
