"""How likely a model finds given continuations: ids in, losses out; nothing is generated.

`row_plan.py` says which positions are read together, `shared_prefix.py` reads the beginning that several rows share
once. Logits are computed where they are scored and nowhere else.

Letters: G rows of a batch, T positions, C width, V vocabulary, N scored positions, M scored ids (a position may be
asked for several).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from nanochat_pl.evaluation.row_plan import Branch, Continuation, Group, plan_batches
from nanochat_pl.evaluation.shared_prefix import read_batch
from nanochat_pl.inference.engine import require_known_ids
from nanochat_pl.model.gpt import GPT
from nanochat_pl.tokenizer.encoding import Tokenizer

BATCH_TOKENS = {"cpu": 4_096}  # more leaves its caches
BATCH_TOKENS_ELSEWHERE = 32_768
LOGITS_BYTES = 64 << 20  # of those held at once


class Likelihood(NamedTuple):
    """What a model thinks of a continuation.

    Attributes:
        total: nats of all its ids together.
        mean: nats per id; not a number where there is no id.
        likeliest: the id the model would have said at each place, given the right ones before it.
        is_greedy: whether these are the ids of the continuation.
    """

    total: float
    mean: float
    likeliest: list[int]
    is_greedy: bool


NOTHING_SCORED = Likelihood(0.0, math.nan, [], True)


class Scorer(Protocol):
    """A model and its tokenizer.

    Attributes:
        context: ids a row may have.
        fingerprint: equal where equal texts have equal ids.
    """

    context: int
    fingerprint: str

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text, BOS before it."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""

    def score(self, rows: Sequence[Continuation]) -> list[Likelihood]:
        """Return the likelihood of each continuation; rows of at most `context` ids."""


class GPTScorer:
    """Likelihoods under a GPT.

    Args:
        gpt: the model; every call uses its weights as they are then.
        tokenizer: the one it was trained with.
        dtype: what to compute in; None is bf16 on CUDA and the dtype of the weights elsewhere. Logits are fp32 always.
        batch_tokens: positions read at once, padding included; None chooses by device. Bounds memory.

    Raises:
        BadInput: the model knows fewer ids than the tokenizer.
    """

    def __init__(
        self,
        gpt: GPT,
        tokenizer: Tokenizer,
        *,
        dtype: torch.dtype | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        require_known_ids(gpt, tokenizer)
        self.gpt, self.tokenizer, self.dtype, self.batch_tokens = gpt, tokenizer, dtype, batch_tokens
        self.context = gpt.config.sequence_len
        self.fingerprint = tokenizer.fingerprint

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of each text, BOS before it."""
        ids, offsets = self.tokenizer.encode_flat(texts, prepend_bos=True)
        return np.split(ids, offsets[1:-1])

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; one the model knows but the tokenizer does not is U+FFFD."""
        known = range(self.tokenizer.vocab_size)
        if all(token in known for token in ids):
            return self.tokenizer.decode(ids)
        return "".join(self.tokenizer.decode([token]) if token in known else "\ufffd" for token in ids)

    @torch.inference_mode()
    def score(self, rows: Sequence[Continuation]) -> list[Likelihood]:
        """Return the likelihood of each continuation.

        Raises:
            BadInput: a row is longer than the context.
        """
        results = [NOTHING_SCORED] * len(rows)
        for batch in plan_batches(rows, self.context, self._batch_tokens()):
            with self._autocast():
                hidden = read_batch(self.gpt, batch)  # (N, C)
            chunks = (
                self.gpt.logits(part) for part in hidden.split(logits_chunk(self.gpt.config.vocab_size))
            )
            for number, likelihood in read_logits(batch, rows, chunks):
                results[number] = likelihood
        return results

    def _batch_tokens(self) -> int:
        return self.batch_tokens or BATCH_TOKENS.get(self._weight.device.type, BATCH_TOKENS_ELSEWHERE)

    def _autocast(self) -> torch.autocast:
        """Return the context to compute in, where every dtype is settled."""
        weight = self._weight
        dtype = self.dtype or (torch.bfloat16 if weight.is_cuda else weight.dtype)
        return torch.autocast(weight.device.type, dtype, enabled=dtype != weight.dtype)

    @property
    def _weight(self) -> Tensor:
        return self.gpt.wte.weight


def logits_chunk(vocab_size: int) -> int:
    """Return how many positions' logits are held at once."""
    return max(1, LOGITS_BYTES // (4 * vocab_size))


def read_logits(
    batch: Sequence[Group], rows: Sequence[Continuation], chunks: Iterable[Tensor]
) -> Iterator[tuple[int, Likelihood]]:
    """Yield the number of each row of a batch and its likelihood.

    Args:
        batch: what was read.
        rows: all rows.
        chunks: fp32 logits (n, V) of the positions the batch needs, branch after branch, in pieces.
    """
    branches = [branch for group in batch for branch in group.branches]
    asked = _asked(branches, rows)
    losses, likeliest, begin = torch.empty(len(asked.targets)), [], 0
    for logits in chunks:
        here = np.flatnonzero((asked.places >= begin) & (asked.places < begin + len(logits)))
        places, targets = (torch.from_numpy(ids[here]).to(logits.device) for ids in asked)
        losses[here] = -logits.log_softmax(-1)[places - begin, targets].cpu()
        likeliest.append(logits.argmax(-1).cpu())
        begin += len(logits)
    return _by_row(branches, rows, asked, losses, torch.cat(likeliest))


class _Asked(NamedTuple):
    """Which ids are scored where.

    Attributes:
        places: (M,) numbers of positions.
        targets: (M,) ids.
    """

    places: np.ndarray
    targets: np.ndarray


def _asked(branches: Sequence[Branch], rows: Sequence[Continuation]) -> _Asked:
    """Return what is scored of each branch's rows, in their order, given the positions each branch needs."""
    places, targets, end = [], [], 0
    for branch in branches:
        end += branch.needed
        for number in branch.rows:
            ids, start = rows[number]
            places.append(np.arange(end - (len(ids) - start), end))
            targets.append(ids[start:])
    return _Asked(np.concatenate(places), np.concatenate(targets).astype(np.int64))


def _by_row(
    branches: Sequence[Branch],
    rows: Sequence[Continuation],
    asked: _Asked,
    losses: Tensor,
    likeliest: Tensor,
) -> Iterator[tuple[int, Likelihood]]:
    """Yield the likelihood of each row from losses (M,) and likeliest ids (N,)."""
    begin = 0
    for number in (number for branch in branches for number in branch.rows):
        end = begin + len(rows[number].ids) - rows[number].start
        own, said = losses[begin:end], likeliest[asked.places[begin:end]]
        is_greedy = np.array_equal(said, asked.targets[begin:end])
        yield number, Likelihood(own.sum().item(), own.mean().item(), said.tolist(), is_greedy)
        begin = end
