"""Small models none of whose weights is zero, so that every part of them shows in what they say."""

from __future__ import annotations

import torch

from nanochat_pl.model.config import GPTConfig
from nanochat_pl.model.gpt import GPT

SHAPES = [
    GPTConfig(sequence_len=16, vocab_size=265, n_layer=2, n_head=4, n_kv_head=2, n_embd=64),
    GPTConfig(sequence_len=16, vocab_size=265, n_layer=1, n_head=6, n_kv_head=1, n_embd=48),
    GPTConfig(sequence_len=16, vocab_size=270, n_layer=3, n_head=3, n_kv_head=3, n_embd=36),
]


def seeded(seed: int = 0) -> torch.Generator:
    """Return a generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def random_gpt(config: GPTConfig = SHAPES[0], seed: int = 0, std: float = 1.0) -> GPT:
    """Return a model; `std` is that of every layer's output given unit inputs."""
    gpt, generator = GPT(config), seeded(seed)
    for name, weight in gpt.named_parameters():
        scale = 1.0 if name == "wte.weight" else std * weight.size(1) ** -0.5
        torch.nn.init.normal_(weight, 0, scale, generator=generator)
    return gpt.eval().requires_grad_(False)
