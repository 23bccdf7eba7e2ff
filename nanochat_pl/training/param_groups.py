"""Who trains what: the one place that knows both the GPT's anatomy and the optimizer."""

from __future__ import annotations

from typing import Any

from torch import nn

from nanochat_pl.model.gpt import GPT
from nanochat_pl.optim.schedule import learning_rates


def param_groups(
    gpt: GPT,
    *,
    embedding_lr: float = 0.2,
    unembedding_lr: float = 0.004,
    matrix_lr: float = 0.02,
    weight_decay: float = 0.0,
    adam_betas: tuple[float, float] = (0.8, 0.95),
) -> list[dict[str, Any]]:
    """Return the groups for `MuonAdamW`: every parameter of `gpt` exactly once, with its name in `GPT.state_dict`.

    The two embeddings, whose rows stand each for one token, go to AdamW; all matrices between them to Muon.

    Args:
        gpt: the network.
        embedding_lr: AdamW's rate of the token embedding at width 768.
        unembedding_lr: AdamW's rate of the output matrix at width 768.
        matrix_lr: Muon's rate of the blocks' matrices at any width.
        weight_decay: decoupled decay of the blocks' matrices; the embeddings have none.
        adam_betas: decay of AdamW's two moments.
    """
    rates = learning_rates(
        gpt.config.n_embd, embedding_lr=embedding_lr, unembedding_lr=unembedding_lr, matrix_lr=matrix_lr
    )
    adamw = {"kind": "adamw", "betas": adam_betas, "eps": 1e-10, "weight_decay": 0.0}
    muon = {"kind": "muon", "momentum": 0.95, "weight_decay": weight_decay}
    groups = [
        {"name": "embedding"} | _named(gpt.wte, "wte") | adamw,
        {"name": "unembedding"} | _named(gpt.lm_head, "lm_head") | adamw,
        {"name": "matrix"} | _named(gpt.blocks, "blocks") | muon,
    ]
    grouped = sum(len(group["params"]) for group in groups)
    assert grouped == len(list(gpt.parameters())), "a parameter of GPT belongs to no group"
    return [group | {"lr": rates[group["name"]]} for group in groups]


def _named(module: nn.Module, prefix: str) -> dict[str, list[Any]]:
    """Return a module's parameters and, as torch's optimizers keep them, their names."""
    named = dict(module.named_parameters(prefix))
    return {"params": list(named.values()), "param_names": list(named)}
