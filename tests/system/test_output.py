"""Words that nobody can read any more are lost; results that a full disk does not take are an error."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

GO_ON = (
    "import sys; from nanochat_pl.system.output import outlast_reader as o; o('stdout'); o('stderr')\n"
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


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&-"])
@pytest.mark.parametrize(("arguments", "code"), [("status", 0), ("statsu", 2)])
def test_exit_code_is_the_same_where_streams_were_closed_before(tmp_path, arguments, code, closed):
    command = f"{sys.executable} cli.py {arguments} {closed}"
    env = os.environ | {"NANOCHAT_BASE_DIR": str(tmp_path)}
    done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)


def test_bad_input_keeps_its_code_where_nobody_can_read_why():
    with open("/dev/full", "wb") as full:
        assert subprocess.run([sys.executable, "cli.py", "fitt"], stderr=full, check=False).returncode == 2


def test_words_that_are_read_arrive_in_order():
    code = (
        "import sys; from nanochat_pl.system.output import outlast_reader\n"
        "print('first ä'); outlast_reader('stdout'); print('second ö'); print('third', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.decode() == "first ä\nsecond ö\n"
    assert done.stderr == b"third\n"


def test_streams_that_somebody_replaced_stay(capsys):
    from nanochat_pl.system.output import outlast_reader

    before = sys.stdout, sys.stderr
    outlast_reader("stdout")
    outlast_reader("stderr")
    assert (sys.stdout, sys.stderr) == before
