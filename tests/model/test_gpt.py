"""The GPT is the network it says it is: against a slow twin, exact counts, and what it promises of its weights."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import gpt as twin
from torch.utils._python_dispatch import TorchDispatchMode

from nanochat_pl.model import attention
from nanochat_pl.model import gpt as gpt_module
from nanochat_pl.model.attention import causal_attention
from nanochat_pl.model.config import GPTConfig
from nanochat_pl.model.gpt import GPT, norm, rotary_tables, rotate
from nanochat_pl.system.errors import BadInput

TINY = GPTConfig(sequence_len=24, vocab_size=50, n_layer=2, n_head=4, n_kv_head=2, n_embd=64)
SHAPES = [
    TINY,
    GPTConfig(sequence_len=9, vocab_size=33, n_layer=1, n_head=1, n_kv_head=1, n_embd=6),
    GPTConfig(sequence_len=16, vocab_size=17, n_layer=3, n_head=3, n_kv_head=3, n_embd=36),
    GPTConfig(sequence_len=16, vocab_size=40, n_layer=1, n_head=6, n_kv_head=1, n_embd=48),
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_gpt(config=TINY, seed=0, std=1.0):
    """A model none of whose weights is zero; `std` is that of every layer's output given unit inputs."""
    gpt, generator = GPT(config), seeded(seed)
    for name, weight in gpt.named_parameters():
        scale = 1.0 if name == "wte.weight" else std * weight.size(1) ** -0.5
        torch.nn.init.normal_(weight, 0, scale, generator=generator)
    return gpt


def random_ids(config=TINY, rows=2, length=None, seed=0):
    return torch.randint(config.vocab_size, (rows, length or config.sequence_len), generator=seeded(seed))


def bf16():
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize(
    ("depth", "count"),
    [(4, 36_700_160), (12, 185_597_952), (20, 560_988_160), (26, 1_081_999_360), (32, 1_879_048_192)],
)
def test_parameter_counts_are_nanochats(depth, count):
    assert sum(weight.numel() for weight in GPT.on_meta(GPTConfig.from_depth(depth)).parameters()) == count


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_logits_equal_those_of_the_slow_twin(config):
    gpt, ids = random_gpt(config, std=2.0), random_ids(config)
    weights = {name: value.double().numpy() for name, value in gpt.state_dict().items()}
    expected = twin.logits(weights, config.n_layer, config.head_dim, ids.numpy())
    logits = gpt(ids).detach()
    assert logits.dtype == torch.float32
    assert np.abs(expected).max() > 5  # the softcap bends
    np.testing.assert_allclose(logits.numpy(), expected, rtol=0, atol=5e-5)


def test_loss_is_the_cross_entropy_of_the_logits():
    gpt, ids, targets = random_gpt(), random_ids(), random_ids(seed=1)
    targets[0, :5] = -1
    expected = torch.nn.functional.cross_entropy(gpt(ids).flatten(0, 1), targets.flatten(), ignore_index=-1)
    torch.testing.assert_close(gpt(ids, targets), expected, rtol=1e-6, atol=1e-6)


def test_token_losses_are_zero_where_unscored_and_average_to_the_loss():
    gpt, ids, targets = random_gpt(), random_ids(), random_ids(seed=1)
    targets[0, :5] = -1
    losses = gpt.token_losses(ids, targets)
    assert losses.shape == ids.shape
    assert not losses.requires_grad
    assert torch.equal(losses == 0, targets == -1)
    torch.testing.assert_close(losses.sum() / (targets != -1).sum(), gpt(ids, targets), rtol=1e-6, atol=0)


@pytest.mark.parametrize("config", SHAPES, ids=str)
@pytest.mark.parametrize("context", [torch.enable_grad, bf16])
def test_the_first_loss_is_that_of_a_uniform_guess(config, context):
    ids = random_ids(config)
    with context():
        loss = GPT(config)(ids, random_ids(config, seed=1))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(config.vocab_size), rel=1e-6)


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_no_weight_and_no_buffer_is_left_without_a_first_value(config):
    gpt = GPT.on_meta(config).to_empty(device="cpu")
    tensors = dict(gpt.named_parameters()) | dict(gpt.named_buffers())
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.fill_(math.nan)
    gpt.init_weights()
    assert [name for name, tensor in tensors.items() if not tensor.isfinite().all()] == []


def test_a_model_from_meta_equals_one_built_in_place():
    built = GPT(TINY)
    built.init_weights(seeded(5))
    made = GPT.materialized(TINY, generator=seeded(5))
    assert {name: value.shape for name, value in made.state_dict().items()} == {
        name: value.shape for name, value in built.state_dict().items()
    }
    for ours, theirs in zip(
        (*made.parameters(), *made.buffers()), (*built.parameters(), *built.buffers()), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_equal_seeds_give_equal_weights_and_others_others():
    first, same, other = (GPT.materialized(TINY, generator=seeded(s)).state_dict() for s in (3, 3, 4))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["wte.weight"], other["wte.weight"])


def test_first_weights_have_the_stated_spread():
    config = GPTConfig(sequence_len=8, vocab_size=400, n_layer=1, n_head=4, n_kv_head=1, n_embd=256)
    weights = GPT.materialized(config, generator=seeded()).state_dict()
    expected = {
        "wte": 1.0,
        "blocks.0.attn.c_q": 1 / 16,
        "blocks.0.attn.c_k": 1 / 32,  # a quarter as many outputs as inputs
        "blocks.0.attn.c_v": 1 / 32,
        "blocks.0.attn.c_proj": 0.0,
        "blocks.0.mlp.c_fc": 1 / 16,
        "blocks.0.mlp.c_proj": 0.0,
        "lm_head": 0.0,
    }
    assert weights.keys() == {f"{name}.weight" for name in expected}
    for name, std in expected.items():
        assert weights[f"{name}.weight"].std().item() == pytest.approx(std, rel=0.02)
        assert weights[f"{name}.weight"].mean().abs().item() <= 0.02 * std


def test_weights_are_fp32_masters_and_rotary_tables_are_fp32_outside_the_state():
    gpt = GPT(TINY)
    assert {tensor.dtype for tensor in [*gpt.parameters(), *gpt.buffers()]} == {torch.float32}
    assert dict(gpt.named_buffers()).keys() == {"cos", "sin"}
    assert not {"cos", "sin"} & gpt.state_dict().keys()


@settings(max_examples=20, deadline=None)
@given(shape=st.sampled_from(SHAPES), seed=st.integers(0, 99), data=st.data())
def test_changing_an_id_changes_nothing_before_it(shape, seed, data):
    position = data.draw(st.integers(0, shape.sequence_len - 1))
    gpt, ids = random_gpt(shape, seed=seed), random_ids(shape, rows=1, seed=seed)
    changed = ids.clone()
    changed[0, position] = (ids[0, position] + 1) % shape.vocab_size
    before, after = gpt(ids)[0], gpt(changed)[0]
    assert torch.equal(before[:position], after[:position])
    assert not torch.equal(before[position], after[position])
    assert (before[position:] != after[position:]).any(-1).all()  # and every later position sees it


def test_a_row_does_not_see_the_other_rows():
    gpt, ids = random_gpt(), random_ids(rows=3)
    together, alone = gpt(ids), torch.cat([gpt(row[None]) for row in ids])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)


@pytest.mark.parametrize("n_kv_head", [1, 2, 3, 6])
def test_grouped_key_heads_equal_explicitly_repeated_ones(n_kv_head):
    q = torch.randn(2, 7, 6, 8, generator=seeded(1))
    k, v = torch.randn(2, 2, 7, n_kv_head, 8, generator=seeded(2))
    repeated = (heads.repeat_interleave(6 // n_kv_head, dim=2) for heads in (k, v))
    torch.testing.assert_close(causal_attention(q, k, v), causal_attention(q, *repeated), rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
def test_attention_equals_its_slow_twin(n_kv_head):
    q = torch.randn(2, 9, 4, 6, generator=seeded(1))
    k, v = torch.randn(2, 2, 9, n_kv_head, 6, generator=seeded(2))
    result = causal_attention(q, k, v)
    for row in range(2):
        expected = twin.attend(*(heads[row].double().numpy() for heads in (q, k, v)))
        np.testing.assert_allclose(result[row].numpy(), expected, rtol=0, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(length=st.integers(1, 40), half=st.integers(1, 24), seed=st.integers(0, 99))
def test_rotary_is_multiplication_by_a_complex_number_of_negative_angle(length, half, seed):
    x = torch.randn(2, length, 3, 2 * half, generator=seeded(seed))
    result = rotate(x, *rotary_tables(length, 2 * half))
    for row in range(2):
        expected = twin.rotate(x[row].double().numpy(), np.arange(length))
        np.testing.assert_allclose(result[row].numpy(), expected, rtol=0, atol=3e-5)


def test_rotary_turns_the_second_position_clockwise():
    one = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2).expand(1, 2, 1, 2)
    turned = rotate(one, *rotary_tables(2, 2))[0, 1, 0]
    torch.testing.assert_close(turned, torch.tensor([math.cos(1), -math.sin(1)]))


def test_scores_depend_on_distance_alone():
    q, k = torch.randn(2, 1, 1, 1, 16, generator=seeded()).expand(2, 1, 12, 1, 16)
    q, k = (rotate(heads, *rotary_tables(12, 16))[0, :, 0] for heads in (q, k))  # (T, D)
    scores = q @ k.T
    for distance in range(-11, 12):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=2e-5)


class _Heads:
    """Keeps what attention is given, and what left the layers before it."""

    def __init__(self, monkeypatch, gpt):
        self.q = self.k = self.projected = None
        gpt.blocks[0].attn.c_q.register_forward_hook(self.keep_projected)
        monkeypatch.setattr(gpt_module, "causal_attention", self.attend)

    def keep_projected(self, module, inputs, output):
        self.projected = output.detach()

    def attend(self, q, k, v):
        self.q, self.k = q.detach(), k.detach()
        return causal_attention(q, k, v)


def test_queries_are_rotated_first_and_normalised_last(monkeypatch):
    """A rotation keeps the norm, so in exact arithmetic both orders give the same; only rounding tells them apart.

    In bf16 each step rounds once: here the last of the twin's roundings must be that of the norm.
    """
    config = GPTConfig(sequence_len=64, vocab_size=50, n_layer=1, n_head=2, n_kv_head=2, n_embd=256)
    gpt = random_gpt(config)
    heads = _Heads(monkeypatch, gpt)
    with bf16():
        gpt(random_ids(config, rows=1))
    projected = heads.projected[0].unflatten(-1, (-1, config.head_dim))  # (T, H, D) bf16
    positions = np.arange(config.sequence_len)

    def rounded(x):
        return torch.from_numpy(x).bfloat16().double().numpy()

    x = projected.double().numpy()
    right = rounded(twin.normalize(rounded(twin.rotate(x, positions))))
    swapped = rounded(twin.rotate(rounded(twin.normalize(x)), positions))
    found = heads.q[0].double().numpy()
    assert (found == right).mean() > 0.999  # ties of a rounding apart
    assert (found == swapped).mean() < 0.9


@pytest.mark.parametrize("context", [torch.enable_grad, bf16])
def test_queries_and_keys_have_unit_root_mean_square(monkeypatch, context):
    gpt = random_gpt(TINY, std=3.0)
    heads = _Heads(monkeypatch, gpt)
    with context():
        gpt(random_ids())
    for x in (heads.q, heads.k):
        rms = x.float().square().mean(-1).sqrt()
        torch.testing.assert_close(rms, torch.ones_like(rms), rtol=0, atol=4e-3)


def test_norm_of_small_bf16_numbers_is_as_exact_as_of_fp32_ones():
    x = 1e-3 * torch.randn(5, 64, generator=seeded())
    for context in (torch.enable_grad, bf16):
        with context():
            small = norm(x.bfloat16())
        assert small.dtype == torch.bfloat16
        expected = twin.normalize(x.bfloat16().double().numpy())
        np.testing.assert_allclose(small.double().numpy(), expected, rtol=2**-8, atol=0)


@pytest.mark.gpu
def test_norm_on_a_gpu_keeps_bf16_under_autocast():
    """There autocast itself would answer in fp32; on the CPU it leaves the norm alone."""
    x = torch.randn(5, 64, device="cuda", dtype=torch.bfloat16)
    with torch.autocast("cuda", torch.bfloat16):
        assert norm(x).dtype == torch.bfloat16


@pytest.mark.parametrize("context", [torch.enable_grad, bf16])
def test_logits_are_fp32_to_the_last_bit_whatever_the_stream(context):
    """A softcap taken in bf16 could give only 16ths of a unit above 8: many ids would share the largest logit."""
    config = GPTConfig(sequence_len=8, vocab_size=4000, n_layer=1, n_head=2, n_kv_head=2, n_embd=64)
    gpt, ids = random_gpt(config, std=4.0), random_ids(config)
    with context():
        x, logits = gpt.hidden(ids), gpt(ids)
    expected = 15 * torch.tanh(x.double() @ gpt.lm_head.weight.double().t() / 15)
    assert logits.dtype == torch.float32
    assert 12 < logits.abs().max() < 15
    torch.testing.assert_close(logits.double(), expected, rtol=0, atol=2e-5)
    assert logits[0, 0].unique().numel() > 3900


def test_the_loss_caps_in_fp32_under_autocast_too():
    gpt, ids, targets = random_gpt(std=4.0), random_ids(), random_ids(seed=1)
    with bf16():
        losses, x = gpt.token_losses(ids, targets), gpt.hidden(ids)
    products = (x @ gpt.lm_head.weight.bfloat16().t()).double()  # bf16 products, then everything exact
    expected = torch.nn.functional.cross_entropy(
        (15 * torch.tanh(products / 15)).flatten(0, 1), targets.flatten(), reduction="none"
    )
    torch.testing.assert_close(losses.flatten().double(), expected, rtol=0, atol=1e-5)


class _Dtypes(TorchDispatchMode):
    """Records the dtypes of the factors of every matrix product."""

    def __init__(self):
        super().__init__()
        self.factors = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm):
            self.factors |= {arg.dtype for arg in args if isinstance(arg, torch.Tensor)}
        return function(*args, **(kwargs or {}))


def test_under_autocast_the_stream_and_its_products_are_bf16():
    gpt, ids = random_gpt(), random_ids()
    with bf16(), _Dtypes() as dtypes:
        x = gpt.hidden(ids)
    assert x.dtype == torch.bfloat16
    assert dtypes.factors == {torch.bfloat16}


def test_bf16_is_close_to_fp32():
    gpt, ids, targets = random_gpt(), random_ids(rows=4), random_ids(rows=4, seed=1)
    exact = gpt(ids, targets)
    exact.backward()
    gradients = {name: weight.grad.clone() for name, weight in gpt.named_parameters()}
    gpt.zero_grad()
    with bf16():
        rounded = gpt(ids, targets)
    rounded.backward()
    assert rounded.item() == pytest.approx(exact.item(), rel=2e-3)
    for name, weight in gpt.named_parameters():
        assert weight.grad.dtype == torch.float32
        difference = (weight.grad - gradients[name]).norm() / gradients[name].norm()
        assert difference < 0.03, name


def test_every_weight_gets_a_gradient():
    gpt = random_gpt()
    gpt(random_ids(rows=8), random_ids(rows=8, seed=1)).backward()
    for name, weight in gpt.named_parameters():
        used = weight.grad.abs().sum(-1) > 0
        assert used.all() if name != "wte.weight" else used.any(), name


def test_a_row_longer_than_the_context_is_refused_with_both_lengths():
    gpt = GPT(TINY)
    for call in (gpt, gpt.hidden, lambda ids: gpt.token_losses(ids, ids)):
        with pytest.raises(BadInput, match=r"25 positions, but .* sequence_len=24; keep the last 24"):
            call(random_ids(length=25))
    assert gpt(random_ids(length=24)).shape == (2, 24, 50)
    assert gpt(random_ids(length=1)).shape == (2, 1, 50)


def test_a_prefix_gives_the_logits_it_gives_within_a_longer_row():
    gpt, ids = random_gpt(), random_ids()
    torch.testing.assert_close(gpt(ids[:, :7]), gpt(ids)[:, :7], rtol=0, atol=2e-5)


def test_compiling_in_place_keeps_the_names_of_the_weights():
    gpt = GPT(TINY)
    names = list(gpt.state_dict())
    gpt.compile()
    assert list(gpt.state_dict()) == names
    assert [name for name, _ in gpt.named_parameters()] == names


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler here")
@pytest.mark.slow
def test_a_compiled_step_equals_an_eager_one():
    config = GPTConfig(sequence_len=16, vocab_size=32, n_layer=1, n_head=2, n_kv_head=1, n_embd=16)
    eager, compiled = random_gpt(config), random_gpt(config)
    compiled.compile()
    ids, targets = random_ids(config), random_ids(config, seed=1)
    targets[0, 3] = -1
    losses = [gpt(ids, targets) for gpt in (eager, compiled)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=0)
    for ours, theirs in zip(compiled.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_one_function_picks_the_kernel(monkeypatch):
    calls = []
    kernel = attention.F.scaled_dot_product_attention
    monkeypatch.setattr(
        attention.F, "scaled_dot_product_attention", lambda *a, **k: calls.append(k) or kernel(*a, **k)
    )
    random_gpt()(random_ids())
    assert [call["is_causal"] for call in calls] == [True] * TINY.n_layer
