"""What the system refuses is told with the command that helps, where there is one."""

from __future__ import annotations

import errno
import os

import pytest

import cli
from nanochat_pl.system.errors import told


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "df -h"),
        (errno.EDQUOT, "quota -s"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EROFS, "NANOCHAT_BASE_DIR"),
    ],
)
def test_refusals_of_the_system_come_with_a_remedy(number, remedy, monkeypatch, capsys):
    def refuse(argv):
        raise OSError(number, os.strerror(number), "/scratch/run")

    monkeypatch.setattr(cli, "run", refuse)
    assert cli.main(["status"]) == 1
    said = capsys.readouterr().err
    assert os.strerror(number) in said
    assert "/scratch/run" in said
    assert remedy in said
    assert said.count("\n") <= 3


def test_a_refusal_without_a_known_remedy_and_no_memory():
    assert told(FileNotFoundError(2, "No such file", "x")) == "FileNotFoundError: [Errno 2] No such file: 'x'"
    assert told(MemoryError()).startswith("out of memory\n")
