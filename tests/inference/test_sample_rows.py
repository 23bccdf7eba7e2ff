"""Rows are drawn as a slow twin draws them, each for itself."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from reference import sampling as twin

from nanochat_pl.inference.sampling import RowSettings, SamplingSettings, sample_rows
from nanochat_pl.system.errors import BadInput

FILTERS = ("temperature", "top_k", "top_p", "min_p")


def settings_strategy():
    return st.builds(
        SamplingSettings,
        temperature=st.sampled_from([0.0, 0.1, 0.7, 1.0, 3.0]),
        top_k=st.sampled_from([None, 1, 2, 5, 40, 1000]),
        top_p=st.sampled_from([None, 0.05, 0.5, 0.9, 0.999, 1.0]),
        min_p=st.sampled_from([None, 0.0, 0.02, 0.3, 1.0]),
    )


def draw_by_twin(logits, settings, uniform):
    return twin.draw(logits, uniform, **{name: getattr(settings, name) for name in FILTERS})


@examples(max_examples=300, deadline=None)
@given(st.lists(settings_strategy(), min_size=1, max_size=6), st.integers(0, 10**6), st.booleans())
def test_rows_with_different_settings_draw_what_the_twin_draws(settings, seed, has_ties):
    rng = random.Random(seed)
    logits = torch.randn(len(settings), 40, generator=torch.Generator().manual_seed(seed)) * 3
    logits = logits.round() if has_ties else logits
    uniforms = [rng.getrandbits(32) / 2**32 for _ in settings]
    drawn = sample_rows(logits, RowSettings(settings), uniforms)
    assert drawn.dtype == torch.int64
    assert drawn.tolist() == [
        draw_by_twin(*row) for row in zip(logits.tolist(), settings, uniforms, strict=True)
    ]


@examples(max_examples=100, deadline=None)
@given(st.lists(settings_strategy(), min_size=2, max_size=5), st.integers(0, 10**6))
def test_a_row_draws_the_same_alone_and_among_others(settings, seed):
    rng = random.Random(seed)
    logits = torch.randn(len(settings), 300, generator=torch.Generator().manual_seed(seed)).mul(2).round()
    uniforms = [rng.getrandbits(32) / 2**32 for _ in settings]
    together = sample_rows(logits, RowSettings(settings), uniforms).tolist()
    for place, (own, uniform) in enumerate(zip(settings, uniforms, strict=True)):
        alone = sample_rows(logits[place : place + 1], RowSettings([own]), [uniform])
        assert alone.tolist() == [together[place]]


@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(temperature=0.7),
        SamplingSettings(temperature=1.3, top_k=3),
        SamplingSettings(top_p=0.8),
        SamplingSettings(min_p=0.2),
    ],
    ids=str,
)
def test_evenly_spread_numbers_draw_ids_in_proportion_to_their_probability(settings):
    """No chance: of n numbers at equal distances an id gets n times its probability, one more or less."""
    draws, logits = 5000, [1.5, -0.5, 0.0, 2.0, 1.0, -2.0]
    odds = [math.exp(logit / settings.temperature) for logit in logits]
    kept = {
        3: sorted(odds)[-3:],
        None: odds,
    }[settings.top_k]
    if settings.top_p:
        kept = sorted(odds, reverse=True)[:3]  # 0.46, 0.28 and 0.17 reach 0.8; two do not
    if settings.min_p:
        kept = [one for one in odds if one >= 0.2 * max(odds)]
    expected = [one / sum(kept) * draws if one in kept else 0 for one in odds]
    uniforms = [(place + 0.5) / draws for place in range(draws)]
    drawn = sample_rows(torch.tensor(logits).expand(draws, -1), RowSettings([settings] * draws), uniforms)
    counts = torch.bincount(drawn, minlength=6).tolist()
    assert max(abs(count - mean) for count, mean in zip(counts, expected, strict=True)) <= 1
    assert sum(count > 0 for count in counts) == len(kept)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-32])
@pytest.mark.parametrize("temperature", [5e-324, 1e-6, 1.0, 1e30])
def test_the_ends_of_the_line_are_ids_that_can_be_drawn(uniform, temperature):
    logits = torch.tensor([[-torch.inf, 1.0, 1.0, -torch.inf]])
    drawn = sample_rows(logits, RowSettings([SamplingSettings(temperature=temperature)]), [uniform])
    assert drawn.item() == (1 if uniform == 0 else 2)


@pytest.mark.parametrize("name", ["top_k", "top_p", "min_p"])
def test_the_strictest_filter_leaves_the_largest_logit(name):
    logits = torch.randn(1, 500, generator=torch.Generator().manual_seed(1))
    settings = SamplingSettings(temperature=2.0, **{name: {"top_k": 1, "top_p": 1e-9, "min_p": 1.0}[name]})
    for uniform in (0.0, 0.3, 0.999):
        assert sample_rows(logits, RowSettings([settings]), [uniform]).item() == logits.argmax()


def test_equal_logits_pass_a_filter_together():
    logits = torch.tensor([[1.0, 2.0, 1.0, 1.0, 0.0]])
    settings = RowSettings([SamplingSettings(top_k=2)] * 1000)
    drawn = sample_rows(logits.expand(1000, -1), settings, [place / 1000 for place in range(1000)])
    assert set(drawn.tolist()) == {0, 1, 2, 3}


def test_without_temperature_ties_go_to_the_lowest_id_beside_rows_with_it():
    logits = torch.tensor([[0.0, 3.0, 3.0], [0.0, 3.0, 3.0]])
    settings = RowSettings([SamplingSettings(temperature=0.0), SamplingSettings()])
    assert sample_rows(logits, settings, [0.9999, 0.9999]).tolist() == [1, 2]


def test_the_largest_settings_that_are_accepted_can_be_drawn_with():
    settings = RowSettings([SamplingSettings(temperature=1e30, top_k=2**63 - 1)])
    assert sample_rows(torch.tensor([[1.0, 2.0, 3.0]]), settings, [0.5]).tolist() == [1]


def test_a_row_that_is_not_a_number_is_told_apart():
    logits = torch.zeros(3, 4)
    logits[1, 2] = torch.nan
    for settings in (SamplingSettings(), SamplingSettings(temperature=0.0), SamplingSettings(top_p=0.5)):
        drawn = sample_rows(logits, RowSettings([settings] * 3), [0.0] * 3).tolist()
        assert [token < 0 for token in drawn] == [False, True, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": -0.1}, r"^temperature=-0\.1 is negative"),
        ({"temperature": math.nan}, r"^temperature=nan is no number"),
        ({"temperature": 1e39}, r"^temperature=1e\+39 draws every id alike"),
        ({"temperature": 10**39}, r"^temperature=10{39} draws every id alike"),
        ({"top_k": 99999999999999999999}, r"^top_k=99999999999999999999 is more than any vocabulary has"),
        ({"temperature": math.inf}, r"^temperature=inf draws every id alike"),
        ({"temperature": None}, r"^temperature=None is not a number"),
        ({"temperature": "1"}, r"^temperature='1' is not a number"),
        ({"top_k": 0}, r"^top_k=0 leaves no id"),
        ({"top_k": 2.5}, r"^top_k=2\.5 is not an integer"),
        ({"top_k": True}, r"^top_k=True is not an integer"),
        ({"top_p": 0}, r"^top_p=0 is no fraction above 0"),
        ({"top_p": 1.1}, r"^top_p=1\.1 is no fraction"),
        ({"top_p": math.nan}, r"^top_p=nan is no fraction"),
        ({"min_p": -0.1}, r"^min_p=-0\.1 is no fraction from 0"),
        ({"min_p": 1.1}, r"^min_p=1\.1 is no fraction"),
        ({"seed": -1}, r"^seed=-1 is negative"),
        ({"max_new_tokens": -1}, r"^max_new_tokens=-1 is negative"),
    ],
)
def test_impossible_settings_are_refused_with_their_value(arguments, message):
    with pytest.raises(BadInput, match=message):
        SamplingSettings(**arguments)
