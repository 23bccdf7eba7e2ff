"""An artifact gives back the model that was saved, or a Failure that names the file at fault."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nanochat_pl.artifacts import find_artifact, load_artifact, save_artifact
from nanochat_pl.model.config import GPTConfig
from nanochat_pl.model.gpt import GPT
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.tokenizer.encoding import Tokenizer

PROVENANCE = {"run": "tiny", "step": 12, "tokens": 3072}
PATTERN = r"\p{L}+|\p{N}{1,2}|[^\p{L}\p{N}]+"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_ranks([bytes([value]) for value in range(256)] + [b"th", b"the"], PATTERN)


def random_gpt(tokenizer, seed=0):
    config = GPTConfig(
        sequence_len=16, vocab_size=tokenizer.vocab_size, n_layer=2, n_head=2, n_kv_head=1, n_embd=32
    )
    gpt, generator = GPT(config), torch.Generator().manual_seed(seed)
    for weight in gpt.parameters():
        torch.nn.init.normal_(weight, 0, 0.3, generator=generator)
    return gpt


@pytest.fixture
def gpt(tokenizer):
    return random_gpt(tokenizer)


@pytest.fixture
def folder(tmp_path, gpt, tokenizer):
    folder = tmp_path / "run" / "artifact"
    save_artifact(folder, gpt, tokenizer, PROVENANCE)
    return folder


def test_weights_shape_tokenizer_and_origin_come_back(folder, gpt, tokenizer):
    artifact = load_artifact(folder)
    assert artifact.gpt.config == gpt.config
    assert artifact.gpt.state_dict().keys() == gpt.state_dict().keys()
    for name, value in gpt.state_dict().items():
        assert torch.equal(artifact.gpt.state_dict()[name], value)
    ids = torch.tensor([tokenizer.encode("the thing 12")])
    assert torch.equal(artifact.gpt(ids), gpt(ids))
    assert artifact.tokenizer.encode("the thing 12") == tokenizer.encode("the thing 12")
    assert artifact.provenance.items() >= PROVENANCE.items()
    assert artifact.folder == folder
    assert not artifact.gpt.training


def test_the_folder_holds_plain_data_only(folder, gpt):
    names = {path.name for path in folder.iterdir()}
    assert names >= {"model.safetensors", "config.json", "generation.json", "provenance.json"}
    assert {name.rpartition(".")[2] for name in names} <= {"safetensors", "json", "tiktoken", "txt"}
    assert json.loads((folder / "config.json").read_text()) == gpt.config.to_dict()
    assert json.loads((folder / "generation.json").read_text()).keys() == {
        "temperature",
        "top_k",
        "max_new_tokens",
    }
    weights = load_file(folder / "model.safetensors")
    assert weights.keys() == gpt.state_dict().keys()
    assert {value.dtype for value in weights.values()} == {torch.float32}


def test_loading_runs_no_pickle(folder, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, never)
    monkeypatch.setattr(torch, "load", never)
    load_artifact(folder)


def test_weights_of_any_dtype_are_stored_in_fp32(tmp_path, gpt, tokenizer):
    save_artifact(tmp_path / "a", gpt.bfloat16(), tokenizer, {})
    loaded = load_artifact(tmp_path / "a").gpt
    assert {value.dtype for value in load_file(tmp_path / "a" / "model.safetensors").values()} == {
        torch.float32
    }
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.lm_head.weight, gpt.lm_head.weight.float())


def test_a_compiled_model_is_stored_under_the_same_names(tmp_path, gpt, tokenizer):
    gpt.compile()
    save_artifact(tmp_path / "a", gpt, tokenizer, {})
    assert torch.equal(load_artifact(tmp_path / "a").gpt.lm_head.weight, gpt.lm_head.weight)


def test_a_newer_artifact_replaces_the_older_whole(folder, tokenizer):
    (folder / "stale.txt").write_text("of the older one")
    newer = random_gpt(tokenizer, seed=1)
    save_artifact(folder, newer, tokenizer, PROVENANCE | {"step": 24})
    artifact = load_artifact(folder)
    assert artifact.provenance["step"] == 24
    assert torch.equal(artifact.gpt.wte.weight, newer.wte.weight)
    assert not (folder / "stale.txt").exists()
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyError("bug"), KeyboardInterrupt()]
)
def test_an_error_while_saving_leaves_the_older_artifact_and_nothing_else(
    folder, gpt, tokenizer, monkeypatch, error
):
    def save(self, folder):
        raise error

    monkeypatch.setattr(Tokenizer, "save", save)
    expected = Failure if isinstance(error, OSError) else type(error)
    message = "artifact: could not be written: No space left on device" if expected is Failure else None
    with pytest.raises(expected, match=message):
        save_artifact(folder, random_gpt(tokenizer, seed=1), tokenizer, {})
    monkeypatch.undo()
    assert torch.equal(load_artifact(folder).gpt.wte.weight, gpt.wte.weight)
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "provenance.json", "meta.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(Failure, match=rf"artifact/{name}: is missing, so there is no complete"):
        load_artifact(folder)


def test_every_file_of_the_tokenizer_is_needed_and_named(folder, tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer")
    for path in (tmp_path / "tokenizer").iterdir():
        content = (folder / path.name).read_bytes()
        for damage in (content[: len(content) // 2], b"\0" * len(content)):
            (folder / path.name).write_bytes(damage)
            with pytest.raises(Failure, match=f"artifact/{path.name}: "):
                load_artifact(folder)
        (folder / path.name).write_bytes(content)
    load_artifact(folder)


@pytest.mark.parametrize("name", ["config.json", "provenance.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"<!DOCTYPE html>"])
def test_damaged_json_is_named(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(Failure, match=f"artifact/{name}: damaged"):
        load_artifact(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_layer": 0}, "n_layer: 0 is not a positive integer"),
        ({"n_layers": 3}, "unknown key 'n_layers'"),
    ],
)
def test_an_impossible_shape_is_a_failure_of_the_file_that_says_it(folder, gpt, change, message):
    (folder / "config.json").write_text(json.dumps(gpt.config.to_dict() | change))
    with pytest.raises(Failure, match=f"artifact/config.json: .*{message}"):
        load_artifact(folder)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_weights_are_named(folder, share):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(Failure, match=r"artifact/model\.safetensors: damaged"):
        load_artifact(folder)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("is_vouched_for", [True, False])
def test_a_flipped_bit_in_the_weights_is_noticed_where_their_digest_is_known(folder, share, is_vouched_for):
    path, provenance = folder / "model.safetensors", folder / "provenance.json"
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 0x40
    path.write_bytes(content)
    if is_vouched_for:
        with pytest.raises(
            Failure, match=r"artifact/model\.safetensors: damaged or altered; its sha256 is not"
        ):
            load_artifact(folder)
    elif share > 0.1:  # an artifact made elsewhere, without a digest: nothing can tell
        provenance.write_text("{}")
        load_artifact(folder)


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_weights_of_another_shape_are_refused(folder, change):
    weights = load_file(folder / "model.safetensors")
    if change == "missing":
        del weights["lm_head.weight"]
    elif change == "extra":
        weights["blocks.9.mlp.c_fc.weight"] = torch.zeros(2)
    else:
        weights["lm_head.weight"] = weights["lm_head.weight"][:-1].clone()
    save_file(weights, folder / "model.safetensors")
    (folder / "provenance.json").write_text("{}")
    with pytest.raises(
        Failure, match=r"model\.safetensors: the weights do not fit config\.json: .*weight"
    ) as caught:
        load_artifact(folder)
    assert len(str(caught.value).splitlines()) <= 3


def test_the_tokenizer_of_another_artifact_is_refused_with_both_sizes(folder):
    other = Tokenizer.from_ranks([bytes([value]) for value in range(256)], PATTERN)
    other.save(folder)
    with pytest.raises(
        Failure, match=rf"has {other.vocab_size + 2} ids but its tokenizer {other.vocab_size}"
    ):
        load_artifact(folder)


def test_an_artifact_is_found_by_run_by_folder_and_by_the_folder_around_it(
    base_dir, gpt, tokenizer, tmp_path
):
    run = base_dir / "runs" / "d4_base" / "artifact"
    save_artifact(run, gpt, tokenizer, {})
    save_artifact(tmp_path / "elsewhere", gpt, tokenizer, {})
    assert find_artifact("d4_base") == run
    assert find_artifact(str(run)) == run
    assert find_artifact(str(run.parent)) == run
    assert find_artifact(str(tmp_path / "elsewhere")) == tmp_path / "elsewhere"


def test_an_artifact_that_is_nowhere_is_refused_with_where_it_was_sought(base_dir):
    with pytest.raises(BadInput, match="no artifact called 'd4_bsae'") as caught:
        find_artifact("d4_bsae")
    message = str(caught.value)
    assert str(base_dir / "runs" / "d4_bsae" / "artifact") in message
    assert len(message.splitlines()) <= 3


@pytest.mark.parametrize(
    ("source", "finished", "advice"),
    [
        ("d4_base", (), "Train it first: python cli.py fit --config configs/d4_base.yaml"),
        ("README.md", (), "No run in BASE/runs is finished yet; give the folder of a model, or train one."),
        ("../configs/d4_base", (), "No run in BASE/runs is finished yet"),
        ("d4_bsae", ("d4_base", "other"), "Did you mean d4_base?"),
        ("nosuchrun", ("d4_base", "other"), "Choose one of: d4_base, other; or give the folder of a model."),
    ],
)
def test_the_advice_about_a_missing_artifact_names_only_what_is_there(
    base_dir, monkeypatch, source, finished, advice
):
    monkeypatch.chdir(Path(__file__).parents[2])
    for run in finished:
        (base_dir / "runs" / run / "artifact").mkdir(parents=True)
        (base_dir / "runs" / run / "artifact" / "config.json").write_text("{}")
    with pytest.raises(BadInput) as caught:
        find_artifact(source)
    assert str(caught.value).splitlines()[-1].startswith(advice.replace("BASE", str(base_dir)))


def test_another_process_reads_what_this_one_wrote(folder, gpt):
    code = (
        "import sys; from pathlib import Path; from nanochat_pl.artifacts import load_artifact; "
        "print(load_artifact(Path(sys.argv[1])).gpt.lm_head.weight.double().sum().item().hex())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert float.fromhex(done.stdout) == pytest.approx(gpt.lm_head.weight.double().sum().item(), rel=1e-12)
