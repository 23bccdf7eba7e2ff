"""A conversation with a model: its history, kept within the context by whole turns, and one answer at a time.

Knows nothing of terminals; `terminal.py` reads and prints.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from nanochat_pl.inference.engine import Engine
from nanochat_pl.inference.sampling import SamplingSettings
from nanochat_pl.inference.transcript import Piece
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.files import write_text
from nanochat_pl.tokenizer.conversation import Message, Part, render_for_completion

ROOM_FOR_ANSWER = 4  # a context is divided by this to get the least room an answer must have


class Session:
    """Messages so far, and the model that answers them.

    Args:
        engine: answers.
        settings: how.

    Attributes:
        messages: the conversation; an answer that was stopped is in it as far as it came.
    """

    def __init__(self, engine: Engine, settings: SamplingSettings) -> None:
        self.engine, self.settings = engine, settings
        self.messages: list[Message] = []

    def ask(self, text: str) -> Iterator[Piece]:
        """Add a user's message and yield the answer as it comes; closing the iterator ends the answer there.

        Raises:
            BadInput: the message alone leaves no room for an answer.
        """
        text = text.encode(errors="replace").decode()  # half a surrogate pair cannot be saved
        messages: list[Message] = [*self.messages, {"role": "user", "content": text}]
        prompt = self._fitting_prompt(messages)
        return self._answer(messages, prompt)

    def clear(self) -> None:
        """Begin anew."""
        self.messages = []

    def save(self, path: Path) -> None:
        """Write the conversation as one line of JSON, the form training reads.

        Raises:
            BadInput: there is none yet, a file of this name is there, or its folder is not.
            Failure: it cannot be written.
        """
        if not self.messages:
            raise BadInput("nothing was said yet, so there is nothing to save")
        line = json.dumps({"messages": self.messages}, ensure_ascii=False) + "\n"
        try:
            if path.exists():
                raise BadInput(f"{path} is there already; choose another name")
            if not path.parent.is_dir():
                raise BadInput(f"{path.parent}: there is no such folder")
            write_text(path, line)
        except OSError as error:
            raise Failure(f"{path}: could not be written: {error.strerror}") from None

    def _answer(self, messages: list[Message], prompt: list[int]) -> Iterator[Piece]:
        answer = self.engine.stream(prompt, self.settings)
        try:
            yield from answer
        finally:
            answer.close()
            self.messages = [*messages, {"role": "assistant", "content": _content(answer.parts)}]

    def _fitting_prompt(self, messages: list[Message]) -> list[int]:
        """Return the ids to continue, leaving out the oldest turns where the context is too short for all."""
        context = self.engine.gpt.config.sequence_len
        most = context - max(1, context // ROOM_FOR_ANSWER)
        for first in range(0, len(messages), 2):
            prompt = render_for_completion(self.engine.tokenizer, {"messages": messages[first:]})
            if len(prompt) <= most:
                return prompt
        raise BadInput(
            f"your message has {len(prompt)} tokens, but this model reads {context} in all and an answer needs "
            f"{context - most} of them; shorten it"
        )


def _content(parts: list[Part]) -> str | list[Part]:
    """Return an answer's content: plain text where there is nothing but text."""
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts
