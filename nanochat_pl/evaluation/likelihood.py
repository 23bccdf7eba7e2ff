"""How likely a model finds given continuations: ids in, losses out; nothing is generated.

`row_plan.py` says which positions are read together, `shared_prefix.py` reads the beginning that several rows share
once. Logits are computed where they are scored and nowhere else.

Letters: G rows of a batch, T positions, C width, V vocabulary, N scored positions, M scored ids (a position may be
asked for several).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from nanochat_pl.evaluation.row_plan import Branch, Continuation, plan_batches
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
        """Return the text of ids."""
        return self.tokenizer.decode(ids)

    @torch.inference_mode()
    def score(self, rows: Sequence[Continuation]) -> list[Likelihood]:
        """Return the likelihood of each continuation.

        Raises:
            BadInput: a row is longer than the context.
        """
        results = [Likelihood(0.0, math.nan, [], True)] * len(rows)
        for batch in plan_batches(rows, self.context, self._batch_tokens()):
            branches = [branch for group in batch for branch in group.branches]
            with self._autocast():
                hidden = read_batch(self.gpt, batch)  # (N, C)
            asked = _asked(branches, rows)
            answers = self._answers(hidden, asked)
            for number, likelihood in _by_row(branches, rows, asked, answers):
                results[number] = likelihood
        return results

    def _answers(self, hidden: Tensor, asked: _Asked) -> _Answers:
        """Return losses and likeliest ids from the hidden states (N, C)."""
        losses = torch.empty(len(asked.targets))
        likeliest = []
        chunk = max(1, LOGITS_BYTES // (4 * self.gpt.config.vocab_size))
        for begin in range(0, len(hidden), chunk):
            logits = self.gpt.logits(hidden[begin : begin + chunk])  # (n, V)
            here = np.flatnonzero((asked.places >= begin) & (asked.places < begin + chunk))
            places, targets = (torch.from_numpy(ids[here]).to(hidden.device) for ids in asked)
            losses[here] = -logits.log_softmax(-1)[places - begin, targets].cpu()
            likeliest.append(logits.argmax(-1).cpu())
        return _Answers(losses, torch.cat(likeliest))

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


class _Asked(NamedTuple):
    """Which ids are scored where.

    Attributes:
        places: (M,) numbers of hidden states.
        targets: (M,) ids.
    """

    places: np.ndarray
    targets: np.ndarray


class _Answers(NamedTuple):
    """What came out.

    Attributes:
        losses: (M,) fp32 nats.
        likeliest: (N,) ids.
    """

    losses: Tensor
    likeliest: Tensor


def _asked(branches: Sequence[Branch], rows: Sequence[Continuation]) -> _Asked:
    """Return what is scored of each branch's rows, in their order, given the hidden states each branch needs."""
    places, targets, end = [], [], 0
    for branch in branches:
        end += branch.needed
        for number in branch.rows:
            ids, start = rows[number]
            places.append(np.arange(end - (len(ids) - start), end))
            targets.append(ids[start:])
    return _Asked(np.concatenate(places), np.concatenate(targets).astype(np.int64))


def _by_row(
    branches: Sequence[Branch], rows: Sequence[Continuation], asked: _Asked, answers: _Answers
) -> Iterator[tuple[int, Likelihood]]:
    """Yield the number of each row and its likelihood."""
    begin = 0
    for number in (number for branch in branches for number in branch.rows):
        end = begin + len(rows[number].ids) - rows[number].start
        losses, likeliest = answers.losses[begin:end], answers.likeliest[asked.places[begin:end]]
        is_greedy = np.array_equal(likeliest, asked.targets[begin:end])
        yield number, Likelihood(losses.sum().item(), losses.mean().item(), likeliest.tolist(), is_greedy)
        begin = end
