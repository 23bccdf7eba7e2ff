"""The endless numbered documents: each read once per epoch, by one rank, whatever the number of ranks."""

from __future__ import annotations

from itertools import islice

import pytest

from nanochat_pl.data.shards import Documents
from nanochat_pl.system.corpus import Corpus, write_corpus
from nanochat_pl.system.errors import Failure

DOCS = 500


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    texts = [f"document {number}" for number in range(DOCS)]
    folder = tmp_path_factory.mktemp("shards") / "corpus"
    return write_corpus(folder, texts, val_texts=["held out"], rows_per_shard=60, row_group_rows=16)


def first(documents: Documents, count: int, start: int = 0) -> list[tuple[int, str]]:
    return list(islice(documents.read(documents.numbers_from(start)), count))


def test_one_rank_reads_every_document_in_order_and_begins_again(corpus):
    read = first(Documents(corpus.train), 2 * DOCS)
    assert [number for number, _ in read] == list(range(2 * DOCS))
    assert [text for _, text in read] == [f"document {number % DOCS}" for number in range(2 * DOCS)]


@pytest.mark.parametrize("world_size", [2, 3, 7, 64, 499, 500, 501, 2000])
def test_ranks_share_the_documents_without_overlap_at_any_world_size(corpus, world_size):
    ranks = [Documents(corpus.train, rank=rank, world_size=world_size) for rank in range(world_size)]
    numbers = sorted(number for documents in ranks for number in _up_to(documents, 2 * DOCS))
    assert numbers == list(range(2 * DOCS))


def _up_to(documents: Documents, end: int) -> list[int]:
    numbers = []
    for number in documents.numbers_from(0):
        if number >= end:
            return numbers
        numbers.append(number)
    return numbers


def test_no_rank_is_ever_without_documents(corpus):
    for world_size in (8, 5000):
        last = Documents(corpus.train, rank=world_size - 1, world_size=world_size)
        assert len(first(last, 20)) == 20


@pytest.mark.parametrize("start", [0, 1, 59, 60, 499, 500, 777, 10_000_019])
def test_documents_can_be_taken_up_at_any_number(corpus, start):
    read = first(Documents(corpus.train), 30, start)
    assert read == [(number, f"document {number % DOCS}") for number in range(start, start + 30)]


def test_shuffled_shards_are_complete_differ_between_epochs_and_follow_the_seed(corpus):
    epochs = [first(Documents(corpus.train, shuffle_seed=3), DOCS, epoch * DOCS) for epoch in range(3)]
    texts = [[text for _, text in epoch] for epoch in epochs]
    assert all(sorted(epoch) == sorted(texts[0]) for epoch in texts)
    assert texts[0] != texts[1] != texts[2]
    assert first(Documents(corpus.train, shuffle_seed=3), DOCS) == epochs[0]
    assert first(Documents(corpus.train, shuffle_seed=4), DOCS) != epochs[0]


def damaged(tmp_path, policy: str) -> Documents:
    texts = [f"document {number}" for number in range(200)]
    corpus = write_corpus(tmp_path / "c", texts, val_texts=["v"], rows_per_shard=50, row_group_rows=10)
    path = corpus.train[1].path
    data = bytearray(path.read_bytes())
    data[40] ^= 1  # in its first row group
    path.write_bytes(data)
    return Documents(corpus.train, on_bad_shard=policy)


def test_damaged_shard_is_an_error_with_its_name(tmp_path):
    with pytest.raises(Failure, match=r"shard_00001\.parquet: its sha256 is not the manifest's"):
        first(damaged(tmp_path, "error"), 150)


def test_damaged_shard_is_left_out_and_named_where_that_was_asked_for(tmp_path):
    documents = damaged(tmp_path, "skip")
    numbers = [number for number, _ in first(documents, 150)]
    assert numbers[-1] > 150
    assert not [number for number in numbers if 50 <= number % 200 < 100]
    assert list(documents.skipped) == ["shard_00001.parquet"]


def test_corpus_without_one_readable_shard_ends_instead_of_searching_forever(tmp_path):
    corpus = write_corpus(tmp_path / "c", ["a", "b"], val_texts=["v"], rows_per_shard=2)
    corpus.train[0].path.unlink()
    with pytest.raises(Failure, match="all were skipped"):
        first(Documents(corpus.train, on_bad_shard="skip"), 1)
