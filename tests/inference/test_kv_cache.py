"""Continuing from the cache equals reading everything at once, at every position and however the rows differ."""

from __future__ import annotations

import pytest
import torch
from tiny_gpt import SHAPES, random_gpt, seeded

from nanochat_pl.inference.kv_cache import KVCache
from nanochat_pl.model.config import GPTConfig

EXACT = {"rtol": 0, "atol": 2e-5}  # fp32 sums in another order


def random_ids(config, rows, length, seed=0):
    return torch.randint(config.vocab_size, (rows, length), generator=seeded(seed))


@torch.inference_mode()
def extend(gpt, cache, ids, first=0, counts=None):
    """Return the hidden states of ids (B, T), and keep them in the cache."""
    hidden = gpt.hidden(ids, cache.extension(first, len(ids), ids.size(1)))
    cache.advance(first, counts or [ids.size(1)] * len(ids))
    return hidden


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_every_split_of_a_row_gives_the_hidden_states_of_the_whole(config):
    """A position one off, here or in the rotation, would show at once."""
    gpt, length = random_gpt(config), config.sequence_len
    ids = random_ids(config, 2, length)
    whole = gpt.hidden(ids)
    for split in range(1, length):
        cache = KVCache(config, 2, length)
        parts = [extend(gpt, cache, ids[:, :split]), extend(gpt, cache, ids[:, split:])]
        torch.testing.assert_close(torch.cat(parts, 1), whole, **EXACT)
        assert cache.lengths == [length, length]


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_one_position_at_a_time_gives_the_hidden_states_of_the_whole(config):
    gpt, ids = random_gpt(config), random_ids(config, 3, config.sequence_len)
    cache = KVCache(config, 3, config.sequence_len)
    steps = [extend(gpt, cache, ids[:, place : place + 1]) for place in range(ids.size(1))]
    torch.testing.assert_close(torch.cat(steps, 1), gpt.hidden(ids), **EXACT)


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_rows_of_different_lengths_continue_each_at_its_own_place(config):
    gpt, lengths = random_gpt(config), [9, 3, 6, 1]
    ids = random_ids(config, 4, 12)
    whole = gpt.hidden(ids)
    cache = KVCache(config, 4, 12)
    extend(gpt, cache, ids[:, :9], counts=lengths)  # what follows a row's own ids stands for padding
    for step in range(3):
        new = torch.stack([row[length + step] for row, length in zip(ids, lengths, strict=True)])[:, None]
        hidden = extend(gpt, cache, new)
        expected = torch.stack([row[length + step] for row, length in zip(whole, lengths, strict=True)])
        torch.testing.assert_close(hidden[:, 0], expected, **EXACT)
    assert cache.lengths == [12, 6, 9, 4]


def test_what_lies_beyond_a_row_is_never_read():
    config = SHAPES[0]
    gpt, ids = random_gpt(config), random_ids(config, 2, 8)
    results = []
    for rubbish in (0.0, 1e4):
        cache = KVCache(config, 2, 12)
        cache.keys.fill_(rubbish)
        cache.values.fill_(rubbish)
        extend(gpt, cache, ids[:, :5], counts=[5, 2])
        results.append(extend(gpt, cache, ids[:, 5:6]))
    assert torch.equal(*results)


def test_a_copied_row_continues_like_its_source_and_a_cleared_one_anew():
    config = SHAPES[0]
    gpt, ids = random_gpt(config), random_ids(config, 3, 8)
    cache = KVCache(config, 3, 12)
    extend(gpt, cache, ids[:, :6], counts=[4, 6, 5])
    cache.copy(0, 2)
    cache.clear(1)
    assert cache.lengths == [4, 0, 4]
    hidden = extend(gpt, cache, ids[:1, 4:5].expand(3, 1))
    expected = gpt.hidden(ids[:1, :5])[:, -1]
    torch.testing.assert_close(hidden[[0, 2], 0], expected.expand(2, -1), **EXACT)
    torch.testing.assert_close(hidden[1], gpt.hidden(ids[:1, 4:5])[0], **EXACT)


def test_neighbouring_rows_alone_are_touched():
    config = SHAPES[0]
    gpt, cache = random_gpt(config), KVCache(config, 4, 12)
    cache.keys.fill_(7.0)
    extend(gpt, cache, random_ids(config, 2, 5), first=1)
    assert cache.lengths == [0, 5, 5, 0]
    assert (cache.keys[:, [0, 3]] == 7).all()
    assert (cache.keys[:, 1:3, :5] != 7).all()
    assert (cache.keys[:, 1:3, 5:] == 7).all()


def test_only_rows_of_one_length_go_without_a_mask():
    cache = KVCache(SHAPES[0], 3, 12)
    assert cache.extension(0, 3, 5).visible is None
    cache.advance(0, [4, 4, 2])
    assert cache.extension(0, 2, 1).visible is None
    assert cache.extension(0, 2, 3).visible is not None
    ragged = cache.extension(1, 2, 1)
    assert ragged.visible.tolist() == [[[True] * 5], [[True, True, True, False, False]]]


def test_the_mask_is_as_wide_as_the_longest_row():
    cache = KVCache(SHAPES[0], 3, 12)
    cache.advance(0, [4, 3, 8])
    assert cache.extension(0, 2, 1).visible.shape == (2, 1, 5)
    k = torch.zeros(2, 1, 2, 16)
    assert [memory.shape for memory in cache.extension(0, 2, 1).update(0, k, k)] == [(2, 5, 2, 16)] * 2


def test_nothing_grows_beyond_the_capacity_or_the_context():
    config = GPTConfig(sequence_len=8, vocab_size=9, n_layer=1, n_head=1, n_kv_head=1, n_embd=4)
    cache = KVCache(config, 1, 6)
    cache.advance(0, [4])
    assert cache.extension(0, 1, 2).width == 6
    with pytest.raises(AssertionError, match="7 positions in a cache of 6"):
        cache.extension(0, 1, 3)
    with pytest.raises(AssertionError, match="beyond its context"):
        KVCache(config, 1, 9)


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_memory_is_that_of_the_key_heads_alone(config):
    cache = KVCache(config, 3, 7, dtype=torch.bfloat16)
    assert cache.keys.shape == cache.values.shape == (config.n_layer, 3, 7, config.n_kv_head, config.head_dim)
    assert cache.keys.dtype == torch.bfloat16
