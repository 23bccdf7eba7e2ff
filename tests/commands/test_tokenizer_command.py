"""`tokenizer train`: which corpus it reads, where it writes, and what it says when it cannot."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

import cli
from nanochat_pl.system.corpus import write_corpus
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.paths import corpus_dir, tokenizer_dir
from nanochat_pl.tokenizer.encoding import Tokenizer

RANDOM = Random(0)
DOCUMENTS = ["".join(RANDOM.choices("abcdefgh ", k=80)) for _ in range(60)]
TRAIN = ["tokenizer", "train", "--vocab_size", "300"]


@pytest.fixture
def my_texts(base_dir) -> Path:
    """A named corpus whose validation documents have letters that its training documents lack."""
    folder = corpus_dir("my_texts")
    folder.parent.mkdir(parents=True)
    write_corpus(folder, DOCUMENTS, val_texts=["zyzyzyzy " * 500], rows_per_shard=25)
    return folder


def test_named_corpus_gives_a_tokenizer_of_its_name_and_one_line(my_texts, capsys):
    assert cli.main([*TRAIN, "--corpus", "my_texts"]) == 0
    out, err = capsys.readouterr()
    assert Tokenizer.load(tokenizer_dir("my_texts")).vocab_size == 300
    assert out.startswith(f"300 ids from {80 * 60:,} characters of 60 documents in ")
    assert out.endswith(f" s -> {tokenizer_dir('my_texts')}\n")
    assert out.count("\n") == 1
    assert err == ""


def test_only_the_training_split_is_read(my_texts):
    cli.main([*TRAIN, "--corpus", "my_texts"])
    tokenizer = Tokenizer.load(tokenizer_dir("my_texts"))
    assert not [token for token in tokenizer.tokens[256:] if set(token) & set(b"zy")]
    assert tokenizer.trained_on["documents"] == len(DOCUMENTS)
    assert tokenizer.trained_on["corpus"] == str(my_texts)


def test_the_same_corpus_gives_the_same_tokenizer(my_texts):
    for name in ("a", "b"):
        cli.main([*TRAIN, "--corpus", "my_texts", "--name", name])
    first, second = (Tokenizer.load(tokenizer_dir(name)) for name in ("a", "b"))
    assert first.fingerprint == second.fingerprint


def test_a_folder_is_a_corpus_too_and_its_notes_go_to_stderr(base_dir, tmp_path, monkeypatch, capsys):
    (tmp_path / "prose").mkdir()
    (tmp_path / "prose" / "a.txt").write_text("\n\n".join(DOCUMENTS * 4))
    monkeypatch.chdir(tmp_path / "prose")
    assert cli.main([*TRAIN, "--corpus", "."]) == 0
    out, err = capsys.readouterr()
    assert Tokenizer.load(tokenizer_dir("prose")).vocab_size == 300
    assert err.startswith("note: ")
    assert "note" not in out


def test_reading_stops_at_max_chars(my_texts):
    cli.main([*TRAIN, "--corpus", "my_texts", "--max_chars", "2000"])
    assert Tokenizer.load(tokenizer_dir("my_texts")).trained_on["characters"] == 2080


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--corpus", "world"], Failure.exit_code, "Get it: python cli.py data generate"),
        (["--corpus", "fineweb_edu"], Failure.exit_code, "Get it: python cli.py data fetch --for configs/"),
        (["--corpus", "my_text"], BadInput.exit_code, "Did you mean my_texts?"),
        (["--corpus", "wrld"], BadInput.exit_code, "Did you mean world?"),
        (["--corpus", "qqq"], BadInput.exit_code, "Choose one of: fineweb_edu, my_texts, world"),
        (["--corpus", "no/such"], BadInput.exit_code, "--corpus no/such: there is no such folder"),
        (["--corpus", ""], BadInput.exit_code, "there is no such folder"),
        (["--corpus", "my_texts", "--name", "../x"], BadInput.exit_code, "must be one plain name"),
        (["--corpus", "my_texts", "--name", ""], BadInput.exit_code, "must be one plain name"),
        (["--corpus", "my_texts", "--name", ".."], BadInput.exit_code, "must be one plain name"),
        (["--corpus", "my_texts", "--vocab_size", "100"], BadInput.exit_code, "must be at least 265"),
        (["--corpus", "my_texts", "--vocab_size", "60000"], BadInput.exit_code, "Use --vocab_size "),
        (["--corpus", "my_texts", "--vocab_size", "many"], BadInput.exit_code, "vocab_size"),
        (["--corpus", "my_texts", "--vocab_siz", "300"], BadInput.exit_code, "--vocab_size"),
        ([], BadInput.exit_code, "corpus"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_few_lines_and_creates_nothing(
    my_texts, capsys, options, code, said
):
    assert cli.main([*TRAIN, *options]) == code
    out, err = capsys.readouterr()
    assert said in err
    assert len(err.splitlines()) <= 3
    assert out == ""
    assert not tokenizer_dir("").exists()


def test_a_damaged_shard_is_named(my_texts, capsys):
    shard = my_texts / "shard_00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert cli.main([*TRAIN, "--corpus", "my_texts"]) == Failure.exit_code
    assert str(shard) in capsys.readouterr().err
    assert not tokenizer_dir("my_texts").exists()
