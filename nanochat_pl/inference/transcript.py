"""What one row wrote, for a reader: text as it comes, never half a character, and the parts of the whole turn."""

from __future__ import annotations

import codecs
from typing import NamedTuple

from nanochat_pl.inference.tool_use import Kind
from nanochat_pl.tokenizer.conversation import Part


class Piece(NamedTuple):
    """Some text of a turn, not empty.

    Attributes:
        kind: "text" of the assistant, "python" it wrote for the tool, "python_output" of the tool.
        text: whole characters.
    """

    kind: Kind
    text: str


class Transcript:
    """Bytes in, pieces and parts out. A part that is cut off inside a character ends with U+FFFD.

    Attributes:
        parts: the turn so far, in order; text is never empty, what was said to or by the tool may be.
    """

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self._kind: Kind = "text"
        self._decoder = _new_decoder()

    @property
    def text(self) -> str:
        """What the assistant wrote as text."""
        return "".join(part["text"] for part in self.parts if part["type"] == "text")

    def add(self, data: bytes) -> list[Piece]:
        """Continue the current part by the bytes of an id; return the characters this completes, if any."""
        return self._write(self._decoder.decode(data))

    def begin(self, kind: Kind) -> list[Piece]:
        """End the current part and begin one of `kind`; return what was left of the former."""
        rest = self.finish()
        self._kind, self._decoder = kind, _new_decoder()
        if kind != "text":
            self.parts.append({"type": kind, "text": ""})
        return rest

    def finish(self) -> list[Piece]:
        """End the turn; return what was left of it."""
        return self._write(self._decoder.decode(b"", final=True))

    def _write(self, text: str) -> list[Piece]:
        if not text:
            return []
        if not self.parts or self.parts[-1]["type"] != self._kind:
            self.parts.append({"type": self._kind, "text": ""})
        self.parts[-1]["text"] += text
        return [Piece(self._kind, text)]


def _new_decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")("replace")
