"""Paths as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

import cli
from nanochat_pl.data import PretrainData
from nanochat_pl.system.errors import BadInput
from nanochat_pl.system.paths import base_dir, is_plain_name, user_path
from nanochat_pl.tasks import GSM8K, CustomJSON
from nanochat_pl.tasks.spellingbee import SpellingBee

NOBODY = "~no-such-user/x"


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert user_path("~/a b") == Path("/home/me/a b")
    assert user_path("a/~") == Path("a/~")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", "~/base")
    assert base_dir() == Path("/home/me/base")
    monkeypatch.delenv("NANOCHAT_BASE_DIR")
    assert base_dir() == Path("/home/me/.cache/nanochat_pl")


def test_the_home_of_nobody_is_refused_wherever_a_path_is_taken(monkeypatch):
    for read in (
        lambda: user_path(NOBODY),
        lambda: PretrainData(path=NOBODY).corpus_folder,
        lambda: PretrainData(tokenizer=NOBODY).tokenizer_folder,
        lambda: len(CustomJSON(NOBODY)),
        lambda: len(GSM8K(split="train", path=NOBODY)),
        lambda: SpellingBee(path=NOBODY).files,
    ):
        with pytest.raises(BadInput, match="~no-such-user is nobody's home folder here"):
            read()
    monkeypatch.setenv("NANOCHAT_BASE_DIR", NOBODY)
    with pytest.raises(BadInput, match="~no-such-user is nobody's home folder here"):
        base_dir()


@pytest.mark.parametrize(
    "line",
    [
        f"tokenizer train --corpus {NOBODY}",
        f"tokenizer show FILE --tokenizer {NOBODY}",
        f"data repackage {NOBODY}",
        f"chat --from {NOBODY} --prompt hi",
        f"report --out {NOBODY}",
    ],
)
def test_the_home_of_nobody_is_one_line_to_a_user(base_dir, capsys, line):
    assert cli.main(line.split()) == 2
    assert capsys.readouterr().err == (
        f"error: {NOBODY}: ~no-such-user is nobody's home folder here; write the path in full\n"
    )


@pytest.mark.parametrize(
    ("name", "is_plain"),
    [("mine", True), ("a b", True), ("..", False), (".", False), ("", False), ("a/b", False), ("/", False)],
)
def test_a_plain_name_leads_nowhere_else(name, is_plain):
    assert is_plain_name(name) is is_plain
