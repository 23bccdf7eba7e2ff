"""What a GPT is said to cost is what torch counts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from nanochat_pl.model import accounting
from nanochat_pl.model.config import GPTConfig
from nanochat_pl.model.gpt import GPT
from nanochat_pl.model.loss import softcapped_cross_entropy

SHAPES = [
    GPTConfig(sequence_len=64, vocab_size=320, n_layer=2, n_head=4, n_kv_head=2, n_embd=64),
    GPTConfig(sequence_len=32, vocab_size=500, n_layer=3, n_head=4, n_kv_head=4, n_embd=128),
    GPTConfig(sequence_len=48, vocab_size=64, n_layer=1, n_head=6, n_kv_head=1, n_embd=96),
]


@pytest.mark.parametrize("depth", [4, 9, 12, 20, 26, 32])
@pytest.mark.parametrize("n_kv_head", [None, 1])
def test_parameters_are_torchs_count(depth, n_kv_head):
    config = GPTConfig.from_depth(depth, n_kv_head=n_kv_head)
    gpt = GPT.on_meta(config)
    assert accounting.parameters(config) == sum(weight.numel() for weight in gpt.parameters())
    assert accounting.parameters_by_part(config) == {
        "embedding": gpt.wte.weight.numel(),
        "unembedding": gpt.lm_head.weight.numel(),
        "matrices": sum(weight.numel() for weight in gpt.blocks.parameters()),
    }


def test_flops_per_token_are_nanochats():
    config = GPTConfig.from_depth(20)
    matrices = 560_988_160 - 65_536 * 1280
    assert accounting.flops_per_token(config) == 6 * matrices + 12 * 20 * 10 * 128 * 2048 == 3_491_758_080


def test_flops_per_token_fall_with_the_row():
    config = GPTConfig.from_depth(20)
    assert accounting.flops_per_token(config, 2048) == accounting.flops_per_token(config)
    saved = accounting.flops_per_token(config) - accounting.flops_per_token(config, 1024)
    assert saved == 12 * 20 * 1280 * 1024


@pytest.mark.parametrize("config", [shape for shape in SHAPES if shape.n_head == shape.n_kv_head], ids=str)
def test_flops_are_those_torch_counts_in_plain_attention(config, monkeypatch):
    """Torch counts two FLOPs per multiplication; of attention's scores the plain form computes all, as we count."""

    def plain_attention(q, k, v):
        scores = torch.einsum("bthd,bshd->bhts", q, k) * q.size(-1) ** -0.5
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
        return torch.einsum("bhts,bshd->bthd", scores.softmax(-1), v)

    monkeypatch.setattr("nanochat_pl.model.gpt.causal_attention", plain_attention)
    gpt, ids = GPT(config), torch.zeros(2, config.sequence_len, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        gpt(ids).sum().backward()  # the counter does not see the in-place products of the chunked loss
    assert counter.get_total_flops() == accounting.flops_per_token(config) * ids.numel()


def test_decoding_keeps_keys_and_values_of_every_layer():
    assert accounting.kv_bytes_per_token(GPTConfig.from_depth(20)) == 20 * 2 * 1280 * 2 == 102_400
    assert accounting.kv_bytes_per_token(GPTConfig.from_depth(20, n_kv_head=2)) == 20 * 2 * 256 * 2
    assert accounting.kv_bytes_per_token(GPTConfig.from_depth(4), bytes_per_value=4) == 4 * 2 * 256 * 4


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_weights_and_gradients_take_the_bytes_they_are_said_to(config):
    gpt = GPT(config)
    ids = torch.zeros(1, 4, dtype=torch.long)
    gpt(ids, ids).backward()
    assert accounting.weight_bytes(config) == sum(weight.nbytes for weight in gpt.parameters())
    assert accounting.gradient_bytes(config) == sum(weight.grad.nbytes for weight in gpt.parameters())


def test_optimizer_keeps_two_moments_for_embeddings_and_one_for_matrices():
    part = accounting.parameters_by_part(GPTConfig.from_depth(4))
    assert accounting.optimizer_bytes(GPTConfig.from_depth(4)) == 4 * (
        2 * part["embedding"] + 2 * part["unembedding"] + part["matrices"]
    )


def saved_bytes(function, gpt):
    """Return the bytes of floats autograd keeps for `function`, every storage once, weights and tables apart."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*gpt.parameters(), *gpt.buffers())}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if tensor.is_floating_point() and storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # alive, so that no address is used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = function()
    assert result.requires_grad
    return sum(nbytes for nbytes, _ in kept.values())


@pytest.mark.parametrize("config", SHAPES, ids=str)
@pytest.mark.parametrize("rows", [1, 3])
def test_activations_in_fp32_take_exactly_the_bytes_they_are_said_to(config, rows):
    gpt, ids = GPT(config), torch.zeros(rows, config.sequence_len, dtype=torch.long)
    measured = saved_bytes(lambda: gpt.hidden(ids), gpt)
    assert measured == accounting.activation_bytes(config, rows, config.sequence_len, bytes_per_value=4)


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_activations_in_eager_bf16_take_no_less_than_they_are_said_to(config):
    gpt, ids = GPT(config), torch.zeros(2, config.sequence_len, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16):
        measured = saved_bytes(lambda: gpt.hidden(ids), gpt)
    said = accounting.activation_bytes(config, 2, config.sequence_len)
    assert said <= measured <= 1.25 * said  # norms and rotary keep fp32 inputs where nothing is fused


def peak_bytes(function):
    """Return the most bytes that `function` held at once beyond what was there before, by the CPU's allocator."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        function()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@pytest.mark.parametrize(
    ("dtype", "bytes_per_value"), [(torch.float32, 4), (torch.bfloat16, 2)], ids=["fp32", "bf16"]
)
@pytest.mark.parametrize("vocab_size", [4096, 32_768])
def test_the_loss_peaks_at_the_bytes_it_is_said_to(dtype, bytes_per_value, vocab_size):
    config = GPTConfig(sequence_len=256, vocab_size=vocab_size, n_layer=1, n_head=2, n_kv_head=2, n_embd=64)
    rows = 4
    tokens = rows * config.sequence_len
    hidden = torch.randn(tokens, config.n_embd, dtype=dtype).requires_grad_()
    weight = torch.randn(vocab_size, config.n_embd).requires_grad_()
    targets = torch.zeros(tokens, dtype=torch.long)
    measured = peak_bytes(lambda: softcapped_cross_entropy(hidden, weight, targets))
    said = accounting.logits_bytes(config, rows, config.sequence_len, bytes_per_value)
    assert measured == pytest.approx(said, rel=0.05)


@settings(max_examples=200, deadline=None)
@given(tokens=st.integers(1, 10**7), vocab=st.integers(1, 300_000))
def test_a_chunk_fits_its_bytes_or_is_a_32nd_of_the_tokens(tokens, vocab):
    chunk = accounting.chunk_tokens(tokens, vocab)
    assert 1 <= chunk <= tokens
    assert -(-tokens // chunk) <= 32
    assert 4 * chunk * vocab <= 64 * 2**20 or chunk <= -(-tokens // 32)


def test_a_small_vocabulary_is_one_chunk_and_nanochats_micro_batch_is_32():
    assert accounting.chunk_tokens(64, 320) == 64
    assert accounting.chunk_tokens(32 * 2048, 65_536) == 2048
    assert accounting.chunk_tokens(2048, 65_536) == 256
