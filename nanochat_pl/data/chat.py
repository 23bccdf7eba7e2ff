"""ChatData: conversations and documents of several tasks become batches of packed rows, for midtraining and SFT.

    Mixture ─ conversation ─► render ─ ids, mask ─► BestFit, padded ─ rows ─► Batch with its position ─► Trainer

Every conversation is in exactly one row of an epoch, whatever the number of ranks: conversation number n, counted
over all epochs, belongs to rank n % world size. None is cropped to make a row full; what is left of a row is
padding, which is not scored. The buffer is emptied at the end of an epoch before the next begins. A step's batches
are packed together, so that each knows how many targets its step has on this rank.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count, islice, takewhile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import IterableDataset

from nanochat_pl.data.batch import Batch, ChatPosition
from nanochat_pl.data.packing import BestFit, Document
from nanochat_pl.data.redeal import dealt_anew, numbers_of, unread
from nanochat_pl.data.stage_data import FailureInPlace, StageData
from nanochat_pl.model.loss import IGNORED
from nanochat_pl.system.assets import TASKS
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.paths import tokenizer_dir, user_path
from nanochat_pl.tasks.base import Mixture, Task
from nanochat_pl.tokenizer.conversation import Rendered, render, render_for_completion
from nanochat_pl.tokenizer.encoding import Tokenizer

Scored = Literal["assistant", "all"]

MEASURED = 4096  # conversations packed to learn how many rows an epoch has


class ChatData(StageData):
    """Rows of T+1 tokens packed from whole conversations.

    Args:
        train: what is trained on; a task listed twice is oversampled.
        val: what validation is measured on.
        mask: "assistant" learns what the assistant wrote, "all" every token.
        epochs: how often every conversation is read, unless `--trainer.max_steps` says how long the run is.
        seed: of the order in which the tasks are mixed.
        tokenizer: name or folder of a tokenizer; null means the one of the model the stage starts from.
        sequence_len: tokens of a row; longer conversations lose their end, and are counted.
        device_batch_rows: rows of one micro-batch on one device.
        batch_tokens: tokens of one optimizer step over all devices; accumulation follows from it.
        buffer_conversations: conversations the packing chooses from.
        num_workers: 1 packs in a process beside the training, 0 within it.
    """

    is_chat = True

    def __init__(
        self,
        train: list[Task],
        val: list[Task],
        mask: Scored = "assistant",
        epochs: float = 1.0,
        seed: int = 42,
        tokenizer: str | None = None,
        sequence_len: int = 2048,
        device_batch_rows: int = 8,
        batch_tokens: int = 16384,
        buffer_conversations: int = 100,
        num_workers: int = 1,
    ) -> None:
        super().__init__(
            tokenizer=tokenizer,
            sequence_len=sequence_len,
            device_batch_rows=device_batch_rows,
            batch_tokens=batch_tokens,
            num_workers=num_workers,
        )
        if not train or not val:
            raise BadInput("data.init_args: train and val need one task each at least")
        if not epochs > 0:
            raise BadInput(f"data.init_args.epochs={epochs}: give more than 0")
        if buffer_conversations < 1:
            raise BadInput(
                f"data.init_args.buffer_conversations={buffer_conversations}: the packing needs 1 at least"
            )
        self.mask, self.epochs, self.seed = mask, epochs, seed
        self.buffer_conversations = buffer_conversations
        self.train, self.val = Mixture(train, seed=seed), Mixture(val, seed=seed)
        self._told: ChatPosition | None = None

    @property
    def tokenizer_folder(self) -> Path:
        """The folder the tokenizer is read from."""
        if self.tokenizer is None:
            raise BadInput(
                "data.init_args.tokenizer: a chat stage takes that of the model it starts from, and there is none\n"
                "Train the run that model.init_args.init_from names first, or name a tokenizer."
            )
        given = user_path(self.tokenizer)
        return given if given.is_dir() else tokenizer_dir(self.tokenizer)

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of the training mixture."""
        return self.train.fingerprint

    @property
    def fetched_for(self) -> str:
        """The stage's file; where `data fetch` brings nothing for it, one that the exams come with."""
        is_fetched = any(task.asset in TASKS for task in (*self.train.tasks, *self.val.tasks))
        return self.config_path if is_fetched else "configs/d20_sft.yaml"

    def preflight(self) -> tuple[str, ...]:
        """Open tasks and tokenizer, so that what is missing is known before anything else happens."""
        for mixture, key in ((self.train, "train"), (self.val, "val")):
            if len(mixture) == 0:
                raise Failure(f"data.init_args.{key}: its tasks hold no conversation")
        self.tokenizer_on_disk = Tokenizer.load(self.tokenizer_folder)
        self._require_something_to_learn()
        return (f"{len(self.train):,} conversations for training, {len(self.val):,} for validation",)

    def _require_something_to_learn(self) -> None:
        """Read conversations up to the first that teaches something; nearly always that is the first.

        Raises:
            Failure: none does.
        """
        reader = self._reader(self.train)
        if not any(True for _ in reader.documents(iter(range(len(self.train))))):
            raise reader.nothing_to_learn()

    def planned_rows(self) -> int:
        """Return how many rows `epochs` take: an even sample of the conversations is packed and scaled up."""
        if self.tokenizer_on_disk is None:
            self.preflight()
        step = max(1, math.ceil(len(self.train) / MEASURED))
        sampled = range(0, len(self.train), step)
        rows = self._reader(self.train).rows_of(iter(sampled))
        return math.ceil(self.epochs * len(self.train) * sum(1 for _ in rows) / len(sampled))

    def identity(self) -> dict[str, Any]:
        """Return what a position depends on."""
        return {
            "mixture": self.train.fingerprint[:12],
            "mask": self.mask,
            "sequence_len": self.sequence_len,
            "buffer_conversations": self.buffer_conversations,
        }

    def dealt_anew(self, positions: list[ChatPosition], ranks: int) -> list[ChatPosition]:
        """Return the positions from which `ranks` ranks read what the old ranks have not."""
        dealt = dealt_anew(positions, ranks, lambda rank, number: turns(rank, len(positions), number))
        counts = {key: max(old[key] for old in positions) for key in ("truncated", "unanswered")}
        return [ChatPosition(next=0, buffered=[], redealt=one, **counts) for one in dealt]

    def stream(self, start: ChatPosition | None) -> IterableDataset:
        """Return this rank's endless batches from a position on; None is the beginning."""
        return ConversationStream(
            self._reader(self.train),
            rows=self.device_batch_rows,
            accumulation=self.trainer.accumulate_grad_batches,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            start=start,
        )

    def validation_batches(self) -> Iterator[Batch]:
        """Yield the first `eval_tokens` tokens of validation rows, one row at least."""
        reader = self._reader(self.train if self.eval_split == "train" else self.val)
        wanted = max(1, self.eval_tokens // self.sequence_len)
        rows = islice(reader.rows_of(iter(range(len(reader.mixture)))), wanted)
        while chunk := list(islice(rows, self.device_batch_rows)):
            yield reader.batch(chunk)

    def prompt_ids(self, prompt: str) -> list[int]:
        """Return the ids of a user's message, up to where the assistant's answer begins."""
        return render_for_completion(
            self.tokenizer_on_disk, {"messages": [{"role": "user", "content": prompt}]}
        )

    def tell(self, position: ChatPosition) -> None:
        """Say how many of rank 0's conversations did not fit, at the first and at every tenfold."""
        for key, words in (
            ("truncated", f"were longer than {self.sequence_len + 1} tokens and lost their end"),
            ("unanswered", "had no token to learn left and were passed over"),
        ):
            told = self._told[key] if self._told else 0
            if position[key] and len(str(position[key])) > len(str(told)) * (told > 0):
                print(f"note: {position[key]} conversation(s) or texts {words}", file=sys.stderr)
        self._told = position

    def _reader(self, mixture: Mixture) -> Reader:
        return Reader(
            mixture,
            self.tokenizer_on_disk,
            sequence_len=self.sequence_len,
            buffer_conversations=self.buffer_conversations,
            mask=self.mask,
        )


class Reader:
    """Conversations of a mixture as documents, rows and batches; counts what did not fit.

    Args:
        mixture: the conversations.
        tokenizer: gives their ids.
        sequence_len: tokens of a row.
        buffer_conversations: conversations the packing chooses from.
        mask: what is scored.

    Attributes:
        seen: number of the last conversation looked at.
        truncated: conversations whose end was cut off so far.
        unanswered: conversations passed over so far, since no scored token was left.
        cut_away: those of them that lost their scored tokens with their end.
    """

    def __init__(
        self,
        mixture: Mixture,
        tokenizer: Tokenizer,
        *,
        sequence_len: int,
        buffer_conversations: int,
        mask: Scored,
    ) -> None:
        self.mixture, self.tokenizer, self.mask = mixture, tokenizer, mask
        self.sequence_len, self.buffer_conversations = sequence_len, buffer_conversations
        self.seen = -1
        self.truncated = self.unanswered = self.cut_away = 0

    def packing(self, numbers: Iterator[int], buffered: Sequence[int] = ()) -> BestFit:
        """Return rows of the conversations of these numbers; those already buffered were counted before."""
        return BestFit(
            self.documents(numbers),
            row_tokens=self.sequence_len + 1,
            buffer_docs=self.buffer_conversations,
            buffered=[_document(number, self._rendered(number)) for number in buffered],
            crop=False,
        )

    def rows_of(self, numbers: Iterator[int]) -> Iterator[np.ndarray]:
        """Yield the rows of conversations, until there are none left."""
        packing = self.packing(numbers)
        while (row := packing.row()).size:
            yield row

    def batch(self, rows: Sequence[np.ndarray]) -> Batch:
        """Stack rows, (2, up to T+1) ids and mask; what is missing is BOS to read and not scored."""
        inputs = torch.full((len(rows), self.sequence_len), self.tokenizer.bos_id, dtype=torch.int64)
        targets = torch.full((len(rows), self.sequence_len), IGNORED, dtype=torch.int64)
        for place, (ids, mask) in enumerate(rows):
            inputs[place, : len(ids) - 1] = torch.from_numpy(ids[:-1])
            targets[place, : len(ids) - 1] = torch.from_numpy(np.where(mask[1:], ids[1:], IGNORED))
        return Batch(inputs, targets)

    def nothing_to_learn(self) -> Failure:
        """Return what to raise where no conversation was left, and why that is."""
        cut = f"{self.cut_away} were cut off at {self.sequence_len + 1} tokens, before their first answer"
        remedy = (
            "Raise data.init_args.sequence_len; the model's context is its limit." if self.cut_away else ""
        )
        return Failure(
            f"data.init_args.train: {self.unanswered} conversation(s) read and no token to learn in any"
            f"{f'; {cut}' if self.cut_away else ''}\n{remedy}".rstrip()
        )

    def documents(self, numbers: Iterator[int]) -> Iterator[Document]:
        """Yield the conversations of these numbers that have something to learn."""
        for number in numbers:
            rendered = self._rendered(number)
            self.seen = number
            if any(rendered.mask[1:]):
                self.truncated += rendered.truncated
                yield _document(number, rendered)
            else:
                self.unanswered += 1
                self.cut_away += rendered.truncated

    def _rendered(self, number: int) -> Rendered:
        """Return ids and mask of one item of the mixture, a conversation or a document."""
        index, most = number % len(self.mixture), self.sequence_len + 1
        item = self.mixture[index]
        if "text" in item:
            ids = self.tokenizer.encode(item["text"], prepend="<|bos|>")
            return _all_scored(Rendered(ids[:most], [], len(ids) > most))
        try:
            rendered = render(self.tokenizer, item, most)
        except BadInput as error:
            task, place = self.mixture.place(index)
            raise Failure(f"{self.mixture.tasks[task].name}, item {place}: {error}") from None
        return _all_scored(rendered) if self.mask == "all" else rendered


def _all_scored(rendered: Rendered) -> Rendered:
    """Score every token but the first, before which there is nothing."""
    return rendered._replace(mask=[0] + [1] * (len(rendered.ids) - 1))


def _document(number: int, rendered: Rendered) -> Document:
    return Document(number, len(rendered.ids), np.array((rendered.ids, rendered.mask), np.int64))


class ConversationStream(FailureInPlace):
    """Endless batches of packed conversations for one rank.

    Args:
        reader: the conversations.
        rows: rows of a batch.
        accumulation: batches of a step.
        rank: this rank.
        world_size: number of ranks.
        start: where to begin; None is the beginning.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        rows: int,
        accumulation: int,
        rank: int,
        world_size: int,
        start: ChatPosition | None,
    ) -> None:
        self.reader, self.rows, self.accumulation = reader, rows, accumulation
        self.rank, self.world_size = rank, world_size
        self.start = start or ChatPosition(next=0, buffered=[], truncated=0, unanswered=0, redealt=None)

    def batches(self) -> Iterator[Batch]:
        """Yield batches without end; the last of a step carries the position behind the step."""
        rows = EndlessRows(self.reader, self.rank, self.world_size, self.start)
        while True:
            step = [
                self.reader.batch([rows.row() for _ in range(self.rows)]) for _ in range(self.accumulation)
            ]
            targets = sum(int((batch.targets != IGNORED).sum()) for batch in step)
            *first, last = (batch._replace(step_targets=targets) for batch in step)
            yield from first
            yield last._replace(position=rows.position)


class EndlessRows:
    """One rank's rows, epoch after epoch.

    Args:
        reader: the conversations.
        rank: this rank.
        world_size: number of ranks.
        start: where to begin.
    """

    def __init__(self, reader: Reader, rank: int, world_size: int, start: ChatPosition) -> None:
        self._reader, self._rank, self._world_size = reader, rank, world_size
        self._size = len(reader.mixture)
        reader.truncated, reader.unanswered = start["truncated"], start["unanswered"]
        self._redealt = start.get("redealt")
        first = next(numbers_of(self._redealt, start["next"], count))
        self._open(min([first, *start["buffered"]]) // self._size, start["next"], start["buffered"])

    def row(self) -> np.ndarray:
        """Return the next row, (2, up to T+1) ids and mask.

        Raises:
            Failure: epoch after epoch nothing was found to learn.
        """
        opened = self._epoch
        while not (row := self._packing.row()).size:
            if self._epoch > opened + self._world_size:  # some epoch has a conversation for every rank
                raise self._reader.nothing_to_learn()
            self._open(self._epoch + 1, (self._epoch + 1) * self._size)
        return row

    @property
    def position(self) -> ChatPosition:
        """Where the data stands behind the rows returned so far."""
        following = max(self._begin, self._reader.seen + 1)
        return ChatPosition(
            next=following,
            buffered=self._packing.buffered.tolist(),
            truncated=self._reader.truncated,
            unanswered=self._reader.unanswered,
            redealt=unread(self._redealt, following),
        )

    def _open(self, epoch: int, begin: int, buffered: Sequence[int] = ()) -> None:
        """Begin or continue an epoch at conversation number `begin`."""
        self._epoch, self._begin = epoch, begin
        numbers = numbers_of(self._redealt, begin, partial(turns, self._rank, self._world_size))
        of_epoch = takewhile(lambda number: number < (epoch + 1) * self._size, numbers)
        self._packing = self._reader.packing(of_epoch, buffered)


def turns(rank: int, world_size: int, number: int) -> Iterator[int]:
    """Yield a rank's conversations from `number` on, without end."""
    return count(number + (rank - number) % world_size, world_size)
