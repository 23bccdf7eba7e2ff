"""A checkpoint of nanochat becomes the same model, and nothing in it is ever run.

The peer's own GPT is asked too where NANOCHAT_CLONE names a git clone of nanochat; else those tests skip.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import torch
from reference import gpt as reference
from tiny_gpt import random_gpt

from nanochat_pl.artifacts import load_nanochat_checkpoint
from nanochat_pl.model.config import GPTConfig
from nanochat_pl.system.errors import BadInput, Failure

CONFIG = GPTConfig(sequence_len=32, vocab_size=300, n_layer=3, n_head=4, n_kv_head=2, n_embd=64)
CLASSIC = "ccf4b7f"  # the last commit of the classic network
THEIR_SIDE = """
import json, sys, torch
from nanochat.checkpoint_manager import save_checkpoint
from nanochat.gpt import GPT, GPTConfig
shape, folder = json.loads(sys.argv[1]), sys.argv[2]
torch.manual_seed(0)
model = GPT(GPTConfig(**shape))
model.init_weights()
for weight in model.parameters():
    torch.nn.init.normal_(weight, 0, 0.2 if weight.ndim > 1 else 1)
compiled = {"_orig_mod." + name: value for name, value in model.state_dict().items()}
save_checkpoint(folder, 40, compiled, None, {"step": 40, "model_config": shape, "val_bpb": 1.0})
ids = torch.randint(shape["vocab_size"], (4, shape["sequence_len"]))
if hasattr(model, "x0_lambdas"):
    sys.exit()
model.transformer.wte.float()
angles = torch.outer(torch.arange(shape["sequence_len"]).float(), 10000.0 ** -(torch.arange(0, 16, 2) / 16))
rounded = model(ids)
model.cos, model.sin = angles.cos()[None, :, None], angles.sin()[None, :, None]  # fp32, against its assertion
torch.save({"ids": ids, "logits": model(ids).detach(), "rounded": rounded.detach()}, folder + "/said.pt")
"""


def their_state(gpt, padding=20):
    """Return a state dict as nanochat saves it: compiled, embedding in bf16, vocabulary padded with rubbish."""
    state = {}
    for name, value in gpt.state_dict().items():
        name = name.replace("blocks.", "transformer.h.").replace("wte.", "transformer.wte.")
        if name.endswith(("wte.weight", "lm_head.weight")):
            value = torch.cat([value, torch.full((padding, value.size(1)), 7.0)])
        state[f"_orig_mod.{name}"] = value.bfloat16() if "wte" in name else value
    return state


def save(folder, state, step=40, **shape):
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / f"model_{step:06d}.pt")
    meta = {"step": step, "val_bpb": 1.2, "model_config": CONFIG.to_dict() | shape, "user_config": {}}
    (folder / f"meta_{step:06d}.json").write_text(json.dumps(meta))
    return folder


def test_compiled_names_bf16_embedding_and_padding_are_undone(tmp_path):
    gpt = random_gpt(CONFIG)
    checkpoint = load_nanochat_checkpoint(save(tmp_path / "d3", their_state(gpt)))
    assert checkpoint.step == 40
    assert checkpoint.gpt.config == CONFIG
    gpt.wte.weight.copy_(gpt.wte.weight.bfloat16())
    ids = torch.randint(CONFIG.vocab_size, (2, 32), generator=torch.Generator().manual_seed(0))
    assert torch.equal(checkpoint.gpt(ids), gpt(ids))
    assert {weight.dtype for weight in checkpoint.gpt.parameters()} == {torch.float32}


def test_imported_model_says_what_the_slow_twin_says_of_their_weights(tmp_path):
    state = their_state(random_gpt(CONFIG), padding=0)
    gpt = load_nanochat_checkpoint(save(tmp_path / "d3", state)).gpt
    ids = np.random.default_rng(0).integers(CONFIG.vocab_size, size=(2, 9))
    weights = {
        name.removeprefix("_orig_mod.transformer.").removeprefix("_orig_mod."): value.float().numpy()
        for name, value in state.items()
    }
    renamed = {
        name.replace("h.", "blocks.", 1) if name.startswith("h.") else name: v for name, v in weights.items()
    }
    expected = reference.logits(renamed, CONFIG.n_layer, CONFIG.head_dim, ids)
    assert np.abs(gpt(torch.tensor(ids)).detach().numpy() - expected).max() < 1e-3


def test_names_without_compilation_are_understood_too(tmp_path):
    gpt = random_gpt(CONFIG)
    plain = {name.removeprefix("_orig_mod."): value for name, value in their_state(gpt, padding=0).items()}
    assert torch.equal(
        load_nanochat_checkpoint(save(tmp_path / "d3", plain)).gpt.lm_head.weight, gpt.lm_head.weight
    )


def test_last_step_is_taken_unless_another_is_named(tmp_path):
    for step, seed in ((40, 0), (1000, 1), (200, 2)):
        save(tmp_path / "d3", their_state(random_gpt(CONFIG, seed)), step)
    (tmp_path / "d3" / "optim_001000_rank0.pt").write_bytes(b"")
    assert load_nanochat_checkpoint(tmp_path / "d3").step == 1000
    named = load_nanochat_checkpoint(tmp_path / "d3", step=200)
    assert torch.equal(named.gpt.lm_head.weight, random_gpt(CONFIG, 2).lm_head.weight)
    with pytest.raises(BadInput, match="no checkpoint of step 41; there are 40, 200, 1000"):
        load_nanochat_checkpoint(tmp_path / "d3", step=41)


@pytest.mark.parametrize(
    "name",
    [
        "resid_lambdas",
        "x0_lambdas",
        "value_embeds.0.weight",
        "smear_gate.weight",
        "transformer.h.0.attn.ve_gate.weight",
    ],
)
def test_newer_networks_are_refused_by_what_they_have(tmp_path, name):
    state = their_state(random_gpt(CONFIG)) | {f"_orig_mod.{name}": torch.ones(3)}
    with pytest.raises(BadInput, match=r"model_000040\.pt: has .*\nOnly the classic network"):
        load_nanochat_checkpoint(save(tmp_path / "d3", state))


def test_sliding_windows_are_refused_and_full_ones_read(tmp_path):
    state = their_state(random_gpt(CONFIG))
    assert load_nanochat_checkpoint(save(tmp_path / "d3", state, window_pattern="L")).gpt.config == CONFIG
    with pytest.raises(BadInput, match="has window_pattern"):
        load_nanochat_checkpoint(save(tmp_path / "d3", state, window_pattern="SSSL"))


class Evil:
    """Runs a program when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("place", ["instead", "among the tensors"])
def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(tmp_path, place):
    evil = Evil(tmp_path / "ran")
    state = evil if place == "instead" else their_state(random_gpt(CONFIG)) | {"evil": evil}
    folder = save(tmp_path / "d3", state)
    with pytest.raises(
        Failure, match=r"model_000040\.pt: no state dict of tensors \(it holds more than tensors"
    ) as caught:
        load_nanochat_checkpoint(folder)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", ""),
        (b"PK\x03\x04 no more", ""),
        (b"not a checkpoint", ""),
        ([1, 2], "holds a list"),
        ({"a": 3}, "holds a dict"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path, content, complaint):
    folder = save(tmp_path / "d3", content)
    if isinstance(content, bytes):
        (folder / "model_000040.pt").write_bytes(content)
    with pytest.raises(Failure, match=rf"model_000040\.pt: no state dict of tensors.*{complaint}") as caught:
        load_nanochat_checkpoint(folder)
    assert len(str(caught.value).splitlines()) == 1


def test_missing_files_and_tensors_are_named(tmp_path):
    with pytest.raises(BadInput, match="no checkpoint of nanochat here"):
        load_nanochat_checkpoint(tmp_path)
    state = their_state(random_gpt(CONFIG))
    folder = save(tmp_path / "d3", {name: v for name, v in state.items() if "lm_head" not in name})
    with pytest.raises(Failure, match=r"do not fit its meta file: .*lm_head\.weight"):
        load_nanochat_checkpoint(folder)
    save(tmp_path / "d3", state, n_embd=48)
    with pytest.raises(Failure, match="do not fit its meta file: "):
        load_nanochat_checkpoint(folder)
    (folder / "meta_000040.json").write_text("{}")
    with pytest.raises(Failure, match=r"meta_000040\.json: damaged, has no model_config"):
        load_nanochat_checkpoint(folder)
    (folder / "meta_000040.json").unlink()
    with pytest.raises(Failure, match=r"meta_000040\.json: is missing"):
        load_nanochat_checkpoint(folder)


def saved_by_the_peer(tmp_path, revision):
    """Let nanochat at a revision save a checkpoint of CONFIG; return its folder."""
    clone = os.environ.get("NANOCHAT_CLONE")
    if not clone:
        pytest.skip("NANOCHAT_CLONE names no clone of nanochat")
    source = subprocess.run(
        ["git", "-C", clone, "archive", revision, "nanochat"], capture_output=True, check=True
    )
    with tarfile.open(fileobj=io.BytesIO(source.stdout)) as archive:
        archive.extractall(tmp_path / "peer", filter="data")
    folder = tmp_path / "d3"
    done = subprocess.run(
        [sys.executable, "-O", "-c", THEIR_SIDE, json.dumps(CONFIG.to_dict()), str(folder)],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "peer"), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_checkpoint_saved_by_the_peer_has_the_peers_logits(tmp_path):
    folder = saved_by_the_peer(tmp_path, CLASSIC)
    said = torch.load(folder / "said.pt", weights_only=True)
    logits = load_nanochat_checkpoint(folder).gpt(said["ids"])
    assert logits.std() > 0.5
    assert (logits - said["logits"]).abs().max() <= 1e-4
    assert torch.equal(logits.argmax(-1), said["logits"].argmax(-1))
    assert (logits - said["rounded"]).abs().max() <= 0.1  # its own rotary tables are rounded to bf16


def test_checkpoint_of_the_peers_newest_network_is_refused(tmp_path):
    folder = saved_by_the_peer(tmp_path, "HEAD")
    with pytest.raises(BadInput, match="only newer networks of nanochat have"):
        load_nanochat_checkpoint(folder)
