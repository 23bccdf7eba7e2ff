"""A shape follows from the depth, survives JSON, and is refused where it cannot be built."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat_pl.model.config import GPTConfig
from nanochat_pl.system.errors import BadInput


@pytest.mark.parametrize(
    ("depth", "n_head", "n_embd"),
    [(4, 2, 256), (8, 4, 512), (12, 6, 768), (20, 10, 1280), (26, 13, 1664), (32, 16, 2048)],
)
def test_width_is_64_per_block_in_heads_of_128(depth, n_head, n_embd):
    config = GPTConfig.from_depth(depth)
    assert config == GPTConfig(2048, 65536, depth, n_head, n_head, n_embd)
    assert config.head_dim == 128


@pytest.mark.parametrize(
    ("depth", "n_head", "n_embd"), [(1, 1, 128), (3, 2, 256), (9, 5, 640), (11, 6, 768), (13, 7, 896)]
)
def test_a_width_of_half_a_head_is_rounded_up_to_a_whole_one(depth, n_head, n_embd):
    config = GPTConfig.from_depth(depth)
    assert (config.n_head, config.n_embd, config.head_dim) == (n_head, n_embd, 128)


@given(depth=st.integers(1, 64), aspect_ratio=st.integers(1, 200), half_head=st.integers(1, 100))
def test_every_depth_gives_whole_heads_and_less_than_one_head_too_much(depth, aspect_ratio, half_head):
    head_dim = 2 * half_head
    config = GPTConfig.from_depth(depth, aspect_ratio=aspect_ratio, head_dim=head_dim)
    assert config.head_dim == head_dim
    assert 0 <= config.n_embd - depth * aspect_ratio < head_dim
    assert config.n_kv_head == config.n_head


def test_everything_but_the_width_can_be_chosen():
    config = GPTConfig.from_depth(
        6, vocab_size=320, sequence_len=64, aspect_ratio=16, head_dim=16, n_kv_head=2
    )
    assert config == GPTConfig(64, 320, 6, 6, 2, 96)


@given(st.integers(1, 40), st.integers(1, 10**6), st.integers(1, 10**5))
def test_a_shape_survives_json(depth, vocab_size, sequence_len):
    config = GPTConfig.from_depth(depth, vocab_size=vocab_size, sequence_len=sequence_len)
    assert GPTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_absent_keys_take_their_defaults():
    assert GPTConfig.from_dict({}) == GPTConfig()
    assert GPTConfig.from_dict({"vocab_size": 320}) == GPTConfig(vocab_size=320)


def test_a_shape_cannot_be_changed_afterwards():
    with pytest.raises(FrozenInstanceError):
        GPTConfig().n_layer = 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, r"^depth: 0 is not a positive integer; give 1 or more$"),
        ({"depth": -4}, r"^depth: -4 is not a positive integer"),
        ({"depth": 4.0}, r"^depth: 4\.0 is not a positive integer"),
        ({"depth": True}, r"^depth: True is not a positive integer"),
        ({"depth": "4"}, r"^depth: '4' is not a positive integer"),
        ({"depth": 4, "aspect_ratio": 0}, r"^aspect_ratio: 0 is not"),
        ({"depth": 4, "head_dim": 0}, r"^head_dim: 0 is not"),
        ({"depth": 4, "head_dim": 63}, r"^head_dim=63 \(n_embd=315 / n_head=5\) is odd"),
        ({"depth": 4, "vocab_size": 0}, r"^vocab_size: 0 is not"),
        ({"depth": 4, "sequence_len": -1}, r"^sequence_len: -1 is not"),
        ({"depth": 4, "n_kv_head": 0}, r"^n_kv_head: 0 is not"),
        ({"depth": 12, "n_kv_head": 4}, r"^n_kv_head=4 does not divide n_head=6; choose one of 1, 2, 3, 6$"),
        ({"depth": 4, "n_kv_head": 4}, r"^n_kv_head=4 does not divide n_head=2; choose one of 1, 2$"),
    ],
)
def test_an_impossible_depth_is_refused_with_its_value(arguments, message):
    with pytest.raises(BadInput, match=message):
        GPTConfig.from_depth(**arguments)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"n_head": 3, "n_kv_head": 3, "n_embd": 64},
            r"^n_head=3 does not divide n_embd=64; choose one of 1, 2",
        ),
        ({"n_head": 4, "n_kv_head": 4, "n_embd": 12}, r"^head_dim=3 \(n_embd=12 / n_head=4\) is odd"),
        ({"n_embd": None}, r"^n_embd: None is not a positive integer"),
        (
            {"n_layers": 4},
            r"^model configuration: unknown key 'n_layers'; known are sequence_len, vocab_size",
        ),
    ],
)
def test_impossible_fields_are_refused_with_their_values(fields, message):
    with pytest.raises(BadInput, match=message):
        GPTConfig.from_dict(fields)


def test_shapes_and_costs_are_known_without_torch():
    code = (
        "import sys; import nanochat_pl.model.accounting, nanochat_pl.model.config; "
        "sys.exit(', '.join(sorted({'torch', 'numpy', 'lightning'} & set(sys.modules))) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
