"""A stop signal is noted and the program goes on; the second Ctrl-C is obeyed."""

from __future__ import annotations

import os
import signal

import pytest

from nanochat_pl.system import signals


@pytest.fixture(autouse=True)
def _usual_effect_afterwards():
    yield
    signals.forget()


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)],
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
