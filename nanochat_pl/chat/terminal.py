"""`chat`: talk to a model in the terminal, or by pipe.

On a terminal there is a prompt with history and several lines, Ctrl-C stops an answer and keeps the chat, Ctrl-D
leaves. Without one each line of the input is a message: answers go to stdout, everything else to stderr. What the
model says is stripped of characters that command a terminal.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from nanochat_pl.artifacts import find_artifact, generation_defaults, load_artifact, newest_chat_artifact
from nanochat_pl.chat.session import Session
from nanochat_pl.inference.engine import Engine
from nanochat_pl.inference.sampling import SamplingSettings
from nanochat_pl.inference.transcript import Piece
from nanochat_pl.sandbox.calculator import calculate
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.printable import printable


def chat(
    from_: str | None = None,
    prompt: str | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    seed: int | None = None,
    max_new_tokens: int | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Talk to a model.

    Args:
        from_: run or folder of the model; null means the newest of a chat stage.
        prompt: answer this and leave.
        temperature: 0 always says the likeliest; null means the model's default.
        top_k: choose among the k likeliest tokens, 0 among all; null means the model's default.
        top_p: choose among the likeliest tokens that together reach this probability.
        min_p: leave out tokens less likely than this fraction of the likeliest.
        seed: equal seeds give equal answers; null means a new one every time.
        max_new_tokens: length of an answer at most; null means the model's default.
        device: where to compute; auto takes a GPU where there is one.
    """
    if prompt is not None and not prompt.strip():
        raise BadInput("--prompt is empty; say something")
    folder = find_artifact(from_) if from_ else newest_chat_artifact()
    asked = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "seed": seed,
        "max_new_tokens": max_new_tokens,
    }
    settings = sampling_settings(
        default_settings(folder) | {key: value for key, value in asked.items() if value is not None}
    )
    artifact = load_artifact(folder, device=chosen_device(device))
    if artifact.provenance.get("is_chat") is False:
        print(
            f"note: {folder} learned from documents only; it continues texts, and was not taught to answer",
            file=sys.stderr,
        )
    session = Session(Engine(artifact.gpt, artifact.tokenizer, calculate), settings)
    if prompt is not None:
        answer_plainly(session, prompt)
    elif sys.stdin.isatty() and sys.stdout.isatty():
        from nanochat_pl.chat.screen import Screen

        Screen(session, title=f"{folder}").run()
    else:
        converse_by_pipe(session, sys.stdin)


def chosen_device(asked: str) -> str:
    """Return the device to compute on.

    Raises:
        BadInput: it is not here.
    """
    has_cuda = torch.cuda.is_available()
    if asked == "cuda" and not has_cuda:
        raise BadInput(
            "--device cuda: torch sees no GPU here; give cpu or leave it out\nWhat is wrong: python cli.py doctor"
        )
    return "cuda" if has_cuda and asked == "auto" else "cpu" if asked == "auto" else asked


def default_settings(folder: Path) -> dict[str, Any]:
    """Return how an artifact's model is sampled unless told otherwise.

    Raises:
        Failure: the artifact says something that cannot be done.
    """
    values = generation_defaults(folder)
    try:
        sampling_settings(values)
    except (BadInput, TypeError) as error:
        reason = str(error).replace("SamplingSettings.__init__() got an ", "")
        raise Failure(f"{folder}: its defaults for sampling are damaged: {reason}") from None
    return values


def sampling_settings(values: dict[str, Any]) -> SamplingSettings:
    """Return settings of these values; a `top_k` of 0 is all, a missing seed is drawn now.

    Raises:
        BadInput: a value is out of range, or leaves no answer.
    """
    if values.get("max_new_tokens") == 0:
        raise BadInput("max_new_tokens=0 leaves no answer; give 1 or more, or leave it out")
    values = {"seed": random.SystemRandom().getrandbits(32)} | values
    return SamplingSettings(**values | {"top_k": values.get("top_k") or None})


def converse_by_pipe(session: Session, lines: Iterable[str]) -> None:
    """Answer every line that is not blank; for one that cannot be answered the line of output is blank.

    Raises:
        Failure: at the end, if there were such lines.
    """
    refused = 0
    if hasattr(lines, "reconfigure"):
        lines.reconfigure(errors="replace")
    for line in lines:
        if not line.strip():
            continue
        try:
            answer_plainly(session, line.rstrip("\r\n"))
        except BadInput as error:
            refused += 1
            print(f"error: {error}", file=sys.stderr)
            print(flush=True)
    if refused:
        raise Failure(f"{refused} message(s) could not be answered; each has a blank line on stdout")


def answer_plainly(session: Session, text: str) -> None:
    """Print the answer to stdout as it comes, and the tool's work to stderr."""
    for shown in framed(session.ask(text)):
        print(shown.text, end="", file=sys.stderr if shown.is_tool else sys.stdout, flush=True)
    print(flush=True)


class Shown(NamedTuple):
    """Text for a person, safe to print."""

    text: str
    is_tool: bool


def framed(pieces: Iterator[Piece]) -> Iterator[Shown]:
    """Yield an answer's text, with a frame around what is said to and by the tool: `[37*41 = 1517] `."""
    kind = "text"
    for piece in pieces:
        if piece.kind != kind:
            yield Shown(FRAMES[kind, piece.kind], True)
            kind = piece.kind
        yield Shown(printable(piece.text), kind != "text")
    if kind != "text":
        yield Shown(FRAMES[kind, "text"], True)


FRAMES = {
    ("text", "python"): "[",
    ("text", "python_output"): "[",
    ("python", "python_output"): " = ",
    ("python_output", "python"): "] [",
    ("python", "text"): "] ",
    ("python_output", "text"): "] ",
}
