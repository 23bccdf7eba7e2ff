"""Nothing but `data fetch` reaches beyond this machine: every run of these tests is kept from it, and none tries."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tiny_stage import TinyStage


@pytest.mark.parametrize(
    "attempt",
    [
        "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)",
        "import urllib.request; urllib.request.urlopen('http://192.0.2.1/', timeout=1)",
        "import socket; socket.getaddrinfo('hub.invalid', 443)",
        "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
        "from huggingface_hub import get_session; get_session().get('http://192.0.2.1/', timeout=1)",
    ],
)
def test_what_keeps_runs_from_the_network_works(attempt, tmp_path):
    stage = TinyStage(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", attempt], env=stage.environment(), capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "no network in tests" in done.stderr
    assert stage.network_log.read_text()


def test_training_opens_no_connection(stage):
    assert stage.logged_steps("unbroken") == stage.steps
    assert stage.weights("unbroken")
    assert not stage.network_log.exists()
