"""A stop signal is noted and the program goes on; the second Ctrl-C is obeyed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from nanochat_pl.system import signals


@pytest.fixture(autouse=True)
def _usual_effect_afterwards():
    yield
    signals.forget()


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 75),
        (signal.SIGUSR1, 75),
        (signal.SIGALRM, 75),
        (signal.SIGHUP, 75),
    ],
    ids=lambda value: str(value),
)
def test_a_signal_is_noted_and_has_an_exit_code(number, code):
    signals.listen()
    os.kill(os.getpid(), number)
    assert signals.first_received() == number
    assert signals.exit_code(number) == code


def test_second_interrupt_is_obeyed_at_once():
    signals.listen()
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_the_first_signal_decides():
    signals.listen()
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    assert signals.first_received() == signal.SIGTERM


def test_while_something_is_written_the_second_interrupt_is_noted_too():
    signals.listen()
    with signals.held():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert signals.first_received() == signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_the_time_limit_is_noted_like_a_signal():
    signals.listen()
    signals.listen_until(-5)
    deadline = time.monotonic() + 10
    while not signals.first_received():
        assert time.monotonic() < deadline
    assert signals.name_of(signals.first_received()) == "the time limit"


def test_a_file_is_a_person_s_wish():
    signals.note(signals.STOP_FILE)
    assert signals.exit_code(signals.first_received()) == 130
    assert signals.name_of(signals.STOP_FILE) == "the file STOP"


def test_a_verb_that_keeps_what_it_does_leaves_at_once_as_preempted():
    code = (
        "import os, signal, time; from nanochat_pl.system import signals; signals.leave_at_once()\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\ntime.sleep(60)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 75


def test_end_of_a_terminal_means_nothing_to_a_program_started_with_nohup():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals.listen()
    os.kill(os.getpid(), signal.SIGHUP)
    assert not signals.first_received()


@pytest.mark.parametrize(
    ("environment", "on_terminal", "hang_up", "ends"),
    [
        ({"SSH_CONNECTION": "a"}, True, signal.SIG_DFL, True),
        ({}, True, signal.SIG_DFL, False),
        ({"SSH_CONNECTION": "a"}, False, signal.SIG_DFL, False),
        ({"SSH_CONNECTION": "a", "TMUX": "b"}, True, signal.SIG_DFL, False),
        ({"SSH_CONNECTION": "a", "STY": "b"}, True, signal.SIG_DFL, False),
        ({"SSH_CONNECTION": "a"}, True, signal.SIG_IGN, False),
    ],
    ids=["ssh", "at the machine", "job", "tmux", "screen", "nohup"],
)
def test_only_what_an_ssh_session_takes_along_ends_with_it(
    monkeypatch, environment, on_terminal, hang_up, ends
):
    for name in ("SSH_CONNECTION", "TMUX", "STY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "isatty", lambda _: on_terminal)
    signal.signal(signal.SIGHUP, hang_up)
    assert signals.ends_with_connection() is ends
