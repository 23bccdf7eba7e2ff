"""A terminal that closes, as when an SSH connection drops: the run saves and stops, or goes on if it was told to."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time

import pytest
from tiny_stage import ROOT, TinyStage

from nanochat_pl.system.run_state import read_state


def in_a_terminal(stage: TinyStage, run: str, *options: str, hang_up: int) -> tuple[subprocess.Popen, int]:
    """Start `fit` as the leader of a terminal's session.

    Returns:
        The process and the other end of its terminal.
    """
    ours, theirs = pty.openpty()

    def begin() -> None:
        signal.signal(signal.SIGHUP, hang_up)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [sys.executable, "cli.py", "fit", "--config", str(stage.config), "--run", run, *options],
        cwd=ROOT,
        env=stage.environment() | {"SSH_CONNECTION": "10.0.0.2 50000 10.0.0.1 22"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=begin,
    )
    os.close(theirs)
    return process, ours


def close_at_step(stage: TinyStage, run: str, process: subprocess.Popen, terminal: int, step: int) -> str:
    """Close the terminal in the middle of the run and return what it had shown."""
    os.set_blocking(terminal, False)
    shown = b""
    while stage.logged_steps(run) < step:
        assert process.poll() is None, shown.decode()
        shown += read(terminal)
        time.sleep(0.01)
    shown += read(terminal)
    os.close(terminal)
    return shown.decode()


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except BlockingIOError:
        return b""


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_run_saves_and_stops_when_its_terminal_closes_and_the_same_command_continues(stage, ranks):
    run = f"closed_{ranks}"
    options = ["--trainer.devices", "2", "--trainer.strategy", "ddp"] if ranks == 2 else []
    process, terminal = in_a_terminal(stage, run, *options, hang_up=signal.SIG_DFL)
    shown = close_at_step(stage, run, process, terminal, step=3)
    assert process.wait(timeout=60) == 75
    assert (
        "if this SSH session ends, the run saves and stops; in tmux, or with nohup, it would go on" in shown
    )
    state = read_state(stage.folder(run))
    assert (state["state"], state["exit_code"]) == ("stopped", 75)
    assert state["reason"].startswith("the end of its terminal (SIGHUP); started in tmux, or with nohup,")
    done = stage.fit(*options, run=run)
    assert f"continuing {run} from step" in done.stderr
    if ranks == 2:
        stage.fit(*options, run="unbroken_2")
    unbroken = {1: "unbroken", 2: "unbroken_2"}[ranks]
    assert stage.losses(run) == stage.losses(unbroken)
    assert stage.weights(run) == stage.weights(unbroken)


@pytest.mark.slow
def test_run_that_was_told_to_goes_on_without_its_terminal(stage):
    process, terminal = in_a_terminal(stage, "nohup", hang_up=signal.SIG_IGN)
    shown = close_at_step(stage, "nohup", process, terminal, step=3)
    assert process.wait(timeout=120) == 0
    assert "SSH session" not in shown
    assert stage.losses("nohup") == stage.losses("unbroken")
    assert stage.weights("nohup") == stage.weights("unbroken")


@pytest.mark.slow
def test_run_goes_on_when_whoever_read_its_words_is_gone(stage):
    process = stage.start("fit", run="unread")
    while stage.logged_steps("unread") < 3:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.stderr.close()
    process.stdout.close()
    assert process.wait(timeout=120) == 0
    assert stage.weights("unread") == stage.weights("unbroken")
