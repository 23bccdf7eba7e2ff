"""The GPT: ids in, logits or loss out. Knows nothing of training, sampling or files.

    ids ─ wte ─ norm ─ [x + attn(norm(x)), x + mlp(norm(x))] x n_layer ─ norm ─ lm_head ─ softcap

Weights are fp32 masters. Under autocast the residual stream is in autocast's dtype; norms, rotary embeddings,
softcap and loss are computed in fp32 and rounded once.

Letters: B rows, T positions, C width, H query heads, K key/value heads, D head width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanochat_pl.model.attention import Past, cached_attention, causal_attention
from nanochat_pl.model.config import GPTConfig
from nanochat_pl.model.loss import softcapped_cross_entropy
from nanochat_pl.system.errors import BadInput

ROTARY_BASE = 10_000
SOFTCAP = 15.0


def norm(x: Tensor) -> Tensor:
    """Divide by the root mean square over the last dimension, in fp32 inside; shape and dtype stay."""
    with torch.autocast(x.device.type, enabled=False):  # it would answer, and keep its input, in fp32
        return F.rms_norm(x, (x.size(-1),))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[d], x[d + D/2]) by minus its angle; in fp32, rounded once to the dtype of `x`.

    Args:
        x: (B, T, H, D) queries or keys.
        cos: (T, 1, D/2) fp32, or (B, T, 1, D/2) where rows stand at different positions.
        sin: like `cos`.

    Returns:
        (B, T, H, D) in the dtype of `x`.

    Source:
        Su et al. 2021, arXiv:2104.09864.
    """
    first, second = x.chunk(2, dim=-1)  # (B, T, H, D/2)
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1).to(x.dtype)


def rotary_tables(sequence_len: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of position x base^(-2d/D), each (T, 1, D/2) fp32."""
    pairs = torch.arange(0, head_dim, 2, dtype=torch.float32)
    angles = torch.outer(torch.arange(sequence_len, dtype=torch.float32), ROTARY_BASE ** (-pairs / head_dim))
    return angles.cos()[:, None], angles.sin()[:, None]


class Attention(nn.Module):
    """Causal self-attention: rotary, then normalised queries and keys."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        kv_width = config.n_kv_head * config.head_dim
        self.c_q = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.c_k = nn.Linear(config.n_embd, kv_width, bias=False)
        self.c_v = nn.Linear(config.n_embd, kv_width, bias=False)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, past: Past | None = None) -> Tensor:
        """Return (B, T, C) for x (B, T, C), which comes after `past`."""
        q, k, v = (linear(x).unflatten(-1, (-1, self.head_dim)) for linear in (self.c_q, self.c_k, self.c_v))
        q, k = (norm(rotate(heads, cos, sin)) for heads in (q, k))  # (B, T, H or K, D)
        if past is None:
            y = causal_attention(q, k, v)  # (B, T, H, D)
        else:
            y = cached_attention(q, *past.update(self.layer, k, v), past.visible)
        return self.c_proj(y.flatten(-2))  # (B, T, C)


class MLP(nn.Module):
    """Four times wider, squared ReLU, back."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, C) for x (B, T, C)."""
        return self.c_proj(F.relu(self.c_fc(x)).square())


class Block(nn.Module):
    """Attention and MLP, each on the normalised stream and added to it."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, past: Past | None = None) -> Tensor:
        """Return (B, T, C) for x (B, T, C), which comes after `past`."""
        x = x + self.attn(norm(x), cos, sin, past)
        return x + self.mlp(norm(x))


class GPT(nn.Module):
    """The network. Initialised when built, except on the meta device: `to_empty` and `init_weights` follow there.

    Args:
        config: its shape.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        cos, sin = rotary_tables(config.sequence_len, config.head_dim)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        if not cos.is_meta:
            self.init_weights()

    @classmethod
    def on_meta(cls, config: GPTConfig) -> GPT:
        """Build the network without memory for its weights."""
        with torch.device("meta"):
            return cls(config)

    @classmethod
    def materialized(
        cls,
        config: GPTConfig,
        *,
        device: str | torch.device = "cpu",
        generator: torch.Generator | None = None,
    ) -> GPT:
        """Build the network on `device`, initialised; weights are never made anywhere else or twice."""
        gpt = cls.on_meta(config).to_empty(device=device)
        gpt.init_weights(generator)
        return gpt

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Give every weight and buffer its first value; equal seeds give equal weights on every device.

        Linear layers are N(0, 1/fan_in * min(1, fan_out/fan_in)), the embedding N(0, 1). Output layers are 0:
        each block begins as the identity, and the first loss is ln V.

        Args:
            generator: source of randomness on the CPU; None means torch's own.

        Source:
            Yang et al. 2023, arXiv:2310.17813 (the standard deviation of linear layers).
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Embedding):
                _fill_normal(module.weight, 1.0, generator)
            elif isinstance(module, nn.Linear):
                is_output = name.endswith(("c_proj", "lm_head"))
                _fill_normal(module.weight, 0.0 if is_output else _linear_std(module), generator)
        self.init_buffers()

    @torch.no_grad()
    def init_buffers(self) -> None:
        """Compute what is not in the state dict: the rotary tables."""
        cos, sin = rotary_tables(self.config.sequence_len, self.config.head_dim)
        self.cos.copy_(cos)
        self.sin.copy_(sin)

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return logits, or the loss where targets are given.

        Args:
            ids: (B, T) token ids, T at most `config.sequence_len`.
            targets: (B, T) ids to predict, -1 where not scored.

        Returns:
            Softcapped logits (B, T, V) fp32, or the mean loss over the scored targets, an fp32 scalar.

        Raises:
            BadInput: more positions than the context has.
        """
        x = self.hidden(ids)  # (B, T, C)
        if targets is not None:
            return softcapped_cross_entropy(
                x.flatten(0, 1), self.lm_head.weight, targets.flatten(), softcap=SOFTCAP
            )
        return self.logits(x)

    def hidden(self, ids: Tensor, past: Past | None = None) -> Tensor:
        """Return the final normalised hidden states.

        Args:
            ids: (B, T) token ids, T at most `config.sequence_len`.
            past: what the rows remember of the ids before these; it remembers these too afterwards.

        Returns:
            (B, T, C).

        Raises:
            BadInput: more positions than the context has.
        """
        length = ids.size(1)
        self._require_fits(length)
        places = slice(length) if past is None else past.positions
        cos, sin = self.cos[places], self.sin[places]  # (T, 1, D/2) or (B, T, 1, D/2)
        x = self.wte(ids)  # (B, T, C)
        x = norm(x.to(_stream_dtype(x)))
        for block in self.blocks:
            x = block(x, cos, sin, past)
        return norm(x)

    @torch.no_grad()
    def token_losses(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of every target, (B, T) fp32, 0 where it is -1; without gradient."""
        x = self.hidden(ids).flatten(0, 1)  # (B * T, C)
        losses = softcapped_cross_entropy(
            x, self.lm_head.weight, targets.flatten(), softcap=SOFTCAP, reduction="none"
        )
        return losses.view_as(targets)

    def logits(self, x: Tensor) -> Tensor:
        """Return softcapped logits (B, T, V); in fp32 throughout, for a bf16 product has steps of 1/16 above 8."""
        with torch.autocast(x.device.type, enabled=False):
            return SOFTCAP * torch.tanh(F.linear(x.float(), self.lm_head.weight.float()) / SOFTCAP)

    def _require_fits(self, length: int) -> None:
        """Refuse rows longer than the context."""
        if length > self.config.sequence_len:
            raise BadInput(
                f"ids: {length} positions, but the model's context is sequence_len={self.config.sequence_len}; "
                f"keep the last {self.config.sequence_len}"
            )


def _stream_dtype(x: Tensor) -> torch.dtype:
    """Return autocast's dtype where it is on, else that of `x`."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _linear_std(linear: nn.Linear) -> float:
    """Return the first standard deviation of a linear layer's weights."""
    return linear.in_features**-0.5 * min(1.0, (linear.out_features / linear.in_features) ** 0.5)


def _fill_normal(weight: Tensor, std: float, generator: torch.Generator | None) -> None:
    """Fill from N(0, std^2), drawn on the CPU whatever the device; 0 draws nothing."""
    if std == 0.0:
        weight.zero_()
    else:
        weight.copy_(torch.empty(weight.shape, device="cpu").normal_(0.0, std, generator=generator))
