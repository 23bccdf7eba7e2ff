"""Rows read together, beginnings read once, choices of one letter read once: as likely as each row alone."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from reference.byte_tokenizer import ByteTokenizer
from tiny_gpt import random_gpt
from torch.nn import functional as F

from nanochat_pl.evaluation.likelihood import GPTScorer
from nanochat_pl.evaluation.row_plan import Continuation, plan_batches
from nanochat_pl.model.config import GPTConfig
from nanochat_pl.system.errors import BadInput

CONTEXT = 96
SHAPES = [
    GPTConfig(sequence_len=CONTEXT, vocab_size=270, n_layer=2, n_head=4, n_kv_head=2, n_embd=64),
    GPTConfig(sequence_len=CONTEXT, vocab_size=257, n_layer=1, n_head=3, n_kv_head=3, n_embd=36),
]
EXACT = {"rel": 1e-5, "abs": 2e-5}  # fp32 sums in another order


def ids_of(*values):
    return np.array(values, np.uint32)


def random_rows(seed):
    """Return rows: with beginnings in common or not, twice the same, equal but for their last id or their start."""
    rng = random.Random(seed)
    rows = []
    for _ in range(6):
        opening = [rng.randrange(257) for _ in range(rng.randint(1, 60))]
        for _ in range(rng.randint(1, 4)):
            end = [rng.randrange(257) for _ in range(rng.randint(1, 12))]
            start = rng.randint(max(1, len(opening) - 5), len(opening) + len(end))
            rows.append(Continuation(ids_of(*opening, *end), start))
        last = rows[-1].ids.copy()
        last[-1] = 7
        rows += [rows[-1], Continuation(last, max(1, rows[-1].start - 3)), Continuation(last, len(last))]
    rng.shuffle(rows)
    return rows


@torch.inference_mode()
def alone(gpt, row):
    """Return total, mean and likeliest ids of a row by itself, from all its logits."""
    ids = torch.from_numpy(row.ids.astype(np.int64))
    logits = gpt(ids[None])[0, row.start - 1 : -1]
    losses = F.cross_entropy(logits, ids[row.start :], reduction="none")
    return losses.sum().item(), losses.mean().item(), logits.argmax(-1).tolist()


@pytest.mark.parametrize("config", SHAPES, ids=str)
@pytest.mark.parametrize("batch_tokens", [1, 150, 4096])
def test_every_row_is_as_likely_as_alone(config, batch_tokens):
    gpt = random_gpt(config)
    scorer = GPTScorer(gpt, ByteTokenizer(), batch_tokens=batch_tokens)
    for seed in range(3):
        rows = random_rows(seed)
        assert any(group.prefix for batch in plan_batches(rows, CONTEXT, 150) for group in batch)
        for row, got in zip(rows, scorer.score(rows), strict=True):
            if row.start == len(row.ids):
                assert (got.total, got.likeliest, got.is_greedy) == (0.0, [], True)
                assert math.isnan(got.mean)
                continue
            total, mean, likeliest = alone(gpt, row)
            assert got.total == pytest.approx(total, **EXACT)
            assert got.mean == pytest.approx(mean, **EXACT)
            assert got.likeliest == likeliest
            assert not got.is_greedy


def test_a_continuation_is_greedy_where_every_id_is_the_likeliest():
    gpt = random_gpt(SHAPES[0])
    scorer = GPTScorer(gpt, ByteTokenizer())
    ids = [256, 1, 2, 3]
    for _ in range(5):
        ids.append(int(gpt(torch.tensor([ids]))[0, -1].argmax()))
    other = [*ids[:6], ids[6] ^ 1, *ids[7:]]
    results = scorer.score([Continuation(ids_of(*row), start) for row in (ids, other) for start in (4, 3)])
    assert [result.is_greedy for result in results] == [True, False, False, False]


def test_results_do_not_depend_on_the_order_of_rows():
    scorer = GPTScorer(random_gpt(SHAPES[0]), ByteTokenizer())
    rows = random_rows(9)
    straight, backward = scorer.score(rows), scorer.score(rows[::-1])
    assert repr(straight) == repr(backward[::-1])  # a mean that is no number equals no other


def test_rows_with_nothing_to_score_ask_nothing():
    assert GPTScorer(random_gpt(SHAPES[0]), ByteTokenizer()).score([]) == []
    (result,) = GPTScorer(random_gpt(SHAPES[0]), ByteTokenizer()).score([Continuation(ids_of(256), 1)])
    assert result.total == 0.0


def test_logits_are_computed_where_they_are_scored_only(monkeypatch):
    gpt = random_gpt(SHAPES[0])
    counts = []
    logits = gpt.logits
    monkeypatch.setattr(gpt, "logits", lambda hidden: counts.append(len(hidden)) or logits(hidden))
    opening = range(40)
    choices = [Continuation(ids_of(*opening, letter), 40) for letter in (65, 66, 67, 68)]
    words = [Continuation(ids_of(*range(100, 150), *end), 50) for end in ((1, 2, 3), (4, 5))]
    GPTScorer(gpt, ByteTokenizer()).score([*choices, *words])
    assert sum(counts) == 1 + 3 + 2


def test_in_bf16_losses_are_nearly_the_same():
    gpt, rows = random_gpt(SHAPES[0]), random_rows(4)
    exact = GPTScorer(gpt, ByteTokenizer()).score(rows)
    rough = GPTScorer(gpt, ByteTokenizer(), dtype=torch.bfloat16).score(rows)
    differences = [abs(a.mean - b.mean) for a, b in zip(exact, rough, strict=True) if a.likeliest]
    assert 0 < max(differences) < 0.2


def test_a_tokenizer_of_another_model_is_refused():
    gpt = random_gpt(GPTConfig(sequence_len=8, vocab_size=200, n_layer=1, n_head=1, n_kv_head=1, n_embd=4))
    with pytest.raises(BadInput, match="the model knows 200 ids but the tokenizer has 257"):
        GPTScorer(gpt, ByteTokenizer())


def test_an_id_the_tokenizer_does_not_have_can_be_shown():
    scorer = GPTScorer(random_gpt(SHAPES[0]), ByteTokenizer())
    assert scorer.decode([65, 269, 66]) == "A\ufffdB"


def positions_read(rows, context=CONTEXT, batch_tokens=4096):
    return sum(group.tokens for batch in plan_batches(rows, context, batch_tokens) for group in batch)


def test_choices_of_one_letter_are_one_row():
    opening = range(50)
    assert positions_read([Continuation(ids_of(*opening, letter), 50) for letter in range(65, 69)]) == 50


def test_a_beginning_in_common_is_read_once():
    rows = [Continuation(ids_of(*range(50), letter, 7, 8), 50) for letter in range(65, 69)]
    assert (
        positions_read(rows) == 49 + 4 * 3
    )  # the position that predicts the first choice is each branch's own


def test_a_short_beginning_is_not_worth_a_second_call():
    rows = [Continuation(ids_of(*range(12), letter, 7, 8), 12) for letter in range(65, 69)]
    assert positions_read(rows) == 4 * 14


def test_branches_side_by_side_fit_the_context():
    rows = [Continuation(ids_of(*range(30), letter, *range(30, 65)), 30) for letter in range(100, 120)]
    for batch in plan_batches(rows, CONTEXT, 4096):
        assert all(group.rest <= CONTEXT for group in batch)
    GPTScorer(random_gpt(SHAPES[0]), ByteTokenizer()).score(rows)


@pytest.mark.parametrize("batch_tokens", [100, 500, 4096])
def test_batches_keep_to_their_size_and_waste_little(batch_tokens):
    rows = [row for seed in range(8) for row in random_rows(seed)]
    batches = plan_batches(rows, CONTEXT, batch_tokens)
    numbers = [n for batch in batches for group in batch for branch in group.branches for n in branch.rows]
    assert sorted(numbers) == [n for n, row in enumerate(rows) if row.start < len(row.ids)]
    for batch in batches:
        padded = max(group.prefix for group in batch) + max(group.rest for group in batch)
        assert len(batch) * padded <= batch_tokens or len(batch) == 1
        assert 4 * min(group.tokens for group in batch) >= 3 * padded or len(batch) == 1
        assert len({group.prefix > 0 for group in batch}) == 1
