"""Words that nobody can read any more are lost; results that a full disk does not take are an error."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

GO_ON = (
    "import sys; from nanochat_pl.system.output import outlast_readers; outlast_readers()\n"
    "for _ in range(3): print('word ' * 20000, file={stream}, flush=True)\n"
    "sys.exit(7)"
)


def exit_code(code: str, *flags: str, **streams) -> int:
    return subprocess.run([sys.executable, *flags, "-c", code], check=False, **streams).returncode


@pytest.mark.parametrize("flags", [[], ["-u"]], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_program_goes_on_when_its_reader_has_gone(stream, flags):
    with subprocess.Popen(["true"], stdin=subprocess.PIPE) as gone:
        gone.wait()
        assert exit_code(GO_ON.format(stream=f"sys.{stream}"), *flags, **{stream: gone.stdin}) == 7


def test_program_goes_on_when_the_disk_of_its_log_is_full():
    with open("/dev/full", "wb") as full:
        assert exit_code(GO_ON.format(stream="sys.stderr"), stdout=full, stderr=full) == 7


def test_results_that_the_disk_does_not_take_are_an_error_told_once(tmp_path):
    command = [sys.executable, "cli.py", "status"]
    env = os.environ | {"NANOCHAT_BASE_DIR": str(tmp_path)}
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, env=env, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") <= 3


def test_words_that_are_read_arrive_in_order():
    code = (
        "import sys; from nanochat_pl.system.output import outlast_readers\n"
        "print('first ä'); outlast_readers(); print('second ö'); print('third', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.decode() == "first ä\nsecond ö\n"
    assert done.stderr == b"third\n"


def test_streams_that_somebody_replaced_stay(capsys):
    from nanochat_pl.system.output import outlast_readers

    before = sys.stdout, sys.stderr
    outlast_readers()
    assert (sys.stdout, sys.stderr) == before
