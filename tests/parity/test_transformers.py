"""The same weights give the same logits in Hugging Face's NanoChat, which was written by others."""

from __future__ import annotations

import pytest
import torch
from tiny_gpt import random_gpt

from nanochat_pl.artifacts import load_artifact, save_huggingface
from nanochat_pl.artifacts.huggingface import their_name, to_config
from nanochat_pl.inference.engine import Engine
from nanochat_pl.inference.sampling import SamplingSettings
from nanochat_pl.model.config import GPTConfig
from nanochat_pl.tokenizer.encoding import Tokenizer

SHAPES = [
    GPTConfig(sequence_len=64, vocab_size=300, n_layer=2, n_head=2, n_kv_head=2, n_embd=64),
    GPTConfig(sequence_len=128, vocab_size=500, n_layer=4, n_head=4, n_kv_head=2, n_embd=128),
    GPTConfig(sequence_len=40, vocab_size=100, n_layer=3, n_head=6, n_kv_head=1, n_embd=96),
    GPTConfig(sequence_len=256, vocab_size=1000, n_layer=2, n_head=2, n_kv_head=2, n_embd=256),
]


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


def their_model(transformers, gpt, attention):
    """Return Hugging Face's model of the configuration and with the weights of ours."""
    config = transformers.NanoChatConfig(**to_config(gpt.config, 0, [1]), attn_implementation=attention)
    theirs = transformers.NanoChatForCausalLM(config)
    theirs.load_state_dict({their_name(name): value for name, value in gpt.state_dict().items()})
    return theirs.eval()


def test_their_defaults_are_our_constants(transformers):
    config = transformers.NanoChatConfig()
    assert config.final_logit_softcapping == 15.0
    assert config.rope_parameters["rope_theta"] == 10_000
    assert config.hidden_act == "relu2"
    assert not config.tie_word_embeddings
    assert not config.attention_bias


@pytest.mark.parametrize("config", SHAPES, ids=str)
@pytest.mark.parametrize(("std", "attention"), [(1.0, "sdpa"), (2.0, "eager")])
@torch.no_grad()
def test_logits_and_likeliest_ids_are_those_of_transformers(transformers, config, std, attention):
    gpt = random_gpt(config, seed=11, std=std)
    ids = torch.randint(
        config.vocab_size, (3, config.sequence_len), generator=torch.Generator().manual_seed(1)
    )
    ours, theirs = gpt(ids), their_model(transformers, gpt, attention)(ids, use_cache=False).logits
    assert ours.std() > 0.5
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))
    assert (ours - theirs).abs().max() <= 5e-3


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder of Hugging Face's form, and the model it was written from."""
    tokenizer = Tokenizer.from_ranks([bytes([value]) for value in range(256)], r"\p{L}+|[^\p{L}]+")
    config = GPTConfig(
        sequence_len=256, vocab_size=tokenizer.vocab_size, n_layer=4, n_head=2, n_kv_head=1, n_embd=128
    )
    folder = tmp_path_factory.mktemp("exported") / "hf"
    gpt = random_gpt(config, seed=5)
    save_huggingface(folder, gpt, tokenizer, {"run": "random"})
    return folder, gpt


@torch.no_grad()
def test_ten_thousand_tokens_have_the_same_likeliest_next_id_in_an_exported_model(transformers, exported):
    folder, gpt = exported
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert type(theirs) is transformers.NanoChatForCausalLM
    assert theirs.dtype == torch.float32
    ids = torch.randint(gpt.config.vocab_size, (40, 256), generator=torch.Generator().manual_seed(2))
    ours, logits = gpt(ids), theirs(ids).logits
    assert ids.numel() >= 10_000
    assert torch.equal(ours.argmax(-1), logits.argmax(-1))
    assert (ours - logits).abs().max() <= 5e-3


def test_greedy_answers_with_a_cache_are_those_of_the_engine(transformers, exported):
    folder, gpt = exported
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    prompts = tokenizer(
        ["A river", "The founder of the town was"], padding=True, padding_side="left", return_tensors="pt"
    )
    said = theirs.generate(**prompts, do_sample=False, temperature=None, top_k=None, max_new_tokens=40)
    engine = Engine(gpt, load_artifact(folder).tokenizer, None, rows=2)
    asked = [
        row[mask.bool()].tolist() for row, mask in zip(prompts.input_ids, prompts.attention_mask, strict=True)
    ]
    ours = engine.generate(asked, SamplingSettings(temperature=0.0, max_new_tokens=40))
    stops = load_artifact(folder).tokenizer.stop_ids
    for completion, row in zip(ours, said[:, prompts.input_ids.size(1) :].tolist(), strict=True):
        ends = [place for place, token in enumerate(row) if token in stops]
        assert completion.ids == row[: ends[0] + 1 if ends else None]
