"""Elements and matrices are dealt completely, evenly, and the same way on every rank."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_pl.optim.exchange import plan_routes
from nanochat_pl.optim.ownership import (
    ALIGNMENT,
    EqualRanges,
    balanced_owners,
    orthogonalization_cost,
    row_part,
)

SIZES = st.lists(st.integers(1, 1000), max_size=8)
RANKS = st.integers(1, 9)


@settings(deadline=None)
@given(SIZES, RANKS)
def test_ranges_hold_every_element_once_and_begin_at_aligned_ones(sizes, ranks):
    ranges = EqualRanges(sizes, ranks)
    for number, size in enumerate(sizes):
        parts = [part for rank in range(ranks) if (part := ranges.part(number, rank)).size]
        assert [element for part in parts for element in range(part.start, part.end)] == list(range(size))
        assert all(part.start % ALIGNMENT == 0 for part in parts)


@settings(deadline=None)
@given(SIZES, RANKS)
def test_no_range_is_longer_than_an_equal_share_and_its_alignment(sizes, ranks):
    ranges = EqualRanges(sizes, ranks)
    held = [sum(ranges.part(n, rank).size for n in range(len(sizes))) for rank in range(ranks)]
    padded = sum(sizes) + ALIGNMENT * len(sizes)
    assert max(held) <= ranges.share <= -(-padded // ranks) + ALIGNMENT


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 5), RANKS)
def test_rows_are_dealt_as_torch_chunks_them(rows, columns, ranks):
    whole = torch.arange(rows * columns).view(rows, columns)
    chunks = [chunk.flatten().tolist() for chunk in whole.chunk(ranks)]
    mine = [whole.flatten()[slice(*row_part(rows, columns, rank, ranks))].tolist() for rank in range(ranks)]
    assert mine == chunks + [[]] * (ranks - len(chunks))


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), max_size=30), RANKS)
def test_owners_are_as_balanced_as_the_largest_item_allows(costs, ranks):
    owners = balanced_owners(costs, ranks)
    loads = [sum(c for c, owner in zip(costs, owners, strict=True) if owner == r) for r in range(ranks)]
    assert max(loads) - min(loads) <= max(costs, default=0)


@pytest.mark.parametrize("depth", [20, 24, 32])
def test_on_eight_ranks_every_matrix_lies_with_its_owner(depth):
    width = 64 * depth
    shapes = [(width, width)] * 4 * depth + [(4 * width, width)] * depth + [(width, 4 * width)] * depth
    owners = balanced_owners([orthogonalization_cost(*shape) for shape in shapes], 8)
    order = sorted(range(len(shapes)), key=lambda k: owners[k])
    ranges = EqualRanges([shapes[k][0] * shapes[k][1] for k in order], 8)
    assert all(ranges.part(n, owners[k]).size == ranges.sizes[n] for n, k in enumerate(order))


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 12), RANKS, st.randoms())
def test_what_one_rank_sends_is_what_the_other_expects(matrices, rows, ranks, draw):
    owners = [draw.randrange(ranks) for _ in range(matrices)]

    def part_of(_, rank):
        return row_part(rows, 3, rank, ranks)

    routes = [plan_routes(part_of, owners, rows * 3, rank, ranks) for rank in range(ranks)]
    for sender in range(ranks):
        for receiver in range(ranks):
            assert routes[sender].out_sizes[receiver] == routes[receiver].in_sizes[sender]
            sent = [k for k in routes[sender].leaving if owners[k] == receiver and part_of(k, sender).size]
            assert sent == [k for who, k in routes[receiver].arriving if who == sender]
    assert len({route.is_still for route in routes}) == 1


def test_one_rank_owns_everything_and_sends_nothing():
    routes = plan_routes(lambda k, rank: row_part(4, 3, rank, 1), [0, 0], 12, 0, 1)
    assert routes.is_still
    assert routes.owned == routes.leaving == (0, 1)
