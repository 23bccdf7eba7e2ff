"""Words that nobody can read any more are lost; results that a full disk does not take are an error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat_pl.system.output import outlast_log, outlast_reader

GO_ON = (
    "import sys; from nanochat_pl.system.output import outlast_log, outlast_reader; outlast_log(); outlast_reader()\n"
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


def test_what_is_done_for_a_reader_ends_with_it():
    code = (
        "import sys; from nanochat_pl.system.output import outlast_reader; outlast_reader(ends_with_reader=True)\n"
        "try: print('word', flush=True)\n"
        "except BrokenPipeError: sys.exit(7)"
    )
    with subprocess.Popen(["true"], stdin=subprocess.PIPE) as gone:
        gone.wait()
        assert exit_code(code, stdout=gone.stdin) == 7


def cli(arguments: str, folder: Path, *flags: str, **streams) -> subprocess.CompletedProcess[str]:
    """Run a verb in a shell with an empty base directory; buffered unless the flags say otherwise."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = f"{sys.executable} {' '.join(flags)} cli.py {arguments}"
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.run(
        ["bash", "-c", command],
        env=env | {"NANOCHAT_BASE_DIR": str(folder)},
        text=True,
        check=False,
        **streams,
    )


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        *(
            (line, flags)
            for line in ("--help", "status", "status --help", "fit --help")
            for flags in ([], ["-u"])
        ),
        ("chat --help", []),  # for a reader
    ],
)
def test_results_that_the_disk_does_not_take_are_an_error_told_once(tmp_path, arguments, flags):
    with open("/dev/full", "wb") as full:
        done = cli(arguments, tmp_path, *flags, stdout=full)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: the results could not be written: No space left on device",
        "Make room where stdout goes (df -h; quota -s), or send it elsewhere.",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "closed"),
    [
        *(
            (line, code, closed)
            for line, code in (("status", 0), ("status --help", 0), ("statsu", 2))
            for closed in (">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "<&-")
        ),
        ("chat --help", 0, ">&-"),  # for a reader
    ],
)
def test_exit_code_is_the_same_where_streams_were_closed_before(tmp_path, arguments, code, closed):
    done = cli(f"{arguments} {closed}", tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)


def test_no_file_gets_the_number_of_a_stream_that_was_closed_before(tmp_path):
    code = (
        "import os, subprocess, sys; from nanochat_pl.system.output import open_streams; open_streams()\n"
        f"file = open({str(tmp_path / 'file')!r}, 'w'); print('out'); print('err', file=sys.stderr, flush=True)\n"
        "print(*(os.readlink(f'/proc/self/fd/{n}') for n in range(3)), file=file)\n"
        "file.flush(); subprocess.run(['bash', '-c', 'readlink /proc/$$/fd/{0,1,2} >&3'], pass_fds=[file.fileno()])\n"
    )
    command = ["bash", "-c", f'{sys.executable} -c "$0" <&- >&- 2>&-', code]
    assert subprocess.run(command, check=False).returncode == 0
    assert (tmp_path / "file").read_text().split() == ["/dev/null"] * 6


def test_bad_input_keeps_its_code_where_nobody_can_read_why(tmp_path):
    with open("/dev/full", "wb") as full:
        assert cli("fitt", tmp_path, stderr=full).returncode == 2


def test_words_that_are_read_arrive_in_order():
    code = (
        "import sys; from nanochat_pl.system.output import outlast_reader\n"
        "print('first ä'); outlast_reader(); print('second ö'); print('third', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.decode() == "first ä\nsecond ö\n"
    assert done.stderr == b"third\n"


def test_streams_that_somebody_replaced_stay(capsys):
    before = sys.stdout, sys.stderr
    outlast_log()
    outlast_reader()
    assert (sys.stdout, sys.stderr) == before
