"""The tool: what the assistant writes between two control tokens is calculated, and the result is put into its mouth.

    sampled   <|python_start|> 1 2 * 3 <|python_end|>
    forced                                            <|output_start|> 3 6 <|output_end|>
    sampled                                                                               ...

One `ToolUse` per row decides which id comes next and what it belongs to. It sees ids alone; how they become text for
a reader is `transcript.py`'s concern, and what an expression may be is the calculator's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal, NamedTuple

from nanochat_pl.tokenizer.encoding import Tokenizer

Calculate = Callable[[str], "str | None"]
Kind = Literal["text", "python", "python_output"]


class ControlIds(NamedTuple):
    """The special tokens' ids by what they mean to a model that speaks.

    Attributes:
        python_start: the assistant calls the tool.
        python_end: and has said all of the expression.
        output_start: the tool answers; never sampled.
        output_end: never sampled.
        ends: all other special tokens; sampled, they end the turn.
    """

    python_start: int
    python_end: int
    output_start: int
    output_end: int
    ends: frozenset[int]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> ControlIds:
        """Look them up."""
        names = ("<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>")
        tool = [tokenizer.encode_special(name) for name in names]
        return cls(*tool, frozenset(tokenizer.special_ids.values()) - set(tool))

    @property
    def tool(self) -> tuple[int, int, int, int]:
        """The four that frame a call and its result."""
        return self[:4]


class NextId(NamedTuple):
    """An id of a row.

    Attributes:
        id: the id.
        is_sampled: the model chose it; otherwise it is tool output.
    """

    id: int
    is_sampled: bool


class ToolUse:
    """The state of one row.

    Args:
        tokenizer: reads expressions and writes results.
        control: its control tokens.
        calculate: from an expression to its result, None where it has none; None means there is no tool.
    """

    def __init__(self, tokenizer: Tokenizer, control: ControlIds, calculate: Calculate | None) -> None:
        self.kind: Kind = "text"
        self._tokenizer, self._control, self._calculate = tokenizer, control, calculate
        self._expression: list[int] = []
        self._forced: deque[int] = deque()

    def next_id(self, sampled: int) -> NextId:
        """Return the row's next id, and take note of it: a waiting one of the tool's, or else `sampled`."""
        chosen = NextId(self._forced.popleft(), False) if self._forced else NextId(sampled, True)
        self._note(chosen.id)
        return chosen

    def _note(self, token: int) -> None:
        if token == self._control.python_start:  # also within a call, which then begins anew
            self.kind, self._expression = "python", []
        elif token == self._control.python_end and self.kind == "python":
            self.kind = "text"
            self._answer()
        elif token == self._control.output_start:
            self.kind = "python_output"
        elif token == self._control.output_end:
            self.kind = "text"
        elif self.kind == "python":
            self._expression.append(token)

    def _answer(self) -> None:
        """Decide the next ids, if the expression has a result."""
        if self._calculate is None or not self._expression:
            return
        result = self._calculate(self._tokenizer.decode(self._expression))
        if result is not None:
            output = self._tokenizer.encode(result)
            self._forced.extend((self._control.output_start, *output, self._control.output_end))
