"""The chat by pipe and on a terminal: answers on stdout, the rest on stderr, commands, stops."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import sys
import threading

import pytest
from chat.test_session import TOKENIZER, Said, text
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.input.typeahead import get_typeahead
from prompt_toolkit.input.vt100 import Vt100Input
from prompt_toolkit.output import DummyOutput
from rich.console import Console
from tiny_gpt import random_gpt

import cli
from nanochat_pl.artifacts import newest_chat_artifact, save_artifact
from nanochat_pl.chat.keyboard import ctrl_c_follows, message_reader, quiet_keyboard
from nanochat_pl.chat.screen import Screen
from nanochat_pl.chat.session import Session
from nanochat_pl.chat.terminal import chat, converse_by_pipe, framed, sampling_settings
from nanochat_pl.inference.sampling import SamplingSettings
from nanochat_pl.inference.transcript import Piece
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.paths import run_dir

OK = (text("ok"),)
CALL = (Piece("python", "37*41"), Piece("python_output", "1517"), text("It is 1517."))


def test_each_line_of_a_pipe_is_answered_on_stdout_and_tools_are_shown_on_stderr(capsys):
    converse_by_pipe(Session(Said(*CALL), SamplingSettings()), io.StringIO("What is 37*41?\n\nAgain?\n"))
    out, err = capsys.readouterr()
    assert out == "It is 1517.\nIt is 1517.\n"
    assert err == "[37*41 = 1517] [37*41 = 1517] "


def test_a_line_that_cannot_be_answered_is_named_and_the_next_is_answered(capsys):
    lines = io.StringIO("x" * 500 + "\nshort\n")
    with pytest.raises(Failure, match=r"1 message\(s\) could not be answered"):
        converse_by_pipe(Session(Said(text("ok")), SamplingSettings()), lines)
    out, err = capsys.readouterr()
    assert out == "\nok\n"
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
        ("/temperature nan", "temperature=nan is no number"),
        ("/temperature 1e39", "draws every id alike"),
        ("/top_k 99999999999999999999", "more than any vocabulary has"),
        ("/top_k 1.5", "is no whole number"),
        ("/save", "needs a file's name"),
        ("/save chat.jsonl", "nothing was said yet"),
        ("/save ~no-such-user/x", "nobody's home folder"),
        ("x" * 500, "your message has 504 tokens"),
    ],
)
def test_what_cannot_be_done_is_said_and_the_chat_goes_on(line, words):
    made, out = screen(line, "hello")
    made.run()
    assert words in out.getvalue().replace("\n", "")
    assert made.session.messages[-1]["content"] == "ok"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no/such/folder/x", "there is no such folder"),
        ("n" * 300, "could not be written: File name too long"),
        ("n" * 250, "could not be written: File name too long"),
        ("n" * 300 + "/x", "File name too long"),
        (".", "is there already"),
    ],
    ids=lambda value: value[:20],
)
def test_a_conversation_that_cannot_be_saved_goes_on(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    made, out = screen("hello", f"/save {name}", "more")
    made.run()
    assert words in out.getvalue().replace("\n", "")
    assert [message["content"] for message in made.session.messages] == ["hello", "ok", "more", "ok"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", ["/quit now", "/QUIT", "/exit"])
def test_leaving_is_understood_in_capitals_and_with_words_behind_it(line):
    made, _ = screen("hello", "/CLEAR", line, "never")
    made.run()
    assert made.session.messages == []


def test_interrupts_that_follow_each_other_stop_one_answer(monkeypatch):
    class Hammered(Session):
        def _answer(self, messages, prompt):
            try:
                yield text("well ")
                signal.raise_signal(signal.SIGINT)
                yield text("never")
            finally:
                signal.raise_signal(signal.SIGINT)  # while the first is dealt with
                self.messages = [*messages, {"role": "assistant", "content": "well"}]

    made, out = screen()
    made.session = Hammered(Said(*OK), SamplingSettings())

    def read():
        signal.raise_signal(signal.SIGINT)  # at the prompt
        if made.session.messages:
            raise EOFError
        return "hello"

    made.read = read
    before = signal.getsignal(signal.SIGINT)
    made.run()
    assert out.getvalue().endswith("well \n(stopped)\n")
    assert signal.getsignal(signal.SIGINT) is before


@pytest.fixture
def terminal(monkeypatch):
    """A terminal as standard input; what is written to the number it yields is typed there."""
    keys, behind = os.openpty()
    with open(behind) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield keys
    os.close(keys)


def test_what_is_typed_during_an_answer_is_not_shown_and_waits_for_the_prompt(terminal):
    with quiet_keyboard():
        paste = threading.Thread(target=os.write, args=(terminal, b"x" * 8000))
        paste.start()
        keyboard, got = Vt100Input(sys.stdin), ""
        while len(got) < 8000:
            select.select([sys.stdin], [], [], 10)
            got += "".join(press.data for press in keyboard.read_keys())
        paste.join()
        assert got == "x" * 8000
        assert select.select([terminal], [], [], 0)[0] == []  # nothing came back to be shown
    os.write(terminal, b"y")
    assert select.select([terminal], [], [], 10)[0] == [terminal]


@pytest.mark.parametrize(
    ("typed", "follows", "left"), [("\x03", True, ""), ("ab", False, "ab"), ("a\x03b", True, "b")]
)
def test_ctrl_c_right_behind_enter_is_seen_and_what_follows_is_kept(typed, follows, left):
    with create_pipe_input() as keyboard:
        keyboard.send_text(typed)
        assert ctrl_c_follows(keyboard) is follows
        assert "".join(press.data for press in get_typeahead(keyboard)) == left


def test_a_message_is_read_at_the_prompt_and_kept_for_the_next_chat(base_dir):
    with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=DummyOutput()):
        keyboard.send_text("hello\r")
        assert message_reader()() == "hello"
        keyboard.send_text("take me back\r\x03")
        with pytest.raises(KeyboardInterrupt):
            message_reader()()
    assert "+hello" in (base_dir / "chat_history").read_text()
    assert (base_dir / "chat_history").stat().st_mode & 0o077 == 0


def test_without_a_place_for_the_history_the_chat_goes_on_without_one(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "file"))
    with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=DummyOutput()):
        keyboard.send_text("hello\r")
        assert message_reader()() == "hello"
    assert capsys.readouterr().err.startswith("note: what you type is not kept for the next chat: ")


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


@pytest.mark.parametrize(
    ("trained", "missing"),
    [(["base"], ["mid", "sft"]), (["base", "mid"], ["sft"]), (["mid"], ["sft"])],
    ids=["base", "base and mid", "mid, and base was removed"],
)
def test_stages_a_chat_model_lacks_are_named_with_the_commands_that_train_them(
    base_dir, capsys, trained, missing
):
    for stage in trained:
        artifact = run_dir(f"d20_{stage}") / "artifact"
        artifact.mkdir(parents=True)
        (artifact / "config.json").write_text("{}")
    assert cli.main(["chat", "--prompt", "hello"]) == 1
    problem, remedy, other = capsys.readouterr().err.splitlines()
    assert problem.endswith(f"; d20 lacks {' and '.join(f'd20_{stage}' for stage in missing)}")
    train = " && ".join(f"python cli.py fit --config configs/d20_{stage}.yaml" for stage in missing)
    assert remedy == f"Train what it lacks: {train}"
    assert "python cli.py demo" in other
    assert cli.main(["chat", "--from", "d20_sft", "--prompt", "hello"]) == 2
    assert capsys.readouterr().err.splitlines()[1] == f"Train it first: {train}"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [({"foo": 1}, "unexpected keyword argument 'foo'"), ({"temperature": "hot"}, "'hot' is not a number")],
    ids=str,
)
def test_damaged_defaults_of_an_artifact_are_told_with_its_folder(talker, settings, complaint):
    (talker / "generation.json").write_text(json.dumps(settings))
    with pytest.raises(Failure, match=f"{talker}: its defaults for sampling are damaged: .*{complaint}"):
        chat(from_=str(talker), prompt="hello")


def test_no_room_for_an_answer_is_refused(talker):
    with pytest.raises(BadInput, match="max_new_tokens=0 leaves no answer"):
        chat(from_=str(talker), prompt="hello", max_new_tokens=0)


@pytest.mark.parametrize(("is_chat", "is_noted"), [(False, True), (True, False), (None, False)])
def test_a_base_model_is_announced_as_one(talker, capsys, is_chat, is_noted):
    facts = json.loads((talker / "provenance.json").read_text())
    (talker / "provenance.json").write_text(json.dumps(facts | {"is_chat": is_chat}))
    chat(from_=str(talker), prompt="hello", max_new_tokens=1)
    assert ("was not taught to answer" in capsys.readouterr().err) is is_noted


@pytest.fixture
def talker(tmp_path):
    """The folder of a small model."""
    save_artifact(tmp_path / "talker", random_gpt(), TOKENIZER, {"is_chat": True})
    return tmp_path / "talker"


def test_an_empty_prompt_is_refused(base_dir):
    with pytest.raises(BadInput, match="--prompt is empty"):
        chat(prompt="  ")
