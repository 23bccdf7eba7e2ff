"""Every parameter of a GPT is trained exactly once, by the right kind, at the right rate."""

from __future__ import annotations

import math

import pytest
import torch

from nanochat_pl.model.config import GPTConfig
from nanochat_pl.model.gpt import GPT
from nanochat_pl.optim.muon_adamw import MuonAdamW
from nanochat_pl.training.param_groups import param_groups

CONFIG = GPTConfig.from_depth(2, vocab_size=64, sequence_len=16, aspect_ratio=24, head_dim=16, n_kv_head=1)


@pytest.fixture
def gpt():
    gpt = GPT(CONFIG)
    gpt.init_weights(torch.Generator().manual_seed(0))
    return gpt


def test_every_parameter_is_in_exactly_one_group(gpt):
    grouped = [id(param) for group in param_groups(gpt) for param in group["params"]]
    assert sorted(grouped) == sorted(id(param) for param in gpt.parameters())


def test_embeddings_go_to_adamw_and_matrices_to_muon(gpt):
    groups = {group["name"]: group for group in param_groups(gpt)}
    assert {name: group["kind"] for name, group in groups.items()} == {
        "embedding": "adamw",
        "unembedding": "adamw",
        "matrix": "muon",
    }
    assert groups["embedding"]["params"][0] is gpt.wte.weight
    assert groups["unembedding"]["params"][0] is gpt.lm_head.weight
    assert {param.ndim for param in groups["matrix"]["params"]} == {2}


def test_rates_and_settings_are_the_published_ones(gpt):
    groups = {group["name"]: group for group in MuonAdamW(param_groups(gpt, weight_decay=0.1)).param_groups}
    scale = math.sqrt(768 / CONFIG.n_embd)
    assert groups["embedding"]["lr"] == pytest.approx(0.2 * scale)
    assert groups["unembedding"]["lr"] == pytest.approx(0.004 * scale)
    assert groups["matrix"]["lr"] == 0.02
    assert groups["matrix"]["momentum"] == 0.95
    for name in ("embedding", "unembedding"):
        assert groups[name]["betas"] == (0.8, 0.95)
        assert groups[name]["eps"] == 1e-10
    decays = {name: group["initial_weight_decay"] for name, group in groups.items()}
    assert decays == {"embedding": 0.0, "unembedding": 0.0, "matrix": 0.1}
    assert all(group["initial_lr"] == group["lr"] for group in groups.values())


def test_a_parameter_without_a_group_is_noticed(gpt):
    gpt.forgotten = torch.nn.Linear(4, 4)
    with pytest.raises(AssertionError, match="belongs to no group"):
        param_groups(gpt)


def test_a_tiny_gpt_learns_a_row_by_heart(gpt):
    optimizer = MuonAdamW(param_groups(gpt), orthogonalize_dtype=torch.float32)
    ids = torch.randint(64, (2, 17), generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(30):
        loss = gpt(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(64), abs=1e-4)
    assert losses[-1] < 0.5
