"""Best-fit packing: equal to a linear scan, every row from BOS to the last place."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.packing import pack

from nanochat_pl.data.packing import BestFit, Document

BOS = 1_000_000


def documents(lengths: list[int], row_tokens: int) -> list[Document]:
    """Documents whose ids tell which they are: BOS, then number * 1000 + place."""
    made = []
    for number, length in enumerate(lengths):
        ids = np.array([BOS, *(number * 1000 + place for place in range(1, length))])
        made.append(Document(number, length, ids[:row_tokens]))
    return made


def rows_of(packing: BestFit) -> list[list[int]]:
    return list(iter(lambda: packing.row().tolist(), []))


@given(
    lengths=st.lists(st.integers(1, 60), max_size=200),
    row_tokens=st.integers(1, 40),
    buffer_docs=st.integers(1, 30),
)
@settings(max_examples=300, deadline=None)
def test_rows_are_those_of_a_linear_scan(lengths, row_tokens, buffer_docs):
    made = documents(lengths, row_tokens)
    whole = [
        [BOS, *(number * 1000 + place for place in range(1, length))] for number, length in enumerate(lengths)
    ]
    packing = BestFit(iter(made), row_tokens=row_tokens, buffer_docs=buffer_docs)
    assert rows_of(packing) == list(pack(whole, row_tokens, buffer_docs))


def test_among_equally_long_documents_the_first_that_came_is_taken():
    packing = BestFit(iter(documents([3, 5, 5, 5], 5)), row_tokens=5, buffer_docs=4)
    assert packing.row().tolist() == [BOS, 1001, 1002, 1003, 1004]
    packing = BestFit(
        iter(documents([9, 7, 7, 9], 5)), row_tokens=5, buffer_docs=4
    )  # none fits: the shortest
    assert packing.row().tolist() == [BOS, 1001, 1002, 1003, 1004]


@given(lengths=st.lists(st.integers(1, 60), min_size=100, max_size=150), stop=st.integers(0, 20))
@settings(max_examples=100, deadline=None)
def test_packing_continued_from_its_buffer_gives_the_same_rows(lengths, stop):
    made = documents(lengths, 30)
    unbroken = BestFit(iter(made), row_tokens=30, buffer_docs=20)
    for _ in range(stop):
        unbroken.row()
    buffered = [made[number] for number in unbroken.buffered]
    rest = made[unbroken.last_taken + 1 :]
    continued = BestFit(iter(rest), row_tokens=30, buffer_docs=20, buffered=buffered)
    assert rows_of(continued) == rows_of(unbroken)


def test_every_row_begins_with_bos_and_is_full():
    rng = np.random.default_rng(0)
    packing = BestFit(
        iter(documents(rng.integers(1, 200, 2000).tolist(), 65)), row_tokens=65, buffer_docs=100
    )
    rows = rows_of(packing)
    assert all(row[0] == BOS for row in rows)
    assert {len(row) for row in rows[:-1]} == {65}


@given(
    lengths=st.lists(st.integers(1, 40), max_size=120),
    buffer_docs=st.integers(1, 30),
)
@settings(max_examples=300, deadline=None)
def test_without_cropping_every_document_is_whole_in_exactly_one_row(lengths, buffer_docs):
    made = documents(lengths, 40)
    packing = BestFit(iter(made), row_tokens=40, buffer_docs=buffer_docs, crop=False)
    rows = rows_of(packing)
    starts = [[place for place, token in enumerate(row) if token == BOS] + [len(row)] for row in rows]
    whole = [tuple(row[a:b]) for row, cuts in zip(rows, starts, strict=True) for a, b in pairwise(cuts)]
    assert sorted(whole) == sorted(tuple(document.ids.tolist()) for document in made)
    assert all(len(row) <= 40 for row in rows)


def test_without_cropping_the_longest_that_fits_is_taken_and_the_rest_stays_empty():
    packing = BestFit(iter(documents([7, 5, 5, 3], 10)), row_tokens=10, buffer_docs=4, crop=False)
    assert packing.row().tolist() == [BOS, 1, 2, 3, 4, 5, 6, BOS, 3001, 3002]
    assert packing.row().tolist() == [BOS, 1001, 1002, 1003, 1004, BOS, 2001, 2002, 2003, 2004]
    packing = BestFit(iter(documents([7, 5], 10)), row_tokens=10, buffer_docs=2, crop=False)
    assert packing.row().tolist() == [BOS, 1, 2, 3, 4, 5, 6]


def test_a_mask_below_the_ids_travels_with_them():
    made = [
        Document(0, 2, np.array([[BOS, 1], [0, 1]])),
        Document(1, 3, np.array([[BOS, 7, 8], [0, 0, 1]])),
    ]
    packing = BestFit(iter(made), row_tokens=5, buffer_docs=2, crop=False)
    assert packing.row().tolist() == [[BOS, 7, 8, BOS, 1], [0, 0, 1, 0, 1]]
    assert packing.row().size == 0
