"""A run that changes its number of ranks reads everything once still: nothing twice, nothing left out."""

from __future__ import annotations

import io
import random
from collections import Counter
from itertools import count, islice
from types import SimpleNamespace

import pytest
import torch
from reference.byte_tokenizer import ByteTokenizer

from nanochat_pl.data import ChatData, PretrainData
from nanochat_pl.data.packing import BestFit
from nanochat_pl.data.redeal import dealt_anew, numbers_of, unread
from nanochat_pl.system.corpus import write_corpus
from nanochat_pl.system.errors import Failure
from nanochat_pl.tasks.base import Task
from nanochat_pl.tokenizer.encoding import Tokenizer
from nanochat_pl.tokenizer.train import SPLIT_PATTERN

CHANGES = [(2, 1, 2), (1, 2), (2, 3, 1), (4, 3, 2, 5)]


class Talk(Task):
    """Short conversations of lengths of their own."""

    kind, name, size = None, "Talk", 90

    def _total(self) -> int:
        return self.size

    def _item(self, number: int):
        answer = "a" * random.Random(number).randint(1, 30)
        return {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": answer}]}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    texts = (f"{number}" + "x" * random.Random(number).randrange(60) for number in range(900))
    folder = tmp_path_factory.mktemp("data") / "corpus"
    return write_corpus(folder, texts, val_texts=["v"], rows_per_shard=200, row_group_rows=30)


@pytest.fixture(params=["pretrain", "chat"])
def make_data(request, corpus):
    """A function that returns the data of one rank."""

    def make(rank: int, world_size: int, elastic: bool = True):
        if request.param == "pretrain":
            data = PretrainData(sequence_len=40, device_batch_rows=2, buffer_docs=20)
            data.corpus_on_disk, data.tokenizer_on_disk = corpus, ByteTokenizer()
        else:
            data = ChatData([Talk()], [Talk()], sequence_len=63, device_batch_rows=2, buffer_conversations=10)
            data.tokenizer_on_disk = Tokenizer.from_ranks(
                [bytes([byte]) for byte in range(256)], SPLIT_PATTERN
            )
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, accumulate_grad_batches=2)
        data.elastic = elastic
        return data

    return make


@pytest.fixture
def placed(monkeypatch):
    """How often each document was put into a row."""
    counts: Counter[int] = Counter()
    take = BestFit._take

    def counting(self, place):
        counts[self._sorted[place][1]] += 1
        return take(self, place)

    monkeypatch.setattr(BestFit, "_take", counting)
    return counts


def through_a_file(state):
    """Send a state through a file, as a checkpoint does."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def trained(make_data, ranks: int, batches: int, state=None):
    """Read some batches on every rank, from a saved state on; return the state behind them."""
    positions = []
    for rank in range(ranks):
        data = make_data(rank, ranks)
        if state is not None:
            data.load_state_dict(through_a_file(state))
        read = list(islice(iter(data.stream(data._position)), batches))
        positions.append(read[-1].position)
    return {"data": data._identity(), "positions": positions}


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("batches", [2, 10, 24])
def test_every_document_is_read_once(make_data, placed, changes, batches):
    state = None
    for ranks in changes:
        state = trained(make_data, ranks, batches, state)
    (rest,) = make_data(0, 1).dealt_anew(state["positions"], 1)
    waiting = [int(number) for number in rest["redealt"]["backlog"]]
    assert set(placed.values()) == {1}
    assert not set(waiting) & set(placed)
    assert sorted([*placed, *waiting]) == list(range(rest["redealt"]["turns_from"]))
    assert len(placed) > batches


def test_run_dealt_anew_and_interrupted_is_the_run_that_was_not(make_data):
    state = trained(make_data, 3, 4)
    data = make_data(1, 2)
    data.load_state_dict(state)
    unbroken = list(islice(iter(data.stream(data._position)), 60))
    for stop in range(1, 50, 2):
        again = make_data(1, 2)
        position = through_a_file(unbroken[stop].position)
        continued = list(islice(iter(again.stream(position)), 8))
        for one, other in zip(continued, unbroken[stop + 1 :], strict=False):
            assert torch.equal(one.inputs, other.inputs)
            assert torch.equal(one.targets, other.targets)


def test_backlog_is_forgotten_once_it_is_read(make_data):
    data = make_data(0, 1)
    data.load_state_dict(trained(make_data, 2, 4))
    positions = [batch.position for batch in islice(iter(data.stream(data._position)), 120) if batch.position]
    assert data._position["redealt"] is not None  # one step may read all of it
    assert positions[-1]["redealt"] is None


def test_another_number_of_ranks_is_refused_with_both_and_the_option(make_data):
    state = trained(make_data, 2, 2)
    with pytest.raises(Failure) as refused:
        make_data(0, 1, elastic=False).load_state_dict(state)
    said = str(refused.value)
    assert "ranks 2 -> 1" in said
    assert "--elastic" in said
    assert len(said.splitlines()) <= 3


def test_elastic_does_not_excuse_other_data(make_data):
    state = trained(make_data, 2, 2)
    state["data"]["tokenizer"] = "another"
    with pytest.raises(Failure, match="continues other data"):
        make_data(0, 1).load_state_dict(state)


def test_it_is_said_how_much_is_dealt_anew(make_data, capsys):
    make_data(0, 1).load_state_dict(trained(make_data, 2, 2))
    assert "--elastic: 2 -> 1 rank(s); " in capsys.readouterr().err


def test_dealing_agrees_with_a_slow_twin():
    """Turns of single numbers; the twin keeps sets of all that is read and deals the rest."""
    draw = random.Random(0)
    for _ in range(200):
        ranks, new = draw.randint(1, 5), draw.randint(1, 5)
        nexts = [draw.randrange(60) for _ in range(ranks)]
        turns = lambda rank, number: count(number + (rank - number) % ranks, ranks)  # noqa: B023, E731
        positions, read = [], set()
        for rank, following in enumerate(nexts):
            seen = list(range(rank, following, ranks))
            waiting = sorted(draw.sample(seen, min(len(seen), draw.randrange(4))))
            read |= set(seen) - set(waiting)
            positions.append({"next": following, "buffered": waiting, "redealt": None})
        dealt = dealt_anew(positions, new, turns)
        assert {one["turns_from"] for one in dealt} == {max(nexts)}
        left = sorted(set(range(max(nexts))) - read)
        assert sorted(number for one in dealt for number in one["backlog"]) == left
        assert max(len(one["backlog"]) for one in dealt) - min(len(one["backlog"]) for one in dealt) <= 1


def test_numbers_of_a_rank_are_its_backlog_and_then_its_turns():
    redealt = {"backlog": [3, 5, 9], "turns_from": 12}
    assert list(islice(numbers_of(redealt, 4, lambda number: count(number, 2)), 4)) == [5, 9, 12, 14]
    assert list(islice(numbers_of(redealt, 20, lambda number: count(number, 2)), 2)) == [20, 22]
    assert unread(redealt, 11) == redealt
    assert unread(redealt, 12) is None
