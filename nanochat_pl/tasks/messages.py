"""Conversations out of files people wrote, checked so that a mistake is named instead of trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nanochat_pl.tasks.rows import Row

if TYPE_CHECKING:
    from nanochat_pl.tokenizer.conversation import Message

PART_TYPES = ("text", "python", "python_output")
TURNS = ("user", "assistant")


def checked_messages(row: Row, messages: Any) -> list[Message]:
    """Return messages with their role and content, other keys dropped.

    Args:
        row: where they come from, for complaints.
        messages: a list; perhaps one of `system` first, then `user` and `assistant` in turn, at least one of each.

    Raises:
        Failure: they are something else; it names the row and the message.
    """
    if not isinstance(messages, list):
        raise row.failure(f"messages are {type(messages).__name__}, not a list")
    checked = [_checked(row, number, message) for number, message in enumerate(messages, start=1)]
    is_led = bool(checked) and checked[0]["role"] == "system"
    for turn, message in enumerate(checked[is_led:]):
        if message["role"] != TURNS[turn % 2]:
            number, expected = turn + is_led + 1, TURNS[turn % 2]
            raise row.failure(f"message {number} is of {message['role']!r}; it is the turn of {expected!r}")
    if len(checked) - is_led < len(TURNS):
        raise row.failure(f"has {len(checked)} message(s); needs one of the user and one of the assistant")
    return checked


def _checked(row: Row, number: int, message: Any) -> Message:
    spot = Row(f"{row.where}: message {number}", message)
    role = spot.field("role", str)
    if role == "assistant" and isinstance(message.get("content"), list):
        return {"role": role, "content": [_checked_part(spot, part) for part in message["content"]]}
    return {"role": role, "content": spot.field("content", str)}


def _checked_part(spot: Row, part: Any) -> dict[str, str]:
    inner = Row(spot.where, part)
    kind = inner.field("type", str)
    if kind not in PART_TYPES:
        raise spot.failure(f"part type {kind!r} does not exist; there is {', '.join(PART_TYPES)}")
    return {"type": kind, "text": inner.field("text", str)}
