"""The engine: many prompts continued at once, each by its own settings and none by its neighbours.

    waiting prompts ── a slot is free ──► prefill ┐
                                                  ├─► last hidden (B, C) ─► logits ─► sample ─► one id per row ─┐
    rows ── their last ids (B, 1) ──────► decode ─┘                                                             │
      ▲                                                                                                         │
      └────────────── tool output goes before the sample; a finished row gives its slot back ◄──────────────────┘

Rows occupy the first slots of the cache, so that no step copies keys: when one finishes, the last moves into its
place. Each step moves ids from device to host once, for the whole batch. A row whose last id is known is never
computed again. Batched and single products round differently, so at a tie within fp32's last bits a row's ids may
depend on the batch after all; nothing else does.

What is sampled is in `sampling.py`, the tool in `tool_use.py`, text for readers in `transcript.py`.

Letters: B rows, T positions, C width, V vocabulary.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from nanochat_pl.inference.kv_cache import KVCache
from nanochat_pl.inference.sampling import RowSettings, SamplingSettings, sample_rows
from nanochat_pl.inference.tool_use import Calculate, ControlIds, NextId, ToolUse
from nanochat_pl.inference.transcript import Part, Piece, Transcript
from nanochat_pl.model.gpt import GPT
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.tokenizer.encoding import Tokenizer

FinishReason = Literal["stop", "length", "context"]
PADDING = 0  # any id will do: nothing reads it


@dataclass(frozen=True)
class Completion:
    """What came after one prompt.

    Attributes:
        ids: all new ids. With "stop" the last one is the control token that ended the turn: it was sampled like
            any other, and a policy that is to learn when to stop needs it.
        mask: 1 for each sampled id, 0 for forced tool output.
        text: what the assistant wrote as text; no control token, nothing said to or by the tool.
        finish_reason: "stop" by a control token, "length" by `max_new_tokens`, "context" because the model has
            read as many positions as it can.
        parts: the turn for a conversation's history, `{"type": "text" | "python" | "python_output", "text": str}`.
    """

    ids: list[int]
    mask: list[int]
    text: str
    finish_reason: FinishReason
    parts: list[Part]


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
        if gpt.config.vocab_size < tokenizer.vocab_size:
            raise BadInput(
                f"the model knows {gpt.config.vocab_size} ids but the tokenizer has {tokenizer.vocab_size}; "
                "give the tokenizer the model was trained with"
            )
        self.gpt, self.tokenizer, self.calculate = gpt, tokenizer, calculate
        self.rows, self.prefill_chunk, self.dtype = rows, prefill_chunk, dtype
        self._control = ControlIds.of(tokenizer)

    def stream(self, prompt: Sequence[int], settings: SamplingSettings | None = None) -> Iterator[Piece]:
        """Continue one prompt and return its text as it comes; closing the iterator stops the work.

        Args:
            prompt: ids, rendered and beginning with BOS.
            settings: how; None means the defaults.

        Raises:
            BadInput: the prompt is empty, longer than the context, or has ids the model does not know.
        """
        row = self._new_row(0, prompt, settings or SamplingSettings())
        return self._stream(row)

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

    def _stream(self, row: _Row) -> Iterator[Piece]:
        for _ in self._steps([row]):
            yield from row.take_pieces()

    def _new_row(self, number: int, prompt: Sequence[int], settings: SamplingSettings) -> _Row:
        """Check a prompt and begin its row."""
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
        return _Row(
            [int(token) for token in prompt], settings, self.tokenizer, self._control, self.calculate, context
        )

    @torch.inference_mode()
    def _steps(self, rows: list[_Row]) -> Iterator[None]:
        """Bring all rows to their end; pause after each step."""
        waiting = deque(sorted((row for row in rows if not row.is_finished), key=_Row.by_length))
        if not waiting:
            return
        batch = _Batch(
            _in_dtype(self.gpt, self._compute_dtype()), self._cache(waiting), self._never_sampled()
        )
        while waiting or batch.rows:
            admitted = [waiting.popleft() for _ in range(min(batch.free, len(waiting)))]
            batch.step(admitted, self.prefill_chunk)
            yield

    def _cache(self, rows: Sequence[_Row]) -> KVCache:
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


class _Row:
    """One prompt and what has come after it."""

    def __init__(
        self,
        prompt: list[int],
        settings: SamplingSettings,
        tokenizer: Tokenizer,
        control: ControlIds,
        calculate: Calculate | None,
        context: int,
    ) -> None:
        self.prompt, self.settings = prompt, settings
        self.ids: list[int] = []
        self.mask: list[int] = []
        self.finish_reason: FinishReason | None = None
        room = context - len(prompt) + 1  # the last position's id is read off but never fed
        self._most_ids = room if settings.max_new_tokens is None else min(room, settings.max_new_tokens)
        self._limit: FinishReason = "length" if self._most_ids == settings.max_new_tokens else "context"
        self._tokenizer, self._control = tokenizer, control
        self._tool = ToolUse(tokenizer, control, calculate)
        self._transcript, self._pieces = Transcript(), []
        self._random = random.Random(settings.seed)
        self._finish_if_due()

    def by_length(self) -> int:
        """Sort key: the longest prompts first, so that those read together are alike."""
        return -len(self.prompt)

    @property
    def is_finished(self) -> bool:
        """Whether the last id is known."""
        return self.finish_reason is not None

    @property
    def most_positions(self) -> int:
        """Positions the model may have to remember."""
        return len(self.prompt) + max(0, self._most_ids - 1)

    @property
    def completion(self) -> Completion:
        """The finished row's."""
        assert self.finish_reason is not None
        return Completion(
            self.ids, self.mask, self._transcript.text, self.finish_reason, self._transcript.parts
        )

    def uniform(self) -> float:
        """Return the row's next random number, a multiple of 2^-32 in [0, 1); none is used up for a forced id."""
        return 0.0 if self._tool.is_forced else self._random.getrandbits(32) / 2**32

    def add(self, sampled: int) -> None:
        """Go on by one id, the sampled one unless the tool speaks."""
        chosen = self._tool.next_id(sampled)
        self.ids.append(chosen.id)
        self.mask.append(int(chosen.is_sampled))
        self._write(chosen)
        self._finish_if_due()

    def take_pieces(self) -> list[Piece]:
        """Return the text that has come since the last time."""
        taken, self._pieces = self._pieces, []
        return taken

    def _write(self, chosen: NextId) -> None:
        if chosen.id in self._control.tool:
            self._pieces += self._transcript.begin(self._tool.kind)
        elif chosen.id not in self._control.ends:
            self._pieces += self._transcript.add(self._tokenizer.decode_bytes([chosen.id]))

    def _finish_if_due(self) -> None:
        if self.ids and self.ids[-1] in self._control.ends:
            self.finish_reason = "stop"
        elif len(self.ids) == self._most_ids:
            self.finish_reason = self._limit
        if self.is_finished:
            self._pieces += self._transcript.finish()


class _Batch:
    """The rows being continued; row i is in slot i of the cache.

    Args:
        gpt: the model in its compute dtype.
        cache: its memory.
        never_sampled: (V,) bool.
    """

    def __init__(self, gpt: GPT, cache: KVCache, never_sampled: Tensor) -> None:
        self.rows: list[_Row] = []
        self._gpt, self._cache, self._never_sampled = gpt, cache, never_sampled
        self._settings: RowSettings | None = None  # of `rows`; None where they have changed

    @property
    def free(self) -> int:
        """Slots no row is in."""
        return len(self._cache.lengths) - len(self.rows)

    def step(self, admitted: list[_Row], prefill_chunk: int | None) -> None:
        """Give every row its next id, new ones their first; let go of those that have their last."""
        with torch.autocast(
            self._never_sampled.device.type, enabled=False
        ):  # a caller's would change the dtype
            hidden = self._read(admitted, prefill_chunk)
            self._admit(admitted)
            drawn = self._sample(hidden)
        for row, sampled in zip(self.rows, drawn, strict=True):
            row.add(sampled)
        self._release()

    def _read(self, admitted: list[_Row], prefill_chunk: int | None) -> Tensor:
        """Read the last id of every row and the prompts of new ones; return the last hidden states (B, C)."""
        hidden = []
        if self.rows:
            hidden.append(self._extend(0, [row.ids[-1:] for row in self.rows]))
        if admitted:
            hidden.append(self._prefill([row.prompt for row in admitted], prefill_chunk))
        return torch.cat(hidden)

    def _admit(self, rows: list[_Row]) -> None:
        if rows:
            self.rows += rows
            self._settings = None

    def _sample(self, hidden: Tensor) -> list[int]:
        """Draw an id for each row from the last hidden states (B, C)."""
        if self._settings is None:
            self._settings = RowSettings([row.settings for row in self.rows], hidden.device)
        logits = self._gpt.logits(hidden).masked_fill_(self._never_sampled, -torch.inf)  # (B, V)
        uniforms = [row.uniform() for row in self.rows]
        sampled = sample_rows(logits, self._settings, uniforms).tolist()  # the step's one wait for the device
        if min(sampled) < 0:
            raise Failure("the model's logits are not numbers: its weights are damaged or training diverged")
        return sampled

    def _prefill(self, prompts: list[list[int]], chunk: int | None) -> Tensor:
        """Read prompts, the longest first, into the free slots; return the last hidden states (B, C).

        Equal prompts are read once.
        """
        first = len(self.rows)
        unique = list(dict.fromkeys(map(tuple, prompts)))
        last: list[Tensor] = []
        for group in _alike(unique):
            last += self._prefill_group(first + len(last), group, chunk)
        sources = [unique.index(tuple(prompt)) for prompt in prompts]
        for place, source in reversed(
            list(enumerate(sources))
        ):  # source <= place: nothing needed is overwritten
            self._cache.copy(first + source, first + place)
        return torch.stack([last[source] for source in sources])

    def _prefill_group(self, first: int, prompts: list[tuple[int, ...]], chunk: int | None) -> list[Tensor]:
        """Read prompts, the longest first, together; return the last hidden state (C,) of each."""
        last: list[Tensor] = [torch.empty(0)] * len(prompts)
        longest = len(prompts[0])
        size = chunk or longest
        for begin in range(0, longest, size):
            parts = [prompt[begin : begin + size] for prompt in prompts if len(prompt) > begin]
            last[: len(parts)] = self._extend(first, parts)
        return last

    def _extend(self, first: int, parts: Sequence[Sequence[int]]) -> Tensor:
        """Continue slots `first` on by some ids each; return the hidden states of the last ones, (B, C)."""
        counts = [len(part) for part in parts]
        width = max(counts)
        padded = [[*part, *[PADDING] * (width - len(part))] for part in parts]
        ids = torch.tensor(padded, device=self._never_sampled.device)  # (B, T)
        hidden = self._gpt.hidden(ids, self._cache.extension(first, len(parts), width))  # (B, T, C)
        self._cache.advance(first, counts)
        return hidden[range(len(counts)), [count - 1 for count in counts]]

    def _release(self) -> None:
        """Free the slots of finished rows; the last row moves into the gap."""
        for slot in reversed(range(len(self.rows))):
            if self.rows[slot].is_finished:
                last = len(self.rows) - 1
                self._cache.copy(last, slot)
                self._cache.clear(last)
                self.rows[slot] = self.rows[last]
                self.rows.pop()
                self._settings = None


def _alike(prompts: Sequence[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Group prompts, the longest first, so that padding never makes one longer by more than a third."""
    groups: list[list[tuple[int, ...]]] = []
    for prompt in prompts:
        if groups and 4 * len(prompt) >= 3 * len(groups[-1][0]):
            groups[-1].append(prompt)
        else:
            groups.append([prompt])
    return groups


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
