"""`export`: a run becomes a folder for Hugging Face and can be used from there; nothing of the user's is replaced."""

from __future__ import annotations

import io
import json
import sys

import pytest
from safetensors import SafetensorError
from tiny_gpt import random_gpt

import cli
from nanochat_pl.artifacts import load_artifact, save_artifact
from nanochat_pl.artifacts.huggingface import FILES
from nanochat_pl.model.config import GPTConfig
from nanochat_pl.system.receipts import checkpoint_path, receipt_path
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


REFUSALS = {
    "safetensors": SafetensorError(
        "Error while serializing: I/O error: No space left on device (os error 28)"
    ),
    "system": OSError(28, "No space left on device"),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_full_disk_is_told_in_plain_words_with_folder_and_remedy(
    run, tmp_path, capsys, monkeypatch, refusal
):
    def full(*args, **options):
        raise REFUSALS[refusal]

    monkeypatch.setattr("nanochat_pl.artifacts.huggingface.save_file", full)
    out = tmp_path / "hf"
    code, _, err = call(capsys, "export", "--from", run, "--out", str(out))
    assert (code, err) == (
        1,
        f"error: {out}: could not be written: No space left on device\n"
        "Make room there (df -h), or name another folder: --out DIR\n",
    )
    assert not out.exists()


def test_a_place_where_nothing_can_be_written_is_told_with_a_remedy(run, capsys):
    code, _, err = call(capsys, "export", "--from", run, "--out", "/proc/e")
    assert (code, err) == (
        1,
        "error: /proc/e: could not be written: No such file or directory\n"
        "Make sure that you may write there, or name another folder: --out DIR\n",
    )


@pytest.mark.parametrize("has_checkpoint", [True, False])
def test_damaged_weights_come_with_what_makes_them_anew(run, base_dir, tmp_path, capsys, has_checkpoint):
    folder = base_dir / "runs" / run
    weights = folder / "artifact" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    if has_checkpoint:
        path = checkpoint_path(folder / "checkpoints", 12)
        path.parent.mkdir()
        path.touch()
        facts = {"step": 12, "bytes": 0, "sha256": "", "model": {}, "world_size": 1}
        receipt_path(path).write_text(json.dumps(facts))
    code, _, err = call(capsys, "export", "--from", run, "--out", str(tmp_path / "hf"))
    assert code == 1
    assert f"{weights}: damaged or altered; its sha256 is not the one in provenance.json" in err
    anew = f"rm -r {folder}/artifact\npython cli.py fit --config {folder}/config.yaml\n"
    assert err.endswith(anew) == has_checkpoint
    assert ("Copy the folder again" in err) == (not has_checkpoint)


def test_a_damaged_export_comes_with_what_makes_it_anew(run, tmp_path, capsys):
    out = tmp_path / "hf"
    assert call(capsys, "export", "--from", run, "--out", str(out))[0] == 0
    (out / "model.safetensors").write_bytes(b"")
    code, _, err = call(capsys, "export", "--from", str(out), "--out", str(tmp_path / "again"))
    assert code == 1
    assert err.endswith("write it again: python cli.py export --from RUN --out DIR\n")
