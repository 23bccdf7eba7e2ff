"""The chat by pipe and on a terminal: answers on stdout, the rest on stderr, commands, stops."""

from __future__ import annotations

import io

import pytest
from chat.test_session import Said, text
from rich.console import Console

from nanochat_pl.artifacts import newest_chat_artifact
from nanochat_pl.chat.screen import Screen
from nanochat_pl.chat.session import Session
from nanochat_pl.chat.terminal import chat, converse_by_pipe, framed, sampling_settings
from nanochat_pl.inference.sampling import SamplingSettings
from nanochat_pl.inference.transcript import Piece
from nanochat_pl.system.errors import BadInput, Failure

OK = (text("ok"),)
CALL = (Piece("python", "37*41"), Piece("python_output", "1517"), text("It is 1517."))


def test_each_line_of_a_pipe_is_answered_on_stdout_and_tools_are_shown_on_stderr(capsys):
    converse_by_pipe(Session(Said(*CALL), SamplingSettings()), io.StringIO("What is 37*41?\n\nAgain?\n"))
    out, err = capsys.readouterr()
    assert out == "It is 1517.\nIt is 1517.\n"
    assert err == "[37*41 = 1517] [37*41 = 1517] "


def test_a_line_that_cannot_be_answered_is_named_and_the_next_is_answered(capsys):
    converse_by_pipe(Session(Said(text("ok")), SamplingSettings()), io.StringIO("x" * 500 + "\nshort\n"))
    out, err = capsys.readouterr()
    assert out == "ok\n"
    assert err.startswith("error: your message has 504 tokens")


def test_an_empty_pipe_says_nothing(capsys):
    converse_by_pipe(Session(Said(text("ok")), SamplingSettings()), io.StringIO(""))
    assert capsys.readouterr() == ("", "")


def test_what_commands_a_terminal_is_removed_from_what_the_model_says():
    shown = list(framed(iter([text("a\x1b[31mb\x9b2J\rc\x07\td\n")])))
    assert "".join(piece.text for piece in shown) == "a[31mb2Jc\td\n"


def test_a_call_that_is_cut_off_is_closed():
    shown = list(framed(iter([text("so "), Piece("python", "1+")])))
    assert [(piece.text, piece.is_tool) for piece in shown] == [
        ("so ", False),
        ("[", True),
        ("1+", True),
        ("] ", True),
    ]


def test_top_k_of_zero_is_all_and_seeds_differ_unless_given():
    assert sampling_settings({"top_k": 0}).top_k is None
    assert sampling_settings({}).seed != sampling_settings({}).seed
    assert sampling_settings({"seed": 7}).seed == 7


class Person:
    """Someone who types given lines; an exception in their place is what they do instead."""

    def __init__(self, *lines):
        self.lines = iter(lines)

    def __call__(self) -> str:
        line = next(self.lines, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line


def screen(*lines, says=OK) -> tuple[Screen, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, width=40, highlight=False)
    return Screen(Session(Said(*says), SamplingSettings()), "a model", console, Person(*lines)), out


def test_messages_are_answered_until_the_person_leaves():
    made, out = screen("hello", "", "   ", KeyboardInterrupt(), "and?", EOFError(), "never")
    made.run()
    assert [message["content"] for message in made.session.messages] == ["hello", "ok", "and?", "ok"]
    assert out.getvalue().count("ok\n") == 2


def test_commands_change_settings_and_say_so(tmp_path):
    file = tmp_path / "chat.jsonl"
    made, out = screen(
        "/temperature 0.5",
        "/top_k 7",
        "/top_k 0",
        "/help",
        "hello",
        f"/save {file}",
        f"/save {file}",
        "/clear",
    )
    made.run()
    assert made.session.settings.temperature == 0.5
    assert made.session.settings.top_k is None
    assert made.session.messages == []
    assert '"hello"' in file.read_text()
    for words in (
        "temperature 0.5",
        "top_k 7",
        "top_k all",
        "/clear",
        "saved to",
        "is there already",
        "forgotten",
    ):
        assert words in out.getvalue().replace("\n", "")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/temprature 1", "no command /temprature"),
        ("/temperature hot", "is no number"),
        ("/temperature -1", "negative"),
        ("/top_k 1.5", "is no whole number"),
        ("/save", "needs a file's name"),
        ("/save /proc/at/all", "could not be written"),
        ("x" * 500, "your message has 504 tokens"),
    ],
)
def test_what_cannot_be_done_is_said_and_the_chat_goes_on(line, words):
    made, out = screen(line, "hello")
    made.run()
    assert words in out.getvalue().replace("\n", "")
    assert made.session.messages[-1]["content"] == "ok"


def test_ctrl_c_stops_the_answer_and_keeps_the_chat():
    made, out = screen("first", says=(text("well "), KeyboardInterrupt()))
    made.run()
    assert made.session.messages[-1] == {"role": "assistant", "content": "well "}
    assert "(stopped)" in out.getvalue()


def test_markup_in_an_answer_is_text():
    made, out = screen("hello", says=(text("[bold]not bold[/bold] :smile:"),))
    made.run()
    assert "[bold]not bold[/bold] :smile:" in out.getvalue()


def test_without_a_model_the_command_that_makes_one_is_named(base_dir):
    with pytest.raises(Failure, match=r"python cli\.py demo"):
        newest_chat_artifact()
    with pytest.raises(Failure, match=r"python cli\.py demo"):
        chat(prompt="hello")


def test_an_empty_prompt_is_refused(base_dir):
    with pytest.raises(BadInput, match="--prompt is empty"):
        chat(prompt="  ")
