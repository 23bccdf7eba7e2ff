"""A folder of Hugging Face's form gives back the model exactly, whoever wrote it, or says why it cannot be read."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_gpt import random_gpt

from nanochat_pl.artifacts import (
    artifact_config,
    find_artifact,
    generation_defaults,
    is_former_export,
    load_artifact,
    save_artifact,
    save_huggingface,
    weights_digest,
)
from nanochat_pl.artifacts.huggingface import FILES
from nanochat_pl.model.config import GPTConfig
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.files import sha256_of
from nanochat_pl.tokenizer.encoding import SPECIAL_TOKENS, Tokenizer

PROVENANCE = {"run": "tiny", "step": 1200, "tokens": 307200, "is_chat": True}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_ranks(
        [bytes([value]) for value in range(256)] + [b"th", b"the"], r"\p{L}+|[^\p{L}]+"
    )


@pytest.fixture(scope="module")
def gpt(tokenizer):
    return random_gpt(
        GPTConfig(
            sequence_len=16, vocab_size=tokenizer.vocab_size, n_layer=2, n_head=2, n_kv_head=1, n_embd=32
        )
    )


@pytest.fixture
def folder(tmp_path, gpt, tokenizer):
    folder = tmp_path / "hf"
    save_huggingface(folder, gpt, tokenizer, PROVENANCE)
    return folder


@pytest.fixture
def resaved(folder, tmp_path):
    """The folder as transformers writes it."""
    transformers = pytest.importorskip("transformers")
    again = tmp_path / "again"
    transformers.AutoModelForCausalLM.from_pretrained(folder).save_pretrained(again)
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(again)
    return again


def change(folder, **values):
    """Set keys of `config.json`; None removes one."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def weights_equal(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_the_folder_has_what_transformers_wants_and_nothing_else(folder, gpt):
    assert {path.name for path in folder.iterdir()} == set(FILES)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["NanoChatForCausalLM"]
    assert "auto_map" not in config
    assert {value.dtype for value in load_file(folder / "model.safetensors").values()} == {torch.float32}
    assert "{%- generation -%}" in (folder / "chat_template.jinja").read_text()
    assert list(folder.parent.iterdir()) == [folder]


def test_weights_shape_and_tokenizer_come_back(folder, gpt, tokenizer):
    artifact = load_artifact(folder)
    assert artifact.gpt.config == artifact_config(folder) == gpt.config
    assert weights_equal(gpt, artifact.gpt)
    assert artifact.tokenizer.fingerprint == tokenizer.fingerprint
    assert artifact.provenance.items() >= PROVENANCE.items()
    assert generation_defaults(folder) == {"temperature": 0.8, "top_k": 50, "max_new_tokens": 256}


def test_there_and_back_and_there_again_gives_the_same_files(folder, tmp_path):
    there = load_artifact(folder)
    save_artifact(tmp_path / "native", there.gpt, there.tokenizer, there.provenance)
    back = load_artifact(tmp_path / "native")
    save_huggingface(tmp_path / "hf2", back.gpt, back.tokenizer, back.provenance)
    for name in FILES:
        assert (folder / name).read_bytes() == (tmp_path / "hf2" / name).read_bytes(), name
    assert weights_digest(folder) == sha256_of(folder / "model.safetensors")


def test_what_transformers_saved_anew_comes_back_too(resaved, folder, gpt, tokenizer):
    artifact = load_artifact(resaved)
    assert not (resaved / "provenance.json").exists()
    assert artifact.gpt.config == gpt.config
    assert weights_equal(gpt, artifact.gpt)
    assert artifact.tokenizer.fingerprint == tokenizer.fingerprint
    assert weights_digest(resaved) == sha256_of(resaved / "model.safetensors")
    assert (resaved / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_weights_in_several_files_are_read(folder, gpt, tmp_path):
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    (tmp_path / "shards" / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert weights_equal(gpt, load_artifact(tmp_path / "shards").gpt)
    assert len(weights_digest(tmp_path / "shards")) == 64
    index = tmp_path / "shards" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "../hf/model.safetensors"}}))
    with pytest.raises(Failure, match="names no files of this folder"):
        load_artifact(tmp_path / "shards")


def test_older_ways_to_write_a_configuration_are_understood(folder, gpt):
    change(
        folder, rope_parameters=None, dtype=None, rope_theta=10000.0, rope_scaling=None, torch_dtype="float32"
    )
    change(folder, rms_norm_eps=None, hidden_act=None, num_key_value_heads=2)
    assert artifact_config(folder).n_kv_head == 2
    change(folder, num_key_value_heads=None, rms_norm_eps=1e-6)
    assert artifact_config(folder).n_kv_head == gpt.config.n_head


def test_writing_and_reading_need_no_transformers(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)  # importing it fails
    gpt, tokenizer, provenance, _ = load_artifact(folder)
    save_huggingface(tmp_path / "copy", gpt, tokenizer, provenance)
    assert is_former_export(tmp_path / "copy")


def test_what_may_be_published_names_no_folder_of_this_machine(gpt, tokenizer, tmp_path):
    save_huggingface(tmp_path / "hf", gpt, tokenizer, PROVENANCE | {"init_from": str(tmp_path / "start")})
    assert load_artifact(tmp_path / "hf").provenance["init_from"] == "start"
    for path in (tmp_path / "hf").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name


def test_the_card_tells_where_the_model_came_from_and_warns(folder, gpt):
    card = (folder / "README.md").read_text()
    for told in ("1,200", "307,200", "tiny", "trained on conversations", weights_digest(folder), "267 ids"):
        assert told in card
    assert "Warning: text can become a control token" in card
    assert "sanitize_control_tokens=True, allow_control_names=True" in card
    assert "$" not in card


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "class LlamaForCausalLM; .* only NanoChatForCausalLM"),
        ({"architectures": None, "model_type": "gpt2"}, "class gpt2; "),
        ({"architectures": 3}, "class nanochat; "),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0}},
            "rope_theta is 100000.0, .* 10000 ",
        ),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}}, "rope_type is 'yarn'"),
        (
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "partial_rotary_factor is 0.5",
        ),
        ({"rope_parameters": "odd"}, "rope_type is 'odd'"),
        ({"rope_parameters": None, "rope_theta": 500.0}, "rope_theta is 500.0"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0, .* 15.0"),
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps is 1e-05"),
        ({"rms_norm_eps": "tiny"}, "rms_norm_eps is 'tiny'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True"),
        ({"intermediate_size": 96}, "intermediate_size is 96, .* 128 "),
        ({"head_dim": 32}, "head_dim is 32, .* 16 "),
        ({"dtype": "bfloat16"}, "weights of bfloat16; only float32"),
        ({"dtype": None, "torch_dtype": "float16"}, "weights of float16; only float32"),
    ],
)
def test_a_model_this_network_cannot_be_is_refused_in_three_lines(folder, values, complaint):
    change(folder, **values)
    for read in (artifact_config, load_artifact):
        with pytest.raises(BadInput, match=rf"hf/config\.json: .*{complaint}") as caught:
            read(folder)
        assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"hidden_size": None}, "n_embd: None"),
        ({"num_hidden_layers": 0}, "n_layer: 0"),
        ({"vocab_size": "9"}, "'9'"),
    ],
)
def test_an_impossible_shape_is_a_failure_of_the_file_that_says_it(folder, values, complaint):
    change(folder, **values)
    with pytest.raises(Failure, match=rf"hf/config\.json: .*{complaint}"):
        artifact_config(folder)


def test_a_model_without_its_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match=r"hf: has no tokenizer\.json"):
        load_artifact(folder)


def test_the_tokenizer_of_another_model_is_refused_with_both_sizes(folder):
    other = Tokenizer.from_ranks([bytes([value]) for value in range(256)], r"\p{L}+|[^\p{L}]+")
    (folder / "tokenizer.json").write_text(other.to_json())
    with pytest.raises(Failure, match=f"has 267 ids but its tokenizer {256 + len(SPECIAL_TOKENS)}"):
        load_artifact(folder)


@pytest.mark.parametrize(
    ("damage", "error", "complaint"),
    [
        ("bfloat16", BadInput, "weights of bfloat16; only float32"),
        ("missing", Failure, "lacks lm_head.weight"),
        ("extra", Failure, "should not have model.layers.9.mlp.fc1.weight"),
        ("shape", Failure, "the weights do not fit"),
    ],
)
def test_weights_that_are_not_this_models_are_named(folder, damage, error, complaint):
    path = folder / "model.safetensors"
    weights = load_file(path)
    if damage == "bfloat16":
        weights = {name: value.bfloat16() for name, value in weights.items()}
    elif damage == "missing":
        del weights["lm_head.weight"]
    elif damage == "extra":
        weights["model.layers.9.mlp.fc1.weight"] = torch.zeros(2)
    else:
        weights["lm_head.weight"] = weights["lm_head.weight"][:-1].clone()
    save_file(weights, path)
    with pytest.raises(
        Failure,
        match=r"sha256 is not the one in provenance\.json\nIf another program saved.*\n.*export --from",
    ):
        load_artifact(folder)
    (folder / "provenance.json").unlink()
    with pytest.raises(error, match=complaint) as caught:
        load_artifact(folder)
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_cut_files_are_named(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (folder / "provenance.json").unlink()
    with pytest.raises(Failure, match=rf"hf/{name}: damaged"):
        load_artifact(folder)


def test_a_former_export_is_known_by_its_weights_and_by_having_nothing_else(folder):
    assert is_former_export(folder)
    (folder / "notes.txt").write_text("mine")
    assert not is_former_export(folder)
    (folder / "notes.txt").unlink()
    (folder / "README.md").write_text("a better card")
    assert is_former_export(folder)
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"lm_head.weight": weights["lm_head.weight"] + 1}, folder / "model.safetensors")
    assert not is_former_export(folder)


def test_an_error_while_writing_leaves_what_was_there(folder, gpt, tokenizer, monkeypatch):
    before = sha256_of(folder / "model.safetensors")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nanochat_pl.artifacts.huggingface.write_text", full)
    with pytest.raises(Failure, match="hf: could not be written: No space left on device"):
        save_huggingface(folder, gpt, tokenizer, {})
    assert sha256_of(folder / "model.safetensors") == before
    assert list(folder.parent.iterdir()) == [folder]


def test_a_folder_is_found_like_any_artifact(folder, base_dir):
    assert find_artifact(str(folder)) == folder
