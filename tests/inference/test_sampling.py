"""Sampling draws what it says, and a completion is its plain loop."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_pl.inference.sampling import complete, sample_next
from nanochat_pl.model.config import GPTConfig
from nanochat_pl.model.gpt import GPT
from nanochat_pl.system.errors import BadInput

CONFIG = GPTConfig(sequence_len=8, vocab_size=30, n_layer=1, n_head=2, n_kv_head=1, n_embd=32)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def gpt():
    gpt, generator = GPT(CONFIG), seeded(18)
    for weight in gpt.parameters():
        torch.nn.init.normal_(weight, 0, 0.5, generator=generator)
    return gpt.eval()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(-3, 3), min_size=6, max_size=6), min_size=1, max_size=4))
def test_without_temperature_the_largest_wins_and_ties_go_to_the_lowest_id(rows):
    drawn = sample_next(torch.tensor(rows, dtype=torch.float32))
    assert drawn.tolist() == [row.index(max(row)) for row in rows]
    assert drawn.dtype == torch.int64


def test_without_temperature_top_k_and_seed_change_nothing():
    logits = torch.randn(5, 20, generator=seeded())
    assert torch.equal(sample_next(logits, 0.0, top_k=3, generator=seeded(9)), logits.argmax(-1))


@pytest.mark.parametrize("top_k", [1, 2, 5, 19])
def test_only_the_k_largest_can_be_drawn_and_all_of_them_are(top_k):
    logits = torch.randn(20, generator=seeded()).expand(4000, 20)
    drawn = sample_next(logits, 3.0, top_k, seeded(1))
    assert set(drawn.tolist()) == set(logits[0].topk(top_k).indices.tolist())


@pytest.mark.parametrize("top_k", [20, 21, 10**6, None])
def test_a_top_k_of_the_whole_vocabulary_is_none(top_k):
    logits = torch.randn(50, 20, generator=seeded())
    assert torch.equal(sample_next(logits, 1.0, top_k, seeded(1)), sample_next(logits, 1.0, None, seeded(1)))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [None, 4])
def test_ids_are_drawn_as_often_as_the_tempered_softmax_says(temperature, top_k):
    draws = 50_000
    logits = torch.tensor([1.5, -0.5, 0.0, 2.0, 1.0, -2.0])
    odds = [math.exp(logit / temperature) for logit in logits.tolist()]
    if top_k:
        odds = [o if o >= sorted(odds)[-top_k] else 0.0 for o in odds]
    drawn = sample_next(logits.expand(draws, 6), temperature, top_k, seeded(3))
    counts = torch.bincount(drawn, minlength=6).tolist()
    expected = [draws * o / sum(odds) for o in odds]
    assert all(count == 0 for count, mean in zip(counts, expected, strict=True) if mean == 0)
    chi_square = sum((count - mean) ** 2 / mean for count, mean in zip(counts, expected, strict=True) if mean)
    assert chi_square < 20.5  # one in a thousand at 5 degrees of freedom; the seed is fixed


def test_each_row_is_drawn_from_its_own_logits():
    logits = torch.full((3, 5), -torch.inf)
    logits[range(3), [4, 0, 2]] = 1.0
    assert sample_next(logits, 1.0, None, seeded()).tolist() == [4, 0, 2]
    assert sample_next(logits, 1.0, 2, seeded()).tolist() == [4, 0, 2]


def test_equal_seeds_draw_equal_ids_and_others_others():
    logits = torch.zeros(200, 50)
    first, same, other = (sample_next(logits, 1.0, None, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("temperature", [5e-324, 1e-40, 1e-6])
def test_the_smallest_temperatures_draw_the_largest_logit(temperature):
    logits = torch.tensor([[-15.0, 14.0, 15.0, 0.0]])
    assert sample_next(logits, temperature, None, seeded()).item() == 2
    assert sample_next(logits, temperature, 3, seeded()).item() == 2


@pytest.mark.parametrize("temperature", [1e30, math.inf])
def test_the_largest_temperatures_draw_every_id_alike(temperature):
    drawn = sample_next(torch.tensor([-15.0, 15.0]).expand(1000, 2), temperature, None, seeded())
    assert 400 < drawn.sum() < 600


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": -0.1}, r"^temperature=-0\.1 is negative; give 0"),
        ({"temperature": math.nan}, r"^temperature=nan is no number"),
        ({"top_k": 0}, r"^top_k=0 leaves no id to draw; give 1 or more"),
        ({"top_k": -3, "temperature": 1.0}, r"^top_k=-3 leaves no id"),
    ],
)
def test_impossible_settings_are_refused_with_their_value(gpt, arguments, message):
    with pytest.raises(BadInput, match=message):
        sample_next(torch.zeros(1, 4), **arguments)
    with pytest.raises(BadInput, match=message):
        complete(gpt, [1], max_new_tokens=1, **arguments)
    with pytest.raises(BadInput, match=message):
        complete(gpt, [1], max_new_tokens=0, **arguments)


def plain_completion(gpt, ids, new):
    """Return the likeliest continuation, the whole row computed for every id."""
    ids = list(ids)
    for _ in range(new):
        ids.append(int(gpt(torch.tensor([ids[-CONFIG.sequence_len :]]))[0, -1].argmax()))
    return ids


def test_a_completion_is_the_plain_loop_also_beyond_the_context(gpt):
    start = [3, 1, 4]
    completion = complete(gpt, start, max_new_tokens=12)
    assert start + completion == plain_completion(gpt, start, 12)
    assert len(set(completion)) > 5  # no constant would do


def test_a_prompt_longer_than_the_context_keeps_its_end(gpt):
    prompt = list(range(20))
    assert complete(gpt, prompt, max_new_tokens=3) == complete(
        gpt, prompt[-CONFIG.sequence_len :], max_new_tokens=3
    )
    assert complete(gpt, prompt, max_new_tokens=3) == plain_completion(gpt, prompt, 3)[20:]


@pytest.mark.parametrize("settings_", [{"temperature": 1.0}, {"temperature": 0.7, "top_k": 5}])
def test_a_sampled_completion_repeats_with_its_seed(gpt, settings_):
    first, same, other = (
        complete(gpt, [1], max_new_tokens=15, generator=seeded(seed), **settings_) for seed in (4, 4, 5)
    )
    assert first == same != other
    assert len(first) == 15


def test_a_longer_completion_begins_with_the_shorter(gpt):
    short, long = (complete(gpt, [1], max_new_tokens=n, temperature=1.0, generator=seeded()) for n in (4, 10))
    assert long[:4] == short


@pytest.mark.parametrize("at", [0, 1, 5])
def test_a_completion_ends_before_a_stop_id(gpt, at):
    free = complete(gpt, [3], max_new_tokens=12, temperature=1.5, generator=seeded(1))
    stop = free[at]
    stopped = complete(
        gpt, [3], max_new_tokens=12, temperature=1.5, generator=seeded(1), stop_ids=[29 - stop, stop]
    )
    ends = [i for i, drawn in enumerate(free) if drawn in (stop, 29 - stop)]
    assert stopped == free[: ends[0]]


def test_a_stop_id_in_the_prompt_stops_nothing(gpt):
    assert (
        len(
            complete(
                gpt, [7, 7], max_new_tokens=3, stop_ids={7} - set(complete(gpt, [7, 7], max_new_tokens=3))
            )
        )
        == 3
    )


def test_no_new_tokens_is_an_empty_completion(gpt):
    assert complete(gpt, [1, 2], max_new_tokens=0) == []


def test_an_empty_prompt_is_refused(gpt):
    with pytest.raises(BadInput, match="ids is empty; begin with at least the BOS id"):
        complete(gpt, [], max_new_tokens=1)


def test_the_prompt_is_left_as_it_was(gpt):
    prompt = [5, 6]
    complete(gpt, prompt, max_new_tokens=4)
    assert prompt == [5, 6]


def test_a_compiled_model_completes_without_compiling(gpt, monkeypatch):
    """Every length would compile anew."""
    expected = complete(gpt, [1, 2], max_new_tokens=3)

    def never(*args):
        raise AssertionError("the compiled call was used")

    monkeypatch.setattr(gpt, "_compiled_call_impl", never)
    assert complete(gpt, [1, 2], max_new_tokens=3) == expected
