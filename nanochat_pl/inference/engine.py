"""The engine: many prompts continued at once, each by its own settings and none by its neighbours.

    waiting prompts ── a slot is free ──► prefill ┐
                                                  ├─► last hidden (B, C) ─► logits ─► sample ─► one id per row ─┐
    rows ── their last ids (B, 1) ──────► decode ─┘                                                             │
      ▲                                                                                                         │
      └────────────── tool output goes before the sample; a finished row gives its slot back ◄──────────────────┘

A step is in `batch.py`, what becomes of one prompt in `row.py`, the choice of an id in `sampling.py`, the tool in
`tool_use.py`, text for readers in `transcript.py`.

Products of one row and of many round differently, so where two ids are equally good to fp32's last bits, which one a
row says may depend on the batch after all; nothing else does.

Letters: V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nanochat_pl.inference.batch import Batch
from nanochat_pl.inference.kv_cache import KVCache
from nanochat_pl.inference.padding import alike, padded
from nanochat_pl.inference.row import Completion, Row
from nanochat_pl.inference.sampling import SamplingSettings
from nanochat_pl.inference.tool_use import Calculate, ControlIds
from nanochat_pl.inference.transcript import Piece
from nanochat_pl.model.gpt import GPT
from nanochat_pl.system.errors import BadInput
from nanochat_pl.tokenizer.conversation import Part
from nanochat_pl.tokenizer.encoding import Tokenizer

POSITIONS_TOGETHER = 16_384  # read in one pass where nothing is to be remembered


class Stream(Iterator[Piece]):
    """The text of one turn as it comes.

    Args:
        pieces: the text.
        row: what it comes from.
    """

    def __init__(self, pieces: Generator[Piece, None, None], row: Row) -> None:
        self._pieces, self._row = pieces, row

    def __next__(self) -> Piece:
        return next(self._pieces)

    def close(self) -> None:
        """Stop the work."""
        self._pieces.close()

    @property
    def parts(self) -> list[Part]:
        """The turn so far, for a conversation's history."""
        return self._row.parts


class Engine:
    """Text out of a model. Holds no state between calls, so several threads may use one.

    Args:
        gpt: the model; every call uses its weights as they are then.
        tokenizer: the one it was trained with.
        calculate: the tool, from an expression to its result or None; None means results are never given.
        rows: prompts continued at once; the memory of a call grows with it.
        prefill_chunk: positions of a prompt read at once; None reads whole prompts. Bounds memory, changes nothing.
        dtype: what to compute in; None is bf16 on CUDA and the dtype of the weights elsewhere. Where it is not
            that of the weights, a call begins with a copy of them; logits are fp32 always.

    Raises:
        BadInput: a number is below 1, or the model knows fewer ids than the tokenizer.
    """

    def __init__(
        self,
        gpt: GPT,
        tokenizer: Tokenizer,
        calculate: Calculate | None = None,
        *,
        rows: int = 16,
        prefill_chunk: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _require_positive("rows", rows)
        _require_positive("prefill_chunk", prefill_chunk)
        require_known_ids(gpt, tokenizer)
        self.gpt, self.tokenizer, self.calculate = gpt, tokenizer, calculate
        self.rows, self.prefill_chunk, self.dtype = rows, prefill_chunk, dtype
        self._control = ControlIds.of(tokenizer)

    def stream(self, prompt: Sequence[int], settings: SamplingSettings | None = None) -> Stream:
        """Continue one prompt and return its text as it comes; closing the stream stops the work.

        Args:
            prompt: ids, rendered and beginning with BOS.
            settings: how; None means the defaults.

        Raises:
            BadInput: the prompt is empty, longer than the context, or has ids the model does not know.
        """
        row = self._new_row(0, prompt, settings or SamplingSettings())
        return Stream(self._stream(row), row)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings | Sequence[SamplingSettings] | None = None,
    ) -> list[Completion]:
        """Continue prompts.

        Args:
            prompts: ids of each, rendered and beginning with BOS; the lengths may differ.
            settings: one for each prompt, or one for all: then prompt i uses `seed + i`, so that equal prompts get
                different answers. None means the defaults.

        Returns:
            Their completions, in the order of the prompts.

        Raises:
            BadInput: a prompt is empty, longer than the context, or has ids the model does not know; or there are
                not as many settings as prompts.
        """
        each = _settings_of_each(len(prompts), settings)
        rows = [self._new_row(*numbered, own) for numbered, own in zip(enumerate(prompts), each, strict=True)]
        for _ in self._steps(rows):
            pass
        return [row.completion for row in rows]

    @torch.inference_mode()
    def next_logits(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Return the softcapped logits of the id behind each prompt, (B, V) fp32.

        Prompts of like length are read together, the shorter ones padded at their end, which nothing reads.

        Args:
            prompts: ids of each, rendered and beginning with BOS.

        Raises:
            BadInput: a prompt is empty, longer than the context, or has ids the model does not know.
        """
        for number, prompt in enumerate(prompts):
            self._require_readable(number, prompt)
        gpt, device = _in_dtype(self.gpt, self._compute_dtype()), self.gpt.wte.weight.device
        last = torch.empty(len(prompts), gpt.config.n_embd, dtype=gpt.wte.weight.dtype, device=device)
        with torch.autocast(device.type, enabled=False):  # a caller's would change the dtype
            for group in alike([len(prompt) for prompt in prompts], POSITIONS_TOGETHER):
                ids, lengths = padded([prompts[number] for number in group], device)
                last[group] = gpt.hidden(ids)[range(len(group)), [length - 1 for length in lengths]]
            return gpt.logits(last)

    def _stream(self, row: Row) -> Generator[Piece, None, None]:
        for _ in self._steps([row]):
            yield from row.take_pieces()

    def _new_row(self, number: int, prompt: Sequence[int], settings: SamplingSettings) -> Row:
        """Check a prompt and begin its row."""
        self._require_readable(number, prompt)
        context = self.gpt.config.sequence_len
        return Row(
            [int(token) for token in prompt], settings, self.tokenizer, self._control, self.calculate, context
        )

    def _require_readable(self, number: int, prompt: Sequence[int]) -> None:
        """Refuse a prompt the model cannot read."""
        context, known = self.gpt.config.sequence_len, self.gpt.config.vocab_size
        if not len(prompt):
            raise BadInput(f"prompt {number} is empty; begin with at least the BOS id")
        if len(prompt) > context:
            raise BadInput(
                f"prompt {number} has {len(prompt)} ids, but the model's context is sequence_len={context}; "
                "shorten it, or leave out the oldest turns"
            )
        if unknown := next((token for token in prompt if not 0 <= token < known), None):
            raise BadInput(
                f"prompt {number}: id {unknown} is none of the model's {known}; check the tokenizer"
            )

    @torch.inference_mode()
    def _steps(self, rows: list[Row]) -> Iterator[None]:
        """Bring all rows to their end; pause after each step."""
        waiting = deque(sorted((row for row in rows if not row.is_finished), key=Row.by_length))
        if not waiting:
            return
        batch = Batch(_in_dtype(self.gpt, self._compute_dtype()), self._cache(waiting), self._never_sampled())
        while waiting or batch.rows:
            admitted = [waiting.popleft() for _ in range(min(batch.free, len(waiting)))]
            batch.step(admitted, self.prefill_chunk)
            yield

    def _cache(self, rows: Sequence[Row]) -> KVCache:
        """Return a cache in which every row finds room."""
        return KVCache(
            self.gpt.config,
            min(self.rows, len(rows)),
            max(row.most_positions for row in rows),
            dtype=self._compute_dtype(),
            device=self.gpt.wte.weight.device,
        )

    def _compute_dtype(self) -> torch.dtype:
        weight = self.gpt.wte.weight
        if self.dtype is not None:
            return self.dtype
        return torch.bfloat16 if weight.is_cuda else weight.dtype

    def _never_sampled(self) -> Tensor:
        """Return (V,) bool: the tool's own tokens, and ids the tokenizer does not have."""
        never = torch.zeros(self.gpt.config.vocab_size, dtype=torch.bool)
        never[[self._control.output_start, self._control.output_end]] = True
        never[self.tokenizer.vocab_size :] = True
        return never.to(self.gpt.wte.weight.device)


def require_known_ids(gpt: GPT, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer with ids the model does not know.

    Raises:
        BadInput: it has some.
    """
    if gpt.config.vocab_size < tokenizer.vocab_size:
        raise BadInput(
            f"the model knows {gpt.config.vocab_size} ids but the tokenizer has {tokenizer.vocab_size}; "
            "give the tokenizer the model was trained with"
        )


def _in_dtype(gpt: GPT, dtype: torch.dtype) -> GPT:
    """Return the model with embedding and blocks in `dtype`, itself if they are.

    The output matrix stays as it is and is shared: logits are computed in fp32. So do the rotary tables.
    """
    if gpt.wte.weight.dtype == dtype:
        return gpt
    weights = {
        name: weight if name == "lm_head.weight" else weight.to(dtype)
        for name, weight in gpt.state_dict().items()
    }
    copy = GPT.on_meta(gpt.config)
    copy.load_state_dict(weights, assign=True)
    copy.cos, copy.sin = gpt.cos, gpt.sin
    return copy


def _settings_of_each(
    count: int, settings: SamplingSettings | Sequence[SamplingSettings] | None
) -> list[SamplingSettings]:
    """Return one for each of `count` prompts."""
    if settings is None:
        settings = SamplingSettings()
    if isinstance(settings, SamplingSettings):
        seed = settings.seed
        return [settings if seed is None else replace(settings, seed=seed + i) for i in range(count)]
    if len(settings) != count:
        raise BadInput(f"{len(settings)} settings for {count} prompts; give one for each, or one for all")
    return list(settings)


def _require_positive(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise BadInput(f"{name}={value} is below 1; give 1 or more")
