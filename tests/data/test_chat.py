"""ChatData: every conversation once an epoch on any number of ranks, whole, scored only where it should be."""

from __future__ import annotations

import io
import random
from collections import Counter
from itertools import islice
from types import SimpleNamespace

import pytest
import torch

from nanochat_pl.data import ChatData
from nanochat_pl.data.batch import Batch
from nanochat_pl.data.chat import ConversationStream, EndlessRows, Reader
from nanochat_pl.data.stage_data import part_of_rank
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.tasks.base import Mixture, Task
from nanochat_pl.tokenizer.encoding import Tokenizer
from nanochat_pl.tokenizer.train import SPLIT_PATTERN

TOKENIZER = Tokenizer.from_ranks([bytes([byte]) for byte in range(256)], SPLIT_PATTERN)
BOS, ASSISTANT, ASSISTANT_END = (
    TOKENIZER.special_ids[f"<|{name}|>"] for name in ("bos", "assistant_start", "assistant_end")
)
SEQUENCE_LEN = 63


class Talk(Task):
    """Conversations that carry their number, a question and an answer of lengths of their own."""

    kind = None
    name = "Talk"

    def __init__(
        self, size: int, longest: int = 20, start: int = 0, stop: int | None = None, step: int = 1
    ) -> None:
        super().__init__(start, stop, step)
        self.size, self.longest = size, longest

    def _total(self) -> int:
        return self.size

    def _item(self, number: int):
        chance = random.Random(number)
        question = f"{number:04d}" + "q" * chance.randint(0, self.longest)
        return {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": "a" * chance.randint(1, self.longest)},
            ]
        }


class Texts(Talk):
    """Documents among the conversations."""

    name = "Texts"

    def _item(self, number: int):
        return {"text": f"{number:04d}" + "t" * (number % self.longest)}


def reader(size: int = 300, longest: int = 20, mask="assistant", task=Talk) -> Reader:
    return Reader(
        Mixture([task(size, longest)], seed=1),
        TOKENIZER,
        sequence_len=SEQUENCE_LEN,
        buffer_conversations=10,
        mask=mask,
    )


def stream(made: Reader, start=None, rows=3, accumulation=2, rank=0, world_size=1) -> ConversationStream:
    return ConversationStream(
        made, rows=rows, accumulation=accumulation, rank=rank, world_size=world_size, start=start
    )


def numbers(ids: list[int]) -> list[int]:
    """The numbers of the conversations in a row."""
    marks = [place for place, token in enumerate(ids) if token == BOS]
    return [
        int(bytes(ids[mark + 2 : mark + 6]))
        for mark in marks
        if mark + 6 <= len(ids) and ids[mark + 1] == BOS + 1
    ]


def same(first: Batch, second: Batch) -> bool:
    return (
        torch.equal(first.inputs, second.inputs)
        and torch.equal(first.targets, second.targets)
        and first.step_targets == second.step_targets
    )


def saved_and_loaded(position):
    """Send a position through a file, as a checkpoint does."""
    file = io.BytesIO()
    torch.save(position, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_conversation_is_in_exactly_one_row_of_an_epoch(world_size):
    size = 5000
    found: Counter[int] = Counter()
    for rank in range(world_size):
        rows = EndlessRows(
            reader(size),
            rank,
            world_size,
            ConversationStream(reader(1), rows=1, accumulation=1, rank=0, world_size=1, start=None).start,
        )
        while True:
            row = rows.row()
            if rows._epoch == 1:
                break
            found.update(numbers(row[0].tolist()))
    assert found == Counter(range(size))


def rows_and_targets(made: Reader):
    """Yield the ids of each row and the targets its batch has for them, padding left out."""
    for row in made.rows_of(iter(range(len(made.mixture)))):
        batch = made.batch([row])
        length = row.shape[1] - 1
        assert batch.inputs[0, :length].tolist() == row[0, :-1].tolist()
        assert (batch.inputs[0, length:] == BOS).all()
        assert (batch.targets[0, length:] == -1).all()
        yield row[0].tolist(), batch.targets[0, :length].tolist()


def test_targets_are_what_the_assistant_wrote_and_nothing_else():
    for ids, targets in rows_and_targets(reader()):
        is_answer = False
        for token, following, target in zip(ids, ids[1:], targets, strict=False):
            is_answer = token == ASSISTANT or (is_answer and token != ASSISTANT_END)
            assert target == (following if is_answer else -1)


def test_all_tokens_but_the_first_of_each_conversation_are_scored_if_asked():
    for ids, targets in rows_and_targets(reader(mask="all")):
        assert targets == [-1 if token == BOS else token for token in ids[1:]]


def test_documents_are_scored_whole_beside_conversations():
    made = Reader(
        Mixture([Talk(50), Texts(50)], seed=1),
        TOKENIZER,
        sequence_len=SEQUENCE_LEN,
        buffer_conversations=10,
        mask="assistant",
    )
    scored = b""
    for row in made.rows_of(iter(range(100))):
        ids, mask = row
        scored += bytes(token if token < 256 else 0 for token, keep in zip(ids, mask, strict=True) if keep)
    assert all(f"{number:04d}".encode() + b"t" * (number % 20) in scored for number in range(50))
    assert b"q" not in scored


def test_a_long_conversation_is_cut_to_a_row_and_counted():
    made = reader(200, longest=80)
    rows = list(made.rows_of(iter(range(200))))
    longer = sum(
        len(TOKENIZER.encode("".join(m["content"] for m in made.mixture[i]["messages"]))) + 5
        > SEQUENCE_LEN + 1
        for i in range(200)
    )
    unanswered = sum(len(made.mixture[i]["messages"][0]["content"]) + 4 > SEQUENCE_LEN for i in range(200))
    assert all(row.shape[1] <= SEQUENCE_LEN + 1 for row in rows)
    assert unanswered > 0
    assert made.unanswered == unanswered
    assert made.truncated == longer - unanswered


def test_no_batch_is_without_a_target():
    made = reader(100, longest=80)
    for batch in islice(stream(made, rows=1, accumulation=1).batches(), 200):
        assert (batch.targets != -1).any()


def test_a_mixture_without_anything_to_learn_is_refused():
    class Silent(Talk):
        def _item(self, number):
            return {"messages": [{"role": "user", "content": "no answer"}]}

    with pytest.raises(Failure, match=r"conversation\(s\) read and no token to learn in any$"):
        next(stream(reader(task=Silent)).batches())


def test_conversations_that_are_all_too_long_are_refused_before_training_with_the_remedy(tmp_path):
    TOKENIZER.save(tmp_path)

    class Long(Talk):
        def _item(self, number):
            return {
                "messages": [{"role": "user", "content": "q" * 90}, {"role": "assistant", "content": "a"}]
            }

    def data(sequence_len: int) -> ChatData:
        return ChatData([Long(30)], [Long(3)], tokenizer=str(tmp_path), sequence_len=sequence_len)

    with pytest.raises(Failure) as caught:
        data(64).preflight()
    assert str(caught.value) == (
        "data.init_args.train: 30 conversation(s) read and no token to learn in any; "
        "30 were cut off at 65 tokens, before their first answer\n"
        "Raise data.init_args.sequence_len; the model's context is its limit."
    )
    data(128).preflight()


def test_each_batch_knows_the_targets_of_its_step():
    batches = list(islice(stream(reader(), accumulation=3).batches(), 12))
    for place in range(0, 12, 3):
        step = batches[place : place + 3]
        assert {batch.step_targets for batch in step} == {sum(int((b.targets != -1).sum()) for b in step)}
        assert [batch.position is None for batch in step] == [True, True, False]


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2), (2, 3)])
def test_stream_continues_exactly_at_every_step_of_two_epochs(rank, world_size):
    settings = {"rank": rank, "world_size": world_size, "rows": 2}
    unbroken = list(islice(stream(reader(120, longest=70), **settings).batches(), 80))
    for step in range(1, 30):
        position = saved_and_loaded(unbroken[2 * step - 1].position)
        again = list(islice(stream(reader(120, longest=70), position, **settings).batches(), 12))
        expected = unbroken[2 * step : 2 * step + 12]
        assert all(same(a, b) for a, b in zip(again, expected, strict=False))
        assert again[1].position == expected[1].position


def test_position_off_by_one_conversation_would_be_noticed():
    unbroken = list(islice(stream(reader(), rows=2).batches(), 20))
    position = dict(unbroken[5].position)
    position["next"] += 1
    again = list(islice(stream(reader(), position, rows=2).batches(), 14))
    assert not all(same(a, b) for a, b in zip(again, unbroken[6:], strict=False))


def chat_data(**settings) -> ChatData:
    data = ChatData(
        **{"train": [Talk(500)], "val": [Talk(40)], "sequence_len": SEQUENCE_LEN, "device_batch_rows": 4}
        | settings
    )
    data.tokenizer_on_disk = TOKENIZER
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, accumulate_grad_batches=1)
    return data


def test_planned_rows_are_those_of_the_epochs():
    data = chat_data()
    assert data.planned_rows() == sum(1 for _ in data._reader(data.train).rows_of(iter(range(500))))
    many = chat_data(train=[Talk(20_000)], epochs=2.0)
    exact = 2 * sum(1 for _ in many._reader(many.train).rows_of(iter(range(20_000))))
    assert many.planned_rows() == pytest.approx(exact, rel=0.01)


def test_validation_reads_the_same_rows_each_time_and_pads_the_rest():
    data = chat_data()
    data.eval_tokens = 10 * SEQUENCE_LEN
    first, again = list(data.val_dataloader()), list(data.val_dataloader())
    assert sum(len(batch.inputs) for batch in first) == 10
    assert all(same(a, b) for a, b in zip(first, again, strict=True))


def test_checkpoint_of_other_data_is_refused_with_both_values():
    data = chat_data()
    saved = data.state_dict()
    other = chat_data(mask="all")
    with pytest.raises(Failure, match="mask assistant -> all"):
        other.load_state_dict(saved)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"train": []}, "need one task each"),
        ({"epochs": 0}, "epochs=0"),
        ({"buffer_conversations": 0}, "buffer_conversations=0"),
        ({"num_workers": 4}, "num_workers=4"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, complaint):
    with pytest.raises(BadInput, match=complaint):
        chat_data(**settings)


def test_a_malformed_conversation_is_named():
    class Broken(Talk):
        def _item(self, number):
            return {"messages": [{"role": "assistant", "content": "first"}]}

    with pytest.raises(Failure, match=r"Talk, item \d+: conversation: message 0 is 'assistant'"):
        next(stream(reader(task=Broken)).batches())


@pytest.mark.parametrize(("batches", "world_size"), [(1, 2), (3, 2), (4, 2), (2, 5)])
def test_every_rank_has_equally_many_validation_batches_and_each_counts_once(batches, world_size):
    made = list(islice(stream(reader(), accumulation=1).batches(), batches))
    parts = [part_of_rank(made, rank, world_size) for rank in range(world_size)]
    assert len({len(part) for part in parts}) == 1
    scored = [batch for part in parts for batch in part if (batch.targets != -1).any()]
    assert len(scored) == batches
