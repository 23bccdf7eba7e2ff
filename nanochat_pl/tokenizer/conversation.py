"""A conversation becomes ids, and a mask of what the assistant wrote itself.

    <|bos|>                                                                        0
    <|user_start|> text <|user_end|>                                               0
    <|assistant_start|> text  <|python_start|> expression <|python_end|>  …        0, then 1
                        <|output_start|> result <|output_end|>  … <|assistant_end|>   0, then 1

Control ids are placed here and nowhere else: every text, whoever wrote it, is encoded as text, and a text that
spells `<|bos|>` becomes the ids of seven characters. How rows are packed is the business of `data/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypedDict

from nanochat_pl.system.errors import BadInput
from nanochat_pl.tokenizer.encoding import Tokenizer


class Part(TypedDict):
    """A stretch of an assistant's message: its words, an expression for the tool, or the tool's answer."""

    type: Literal["text", "python", "python_output"]
    text: str


class Message(TypedDict):
    """One turn. Only an assistant's content may be a list of parts."""

    role: Literal["system", "user", "assistant"]
    content: str | list[Part]


class Conversation(TypedDict):
    """Messages in turns, beginning with the user's; tasks keep further keys beside them."""

    messages: list[Message]


class Rendered(NamedTuple):
    """A conversation as a model reads it.

    Attributes:
        ids: BOS first.
        mask: 1 where the id was written by the assistant, and is to be learned; as long as `ids`.
        truncated: whether the end was cut off.
    """

    ids: list[int]
    mask: list[int]
    truncated: bool


# How each kind of part is enclosed, and whether the assistant writes it.
ENCLOSED = {
    "text": (None, None, 1),
    "python": ("<|python_start|>", "<|python_end|>", 1),
    "python_output": ("<|output_start|>", "<|output_end|>", 0),
}


def render(tokenizer: Tokenizer, conversation: Conversation, max_tokens: int | None = None) -> Rendered:
    """Return the ids of a conversation and which of them the assistant wrote.

    A system message in front is put before the text of the first user message, with an empty line between.

    Args:
        tokenizer: gives the ids.
        conversation: not modified.
        max_tokens: what a row can hold; the rest is cut off. None means all.

    Raises:
        BadInput: roles do not alternate, or a content is not what its role may have.

    Source:
        nanochat's conversation format (github.com/karpathy/nanochat).
    """
    writing = _Writing(tokenizer)
    writing.special("<|bos|>", 0)
    for message in turns(conversation):
        if message["role"] == "user":
            writing.enclosed("<|user_start|>", message["content"], "<|user_end|>", 0)
            continue
        writing.special("<|assistant_start|>", 0)
        for part in as_parts(message["content"]):
            first, last, mask = ENCLOSED[part["type"]]
            writing.enclosed(first, part["text"], last, mask)
        writing.special("<|assistant_end|>", 1)
    return Rendered(
        writing.ids[:max_tokens],
        writing.mask[:max_tokens],
        max_tokens is not None and len(writing.ids) > max_tokens,
    )


def render_for_completion(tokenizer: Tokenizer, conversation: Conversation) -> list[int]:
    """Return the ids after which the assistant's next message begins; a last message of its own is left out.

    Raises:
        BadInput: as `render`.
    """
    messages = conversation["messages"]
    asked = messages[:-1] if messages and messages[-1].get("role") == "assistant" else messages
    ids = render(tokenizer, {"messages": asked}).ids
    return [*ids, tokenizer.special_ids["<|assistant_start|>"]]


def turns(conversation: Conversation) -> list[Message]:
    """Return the messages with a system message merged into the first user's, user and assistant in turns.

    Raises:
        BadInput: the conversation is not of this form; the message names the place.
    """
    messages = _messages(conversation)
    if messages and messages[0]["role"] == "system":
        messages = _merge_system(messages)
    if not messages:
        raise BadInput("conversation: has no message")
    for place, message in enumerate(messages):
        expected = "user" if place % 2 == 0 else "assistant"
        if message["role"] != expected:
            raise BadInput(
                f"conversation: message {place} is {message['role']!r}, expected {expected!r}; "
                "user and assistant alternate, beginning with the user"
            )
        if expected == "user" and not isinstance(message["content"], str):
            raise BadInput(f"conversation: message {place} of the user is no string")
    return messages


def _messages(conversation: Conversation) -> list[Message]:
    """Return the messages, each with a role and a content."""
    messages: Any = conversation.get("messages") if isinstance(conversation, dict) else None
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise BadInput('conversation: is no object with a list "messages"')
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise BadInput(f'conversation: message {place} has no "role" and "content"')
    return list(messages)


def _merge_system(messages: list[Message]) -> list[Message]:
    system, *rest = messages
    if not rest or rest[0]["role"] != "user" or not isinstance(rest[0]["content"], str):
        raise BadInput("conversation: a system message must be followed by the user's")
    if not isinstance(system["content"], str):
        raise BadInput("conversation: the system message is no string")
    return [{"role": "user", "content": f"{system['content']}\n\n{rest[0]['content']}"}, *rest[1:]]


def as_parts(content: str | list[Part]) -> list[Part]:
    """Return an assistant's content as parts.

    Raises:
        BadInput: it is neither a string nor a list of parts.
    """
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise BadInput(f"conversation: an assistant's content is {type(content).__name__}, not text or parts")
    for part in content:
        known = isinstance(part, dict) and part.get("type") in ENCLOSED and isinstance(part.get("text"), str)
        if not known:
            raise BadInput(
                f"conversation: {part!r:.80} is no part; it needs a text and a type of {', '.join(ENCLOSED)}"
            )
    return content


class _Writing:
    """Ids and mask, growing together."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.ids: list[int] = []
        self.mask: list[int] = []

    def special(self, name: str, mask: int) -> None:
        self.ids.append(self._tokenizer.special_ids[name])
        self.mask.append(mask)

    def enclosed(self, first: str | None, text: str, last: str | None, mask: int) -> None:
        if first is not None:
            self.special(first, mask)
        ids = self._tokenizer.encode(text)
        self.ids += ids
        self.mask += [mask] * len(ids)
        if last is not None:
            self.special(last, mask)
