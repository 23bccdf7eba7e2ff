"""`import`: a folder of nanochat's and a tokenizer become an artifact, or nothing is written."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from artifacts.test_nanochat_checkpoint import CONFIG, save, their_state
from tiny_gpt import random_gpt

import cli
from nanochat_pl.artifacts import load_artifact
from nanochat_pl.system.paths import tokenizer_dir
from nanochat_pl.tokenizer.encoding import Tokenizer
from nanochat_pl.tokenizer.train import SPLIT_PATTERN

TOKENS = [bytes([value]) for value in range(256)] + [bytes([97 + n // 6, 97 + n % 6]) for n in range(35)]


@pytest.fixture
def checkpoint(tmp_path):
    return save(tmp_path / "d3", their_state(random_gpt(CONFIG)))


@pytest.fixture
def tokenizer(base_dir):
    """A tokenizer called `old`, of the checkpoint's size."""
    tokenizer = Tokenizer.from_ranks(TOKENS, SPLIT_PATTERN)
    assert tokenizer.vocab_size == CONFIG.vocab_size
    tokenizer.save(tokenizer_dir("old"))
    return tokenizer


def call(capsys, *argv: str) -> tuple[int, str]:
    code = cli.main(["import", *map(str, argv)])
    out, err = capsys.readouterr()
    assert err.count("\n") <= 3
    return code, out + err


def test_the_model_and_the_tokenizer_by_name_folder_or_ranks_become_an_artifact(
    checkpoint, tokenizer, tmp_path, capsys
):
    folder = tokenizer_dir("old")
    for number, named in enumerate(("old", folder, folder / "ranks.tiktoken")):
        out = tmp_path / f"out{number}"
        code, said = call(capsys, "--from", checkpoint, "--tokenizer", named, "--out", out)
        assert (code, said) == (0, f"step 40 of {checkpoint}, 3 layers -> {out}\n")
        artifact = load_artifact(out)
        assert artifact.tokenizer.fingerprint == tokenizer.fingerprint
        assert artifact.provenance["step"] == 40
        assert torch.equal(artifact.gpt.lm_head.weight, random_gpt(CONFIG).lm_head.weight)
    assert cli.main(["export", "--from", str(tmp_path / "out0"), "--out", str(tmp_path / "hf")]) == 0


def test_a_pickled_tokenizer_is_never_opened(checkpoint, tmp_path, capsys, base_dir):
    theirs = tmp_path / "tokenizer"
    theirs.mkdir()
    (theirs / "tokenizer.pkl").write_bytes(pickle.dumps(print))
    for named in (theirs, theirs / "tokenizer.pkl"):
        code, said = call(capsys, "--from", checkpoint, "--tokenizer", named, "--out", tmp_path / "out")
        assert (code, "a pickle can run any program" in said) == (2, True)
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_is_refused_and_nothing_is_written(checkpoint, tokenizer, tmp_path, capsys):
    out = tmp_path / "out"
    given = {"--from": checkpoint, "--tokenizer": "old", "--out": out}
    Tokenizer.from_ranks(TOKENS[:260], SPLIT_PATTERN).save(tokenizer_dir("small"))
    (tmp_path / "bad.tiktoken").write_text("YQ== 7\n")
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    for change, code, complaint in (
        ({"--from": tmp_path / "nowhere"}, 2, "no such folder"),
        ({"--from": tmp_path}, 2, "no checkpoint of nanochat here"),
        ({"--tokenizer": "odl"}, 2, "no tokenizer and no finished run"),
        ({"--tokenizer": "small"}, 2, "has 269 ids, but the model in"),
        ({"--tokenizer": tmp_path / "bad.tiktoken"}, 1, "no file of tiktoken ranks: line 1"),
        ({"--out": full}, 2, "is there already"),
        ({"--step": 41}, 2, "no checkpoint of step 41"),
    ):
        found, said = call(capsys, *(word for pair in (given | change).items() for word in pair))
        assert (found, complaint in said) == (code, True), said
        assert not out.exists()
    assert [path.name for path in full.iterdir()] == ["mine.txt"]


def test_a_checkpoint_named_where_an_artifact_is_wanted_gets_the_command_that_converts_it(
    checkpoint, tmp_path, capsys, base_dir
):
    assert cli.main(["export", "--from", str(checkpoint), "--out", str(tmp_path / "hf")]) == 2
    said = capsys.readouterr().err
    assert "holds checkpoints of nanochat" in said
    assert f"python cli.py import --from {checkpoint}" in said


def test_a_shape_that_is_not_known_here_is_named(checkpoint, tokenizer, tmp_path, capsys):
    meta = checkpoint / "meta_000040.json"
    meta.write_text(
        json.dumps(json.loads(meta.read_text()) | {"model_config": CONFIG.to_dict() | {"odd": 1}})
    )
    code, said = call(capsys, "--from", checkpoint, "--tokenizer", "old", "--out", tmp_path / "out")
    assert (code, "unknown key 'odd'" in said) == (1, True)
