"""PretrainData: text shards of a corpus become batches of packed rows, on every rank its own.

    Documents ─ text ─► Tokenizer ─ ids ─► BestFit ─ rows ─► Batch with its position ─► Trainer ─► checkpoint

How a position gets into the checkpoint is said in `stage_data.py`. Validation always reads the same rows.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nanochat_pl.data.batch import Batch, Position
from nanochat_pl.data.packing import BestFit, Document
from nanochat_pl.data.redeal import dealt_anew, numbers_of, unread
from nanochat_pl.data.shards import Documents, NumberedText, Skipped
from nanochat_pl.data.stage_data import FailureInPlace, StageData
from nanochat_pl.system.assets import CORPORA
from nanochat_pl.system.corpus import (
    BadShard,
    BadShardPolicy,
    Corpus,
    command_to_obtain,
    iter_texts,
    iter_validation_texts,
    open_corpus,
)
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.paths import corpus_dir, is_plain_name, tokenizer_dir, user_path
from nanochat_pl.tokenizer.encoding import Tokenizer

ENCODED_TOGETHER = 64  # documents
MOST_READERS = 8  # threads that read the buffer again after a restart
NONE = torch.empty(0, dtype=torch.int64)


class PretrainData(StageData):
    """Rows of T+1 tokens that begin with BOS, packed from a corpus while training runs.

    Args:
        corpus: name of a folder below `data/` in the base directory.
        path: folder of your own parquet, JSONL or text files; takes the place of `corpus`.
        tokenizer: name or folder of a tokenizer; null means the one named after the corpus.
        sequence_len: tokens of a row.
        device_batch_rows: rows of one micro-batch on one device.
        batch_tokens: tokens of one optimizer step over all devices; accumulation follows from it.
        buffer_docs: documents the packing chooses from.
        shuffle_seed: seed of a new order of shards in every epoch; null keeps the order of their names.
        on_bad_shard: "error" ends the run at a damaged shard, "skip" says so and leaves it out.
        num_workers: 1 packs in a process beside the training, 0 within it.
    """

    def __init__(
        self,
        corpus: str = "fineweb_edu",
        path: str | None = None,
        tokenizer: str | None = None,
        sequence_len: int = 2048,
        device_batch_rows: int = 32,
        batch_tokens: int = 524288,
        buffer_docs: int = 1000,
        shuffle_seed: int | None = None,
        on_bad_shard: BadShardPolicy = "error",
        num_workers: int = 1,
    ) -> None:
        super().__init__(
            tokenizer=tokenizer,
            sequence_len=sequence_len,
            device_batch_rows=device_batch_rows,
            batch_tokens=batch_tokens,
            num_workers=num_workers,
        )
        if buffer_docs < 1:
            raise BadInput(f"data.init_args.buffer_docs={buffer_docs}: the packing needs 1 document at least")
        self.corpus, self.path = corpus, path
        self.buffer_docs, self.shuffle_seed = buffer_docs, shuffle_seed
        self.on_bad_shard = on_bad_shard
        self.corpus_on_disk: Corpus | None = None
        self._reported: set[str] = set()

    @property
    def corpus_folder(self) -> Path:
        """The folder the texts are read from."""
        return user_path(self.path) if self.path else corpus_dir(self.corpus)

    @property
    def tokenizer_folder(self) -> Path:
        """The folder the tokenizer is read from."""
        if self.tokenizer and user_path(self.tokenizer).is_dir():
            return user_path(self.tokenizer)
        return tokenizer_dir(self.tokenizer or self.corpus_folder.absolute().name)

    @property
    def is_fetched(self) -> bool:
        """Whether the corpus comes from the hub: neither made here nor somebody's own."""
        return self.path is None and self.corpus in CORPORA and CORPORA[self.corpus].dataset_id is not None

    @property
    def fetched_for(self) -> str:
        """The stage's file; where `data fetch` brings nothing for it, one that CORE comes with."""
        return self.config_path if self.is_fetched else "configs/d20_base.yaml --shards 1"

    def completed(self, failure: Failure) -> Failure:
        """Return a failure with the command that mends it; one about somebody's own files is as it was."""
        if isinstance(failure, BadShard) and self.path is None and self.corpus in CORPORA:
            return failure.in_registry(
                command_to_obtain(CORPORA[self.corpus], self.corpus_folder, self.config_path)
            )
        return super().completed(failure)

    def preflight(self) -> tuple[str, ...]:
        """Open corpus and tokenizer, so that what is missing is known before anything else happens.

        Returns:
            What a user should hear about the corpus.

        Raises:
            BadInput: there is no corpus of this name.
            Failure: corpus or tokenizer is missing or damaged.
        """
        require_corpus(self.corpus_folder, self.corpus, self.path, self.config_path)
        self.corpus_on_disk = open_corpus(self.corpus_folder, on_bad_shard=self.on_bad_shard)
        if not self.tokenizer_folder.is_dir():
            raise Failure(
                f"{self.tokenizer_folder}: there is no tokenizer\nTrain it: {self._tokenizer_command()}"
            )
        self.tokenizer_on_disk = Tokenizer.load(self.tokenizer_folder)
        return self.corpus_on_disk.notes

    def _tokenizer_command(self) -> str:
        """Return the command that trains the tokenizer this stage looks for."""
        command = f"python cli.py tokenizer train --corpus {shlex.quote(self.path or self.corpus)}"
        name = f" --name {self.tokenizer}" if self.tokenizer and is_plain_name(self.tokenizer) else ""
        return f"{command} --vocab_size {self.vocab_size}{name}"

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of the corpus."""
        return self.corpus_on_disk.fingerprint

    def shortage(self, shards: int) -> str:
        """Return what to say where fewer shards are here than the plan counts, that of validation among them."""
        if not self.is_fetched:
            return ""
        here, needed = len(self.corpus_on_disk.train), min(shards, CORPORA[self.corpus].shards) - 1
        if here >= needed:
            return ""
        return (
            f"warning: {self.corpus_folder}: {here} of the {needed} training shards of the plan are here; "
            "documents will repeat\n"
            f"Get the rest: python cli.py data fetch --for {self.config_path} --shards {needed}"
        )

    def identity(self) -> dict[str, Any]:
        """Return what a position depends on."""
        return {
            "corpus": self.corpus_on_disk.fingerprint[:12],
            "shuffle_seed": self.shuffle_seed,
            "buffer_docs": self.buffer_docs,
        }

    def dealt_anew(self, positions: list[Position], ranks: int) -> list[Position]:
        """Return the positions from which `ranks` ranks read what the old ranks have not."""
        olds = [
            Documents(self.corpus_on_disk.train, rank=rank, world_size=len(positions))
            for rank in range(len(positions))
        ]
        dealt = dealt_anew(positions, ranks, lambda rank, number: olds[rank].numbers_from(number))
        return [
            Position(
                next=0,
                buffered=NONE,
                skipped=_earliest(positions),
                redealt={
                    "backlog": torch.tensor(one["backlog"], dtype=torch.int64),
                    "turns_from": one["turns_from"],
                },
            )
            for one in dealt
        ]

    def stream(self, start: Position | None) -> RowStream:
        """Return this rank's endless batches from a position on; None is the beginning."""
        return RowStream(
            self.corpus_on_disk,
            self.tokenizer_on_disk,
            rows=self.device_batch_rows,
            sequence_len=self.sequence_len,
            buffer_docs=self.buffer_docs,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            shuffle_seed=self.shuffle_seed,
            on_bad_shard=self.on_bad_shard,
            start=start,
        )

    def validation_batches(self) -> Iterator[Batch]:
        """Yield the first `eval_tokens` tokens of the rows of `eval_split`."""
        read = iter_validation_texts if self.eval_split == "val" else iter_texts
        return validation_batches(
            read(getattr(self.corpus_on_disk, self.eval_split)),
            self.tokenizer_on_disk,
            tokens=self.eval_tokens,
            rows=self.device_batch_rows,
            sequence_len=self.sequence_len,
            buffer_docs=self.buffer_docs,
        )

    def prompt_ids(self, prompt: str) -> list[int]:
        """Return the ids of a text's beginning."""
        return self.tokenizer_on_disk.encode(prompt, prepend="<|bos|>")

    def tell(self, position: Position) -> None:
        """Name each shard that is left out, once."""
        skipped = position["skipped"]
        for name in skipped.keys() - self._reported:
            self._reported.add(name)
            print(
                f"warning: {skipped[name][1]}; its documents are skipped ({len(skipped)} so far)",
                file=sys.stderr,
            )


def _earliest(positions: list[Position]) -> dict[str, tuple[int, str]]:
    """Return the shards that any rank leaves out, each from the first document at which one did."""
    found: dict[str, tuple[int, str]] = {}
    for position in positions:
        for name, facts in position["skipped"].items():
            found[name] = min(found.get(name, facts), facts)
    return found


def require_corpus(folder: Path, corpus: str, path: str | None, config: str) -> None:
    """Refuse a corpus that is not here, with the command that gets it.

    Raises:
        BadInput: no corpus has this name, or there is no folder at `path`.
        Failure: the corpus is known but not here.
    """
    if folder.is_dir():
        return
    if path is not None:
        raise BadInput(f"data.init_args.path={path}: there is no such folder")
    if corpus in CORPORA:
        command = CORPORA[corpus].obtain.format(config=config)
        raise Failure(f"{folder}: the corpus {corpus} is not here\nGet it: {command}")
    near = get_close_matches(corpus, CORPORA, n=1)
    hint = (
        f"Did you mean {near[0]}?"
        if near
        else f"Known are {', '.join(CORPORA)}; for your own files use data.init_args.path."
    )
    raise BadInput(f"data.init_args.corpus={corpus}: there is no such corpus ({folder})\n{hint}")


class RowStream(FailureInPlace):
    """Endless batches of packed rows for one rank."""

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Tokenizer,
        *,
        rows: int,
        sequence_len: int,
        buffer_docs: int,
        rank: int,
        world_size: int,
        shuffle_seed: int | None,
        on_bad_shard: BadShardPolicy,
        start: Position | None,
    ) -> None:
        self.corpus, self.tokenizer = corpus, tokenizer
        self.rows, self.sequence_len, self.buffer_docs = rows, sequence_len, buffer_docs
        self.rank, self.world_size = rank, world_size
        self.shuffle_seed, self.on_bad_shard = shuffle_seed, on_bad_shard
        self.start = start or Position(next=0, buffered=NONE, skipped={}, redealt=None)

    def batches(self) -> Iterator[Batch]:
        """Yield batches without end, each with the position behind it."""
        documents = self._documents()
        packing = self._packing(documents)
        while True:
            rows = torch.from_numpy(np.stack([packing.row() for _ in range(self.rows)]))  # (B, T + 1)
            yield Batch(rows[:, :-1].clone(), rows[:, 1:].clone(), self._position(packing, documents))

    def _packing(self, documents: Documents) -> BestFit:
        """Return the packing as it stood at the start position."""
        return BestFit(
            self._tokenized(
                documents,
                numbers_of(self.start.get("redealt"), self.start["next"], documents.numbers_from),
            ),
            row_tokens=self.sequence_len + 1,
            buffer_docs=self.buffer_docs,
            buffered=self._read_again(self.start["buffered"].numpy()),
        )

    def _read_again(self, numbers: np.ndarray) -> Iterator[Document]:
        """Read the documents that were in the buffer; they may lie far apart, so several are read at a time."""
        threads = min(MOST_READERS, os.cpu_count() or 1)
        with ThreadPoolExecutor(threads) as pool:
            parts = [part.tolist() for part in np.array_split(numbers, threads)]
            for documents in pool.map(lambda part: list(self._tokenized(self._documents(), part)), parts):
                yield from documents

    def _documents(self) -> Documents:
        documents = Documents(
            self.corpus.train,
            rank=self.rank,
            world_size=self.world_size,
            shuffle_seed=self.shuffle_seed,
            on_bad_shard=self.on_bad_shard,
        )
        documents.skipped |= {name: Skipped(*facts) for name, facts in self.start["skipped"].items()}
        return documents

    def _position(self, packing: BestFit, documents: Documents) -> Position:
        """Return where the data stands behind the rows packed so far."""
        following = packing.last_taken + 1
        return Position(
            next=following,
            buffered=torch.from_numpy(packing.buffered),
            skipped={name: tuple(facts) for name, facts in documents.skipped.items()},
            redealt=unread(self.start.get("redealt"), following),
        )

    def _tokenized(self, documents: Documents, numbers: Iterable[int]) -> Iterator[Document]:
        return tokenized(documents.read(numbers), self.tokenizer, self.sequence_len + 1)


def tokenized(texts: Iterable[NumberedText], tokenizer: Tokenizer, row_tokens: int) -> Iterator[Document]:
    """Yield each text as a document that begins with BOS, with as many ids as a row can hold."""
    texts = iter(texts)
    while chunk := list(islice(texts, ENCODED_TOGETHER)):
        ids, offsets = tokenizer.encode_flat([text for _, text in chunk], prepend_bos=True)
        for (number, _), start, end in zip(chunk, offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            yield Document(number, end - start, ids[start : min(end, start + row_tokens)].copy())


def validation_batches(
    texts: Iterable[str], tokenizer: Tokenizer, *, tokens: int, rows: int, sequence_len: int, buffer_docs: int
) -> Iterator[Batch]:
    """Yield the rows validation is measured on, `rows` at a time: one pass over the texts, packed as for one rank.

    Args:
        texts: the documents of the validation split.
        tokenizer: gives their ids.
        tokens: how many to read, rounded down to whole rows, one row at least.
        rows: rows of a batch; only the last may have fewer.
        sequence_len: tokens of a row; the last row is padded with targets of -1 if the texts run out.
        buffer_docs: documents the packing chooses from.
    """
    documents = tokenized(map(NumberedText._make, enumerate(texts)), tokenizer, sequence_len + 1)
    packing = BestFit(documents, row_tokens=sequence_len + 1, buffer_docs=buffer_docs)
    packed = (row for _ in range(max(1, tokens // sequence_len)) if len(row := packing.row()) > 1)
    while chunk := list(islice(packed, rows)):
        yield _padded(chunk, sequence_len, tokenizer.bos_id)


def _padded(rows: list[np.ndarray], sequence_len: int, bos_id: int) -> Batch:
    """Stack rows of up to T + 1 tokens; what is missing is BOS to read and -1 to predict."""
    inputs = torch.full((len(rows), sequence_len), bos_id, dtype=torch.int64)
    targets = torch.full((len(rows), sequence_len), -1, dtype=torch.int64)
    for place, row in enumerate(rows):
        inputs[place, : len(row) - 1] = torch.from_numpy(row[:-1])
        targets[place, : len(row) - 1] = torch.from_numpy(row[1:])
    return Batch(inputs, targets)
