"""`export`: a run becomes a folder for Hugging Face and can be used from there; nothing of the user's is replaced."""

from __future__ import annotations

import io
import sys

import pytest
from tiny_gpt import random_gpt

import cli
from nanochat_pl.artifacts import load_artifact, save_artifact
from nanochat_pl.artifacts.huggingface import FILES
from nanochat_pl.model.config import GPTConfig
from nanochat_pl.tokenizer.encoding import Tokenizer


@pytest.fixture
def run(base_dir):
    """A finished run `talker`."""
    tokenizer = Tokenizer.from_ranks([bytes([value]) for value in range(256)], r"\p{L}+|[^\p{L}]+")
    gpt = random_gpt(
        GPTConfig(
            sequence_len=64, vocab_size=tokenizer.vocab_size, n_layer=2, n_head=2, n_kv_head=2, n_embd=32
        )
    )
    save_artifact(
        base_dir / "runs" / "talker" / "artifact", gpt, tokenizer, {"run": "talker", "is_chat": True}
    )
    return "talker"


def call(capsys, *argv: str) -> tuple[int, str, str]:
    code = cli.main(list(argv))
    out, err = capsys.readouterr()
    assert err.count("\n") <= 3
    return code, out, err


def test_a_run_is_written_and_said_where(run, tmp_path, capsys):
    out = tmp_path / "new" / "hf"
    code, said, err = call(capsys, "export", "--from", run, "--format", "hf", "--out", str(out))
    assert (code, err) == (0, "")
    assert said == f"Hugging Face's NanoChatForCausalLM, 2 layers, in fp32 -> {out}\n"
    assert {path.name for path in out.iterdir()} == set(FILES)


def test_an_export_can_be_talked_to_and_exported_again(run, tmp_path, capsys, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    assert call(capsys, "export", "--from", run, "--out", str(first))[0] == 0
    assert call(capsys, "export", "--from", str(first), "--out", str(second))[0] == 0
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    answers = []
    for source in (run, str(first)):
        monkeypatch.setattr(sys, "stdin", io.StringIO(""))
        code, said, _ = call(
            capsys, "chat", "--from", source, "--prompt", "Hello?", "--seed", "3", "--max_new_tokens", "12"
        )
        assert code == 0
        answers.append(said)
    assert answers[0] == answers[1] != "\n"


def test_a_former_export_is_replaced_and_nothing_else(run, tmp_path, capsys):
    out = tmp_path / "hf"
    export = ("export", "--from", run, "--out", str(out))
    out.mkdir()
    assert call(capsys, *export)[0] == 0  # an empty folder is free
    assert call(capsys, *export)[0] == 0
    (out / "notes.txt").write_text("mine")
    code, _, err = call(capsys, *export)
    assert code == 2
    assert "nothing was replaced" in err
    assert (out / "notes.txt").read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    code, _, err = call(capsys, "export", "--from", run, "--out", str(tmp_path / "file"))
    assert (code, "is a file" in err) == (2, True)
    native = tmp_path / "base" / "runs" / "talker" / "artifact"
    assert call(capsys, "export", "--from", run, "--out", str(native))[0] == 2
    assert load_artifact(native).provenance["run"] == "talker"


@pytest.mark.parametrize(
    ("format", "hint"), [("HF", True), ("hugingface", True), ("gguf", False), ("", False)]
)
def test_unknown_formats_are_refused_with_the_known_ones(run, tmp_path, capsys, format, hint):
    code, _, err = call(capsys, "export", "--from", run, "--format", format, "--out", str(tmp_path / "hf"))
    assert code == 2
    assert "no such format; known: hf" in err
    assert ("Did you mean --format hf?" in err) == hint
    assert not (tmp_path / "hf").exists()


def test_what_is_not_there_and_what_is_not_said_is_refused(run, tmp_path, capsys):
    code, _, err = call(capsys, "export", "--from", "talkr", "--out", str(tmp_path / "hf"))
    assert (code, "no artifact called 'talkr'" in err) == (2, True)
    code, _, err = call(capsys, "export", "--from", run)
    assert (code, "--out" in err) == (2, True)
    code, _, err = call(capsys, "export", "--out", str(tmp_path / "hf"))
    assert (code, "--from" in err) == (2, True)
    assert not (tmp_path / "hf").exists()
