"""The same weights give the same logits in Hugging Face's NanoChat, which was written by others."""

from __future__ import annotations

import pytest
import torch

from nanochat_pl.model.config import GPTConfig
from nanochat_pl.model.gpt import GPT

NAMES = {
    "wte": "model.embed_tokens",
    "lm_head": "lm_head",
    "attn.c_q": "self_attn.q_proj",
    "attn.c_k": "self_attn.k_proj",
    "attn.c_v": "self_attn.v_proj",
    "attn.c_proj": "self_attn.o_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}

SHAPES = [
    GPTConfig(sequence_len=64, vocab_size=300, n_layer=2, n_head=2, n_kv_head=2, n_embd=64),
    GPTConfig(sequence_len=128, vocab_size=500, n_layer=4, n_head=4, n_kv_head=2, n_embd=128),
    GPTConfig(sequence_len=40, vocab_size=100, n_layer=3, n_head=6, n_kv_head=1, n_embd=96),
    GPTConfig(sequence_len=256, vocab_size=1000, n_layer=2, n_head=2, n_kv_head=2, n_embd=256),
]


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


def random_gpt(config, std):
    gpt, generator = GPT(config), torch.Generator().manual_seed(11)
    for name, weight in gpt.named_parameters():
        scale = 1.0 if name == "wte.weight" else std * weight.size(1) ** -0.5
        torch.nn.init.normal_(weight, 0, scale, generator=generator)
    return gpt


def their_name(name):
    name = name.removesuffix(".weight")
    if name.startswith("blocks."):
        _, layer, part = name.split(".", 2)
        return f"model.layers.{layer}.{NAMES[part]}.weight"
    return f"{NAMES[name]}.weight"


def their_model(transformers, gpt, attention):
    """Return Hugging Face's model of the shape and with the weights of ours; all else is their default."""
    config = gpt.config
    theirs = transformers.NanoChatForCausalLM(
        transformers.NanoChatConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.n_embd,
            intermediate_size=4 * config.n_embd,
            num_hidden_layers=config.n_layer,
            num_attention_heads=config.n_head,
            num_key_value_heads=config.n_kv_head,
            max_position_embeddings=config.sequence_len,
            attn_implementation=attention,
        )
    )
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
    gpt = random_gpt(config, std)
    ids = torch.randint(
        config.vocab_size, (3, config.sequence_len), generator=torch.Generator().manual_seed(1)
    )
    ours, theirs = gpt(ids), their_model(transformers, gpt, attention)(ids, use_cache=False).logits
    assert ours.std() > 0.5
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))
    assert (ours - theirs).abs().max() <= 5e-3
