"""One prompt being continued: which ids have come after it, what they say, and whether the last is known."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from nanochat_pl.inference.sampling import SamplingSettings
from nanochat_pl.inference.tool_use import Calculate, ControlIds, NextId, ToolUse
from nanochat_pl.inference.transcript import Piece, Transcript
from nanochat_pl.tokenizer.conversation import Part
from nanochat_pl.tokenizer.encoding import Tokenizer

FinishReason = Literal["stop", "length", "context"]


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


class Row:
    """One prompt and what has come after it.

    Args:
        prompt: its ids.
        settings: how it is continued.
        tokenizer: reads what is said.
        control: its control tokens.
        calculate: the tool, if there is one.
        context: positions the model has.
    """

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
    def parts(self) -> list[Part]:
        """The turn so far."""
        return self._transcript.parts

    @property
    def completion(self) -> Completion:
        """The finished row's."""
        assert self.finish_reason is not None
        return Completion(self.ids, self.mask, self._transcript.text, self.finish_reason, self.parts)

    def uniform(self) -> float:
        """Return the row's next random number, a multiple of 2^-32 in [0, 1)."""
        return self._random.getrandbits(32) / 2**32

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
