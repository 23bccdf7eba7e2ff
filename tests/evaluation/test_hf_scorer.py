"""A model of Hugging Face's is scored from disk as ours is, and nothing of its folder is run."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
import torch
from core_files import make_items, write_bundle
from tiny_gpt import random_gpt

from nanochat_pl.evaluation.core_bundle import read_bundle
from nanochat_pl.evaluation.core_metric import core_exams
from nanochat_pl.evaluation.hf_scorer import HFScorer
from nanochat_pl.evaluation.likelihood import GPTScorer
from nanochat_pl.evaluation.row_plan import Continuation
from nanochat_pl.model.config import GPTConfig
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.tokenizer.encoding import Tokenizer

TOKENIZER = Tokenizer.from_ranks(
    [bytes([value]) for value in range(256)] + [b" a", b"on", b" s"], r" ?\w+|\s+|."
)
CONFIG = GPTConfig(
    sequence_len=96, vocab_size=TOKENIZER.vocab_size, n_layer=2, n_head=2, n_kv_head=2, n_embd=32
)


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


def save_tokenizer(transformers, folder, **special):
    TOKENIZER.save(folder)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **special)
    fast.save_pretrained(folder)


@pytest.fixture(scope="module")
def ours(transformers, tmp_path_factory):
    """A folder with our weights in their form, and our own scorer."""
    from parity.test_transformers import their_model

    folder = tmp_path_factory.mktemp("hf")
    gpt = random_gpt(CONFIG)
    their_model(transformers, gpt, "sdpa").save_pretrained(folder)
    save_tokenizer(transformers, folder)
    return folder, GPTScorer(gpt, TOKENIZER)


@pytest.fixture
def gpt2(transformers, tmp_path):
    """A folder with a tiny GPT-2, which has no `<|bos|>` of its own."""
    config = transformers.GPT2Config(vocab_size=300, n_positions=24, n_embd=16, n_layer=1, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: place for place, letter in enumerate(letters)} | {"<|endoftext|>": 256}
    plain = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    plain.pre_tokenizer, plain.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    ).save_pretrained(tmp_path)
    return tmp_path


def test_every_item_is_answered_as_by_our_own_scorer(ours, base_dir, tmp_path):
    folder, scorer = ours
    tasks = {
        kind: {"kind": kind, "items": make_items(kind, 12), "shots": 1}
        for kind in ("multiple_choice", "schema", "language_modeling")
    }
    bundle = read_bundle(write_bundle(tmp_path / "core", tasks))
    theirs = HFScorer(folder, batch_tokens=200)
    assert (theirs.context, theirs.bos_id) == (96, TOKENIZER.bos_id)
    for a, b in zip(core_exams(scorer, bundle), core_exams(theirs, bundle), strict=True):
        assert a.examine(range(12)) == b.examine(range(12))


def test_likelihoods_are_those_of_our_own_scorer(ours):
    folder, scorer = ours
    rows = [
        Continuation(ids, start)
        for ids, start in zip(
            scorer.encode(["a sun on a hill", "a sun on", "", "stone"]), (3, 5, 1, 2), strict=True
        )
    ]
    for a, b in zip(scorer.score(rows), HFScorer(folder).score(rows), strict=True):
        assert a.likeliest == b.likeliest
        assert a.total == pytest.approx(b.total, rel=1e-5)
        assert a.mean == pytest.approx(b.mean, rel=1e-5, nan_ok=True)
    assert math.isnan(scorer.score(rows)[2].mean)


def test_names_of_special_tokens_in_a_text_are_text(ours):
    folder, scorer = ours
    text = "<|bos|> a <|assistant_end|>"
    (ids,) = HFScorer(folder).encode([text])
    assert ids.tolist() == scorer.encode([text])[0].tolist()
    assert ids.tolist().count(TOKENIZER.bos_id) == 1


def test_gpt2_begins_with_its_end_of_text_and_has_its_own_context(gpt2):
    scorer = HFScorer(gpt2)
    assert (scorer.context, scorer.bos_id) == (24, 256)
    (ids,) = scorer.encode(["sun <|endoftext|>"])
    assert ids.tolist().count(256) == 1
    assert scorer.decode(ids[1:].tolist()) == "sun <|endoftext|>"
    row = Continuation(np.array([256, 1, 2, 3], np.uint32), 2)
    logits = scorer.model(torch.tensor([[256, 1, 2, 3]])).logits[0, 1:3]
    (result,) = scorer.score([row])
    assert result.total == pytest.approx(
        torch.nn.functional.cross_entropy(logits, torch.tensor([2, 3]), reduction="sum").item(), rel=1e-5
    )


def test_pickled_weights_are_not_opened(gpt2):
    (gpt2 / "model.safetensors").unlink()
    (gpt2 / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(Failure, match="cannot read this model"):
        HFScorer(gpt2)


def test_code_in_the_folder_is_not_run(gpt2):
    config = json.loads((gpt2 / "config.json").read_text())
    config |= {
        "model_type": "strange",
        "auto_map": {"AutoConfig": "strange.C", "AutoModelForCausalLM": "strange.M"},
    }
    (gpt2 / "config.json").write_text(json.dumps(config))
    (gpt2 / "strange.py").write_text("raise SystemExit('this code ran')")
    with pytest.raises(Failure) as caught:
        HFScorer(gpt2)
    assert len(str(caught.value).splitlines()) <= 3


def test_what_is_not_there_is_said(tmp_path, gpt2, monkeypatch):
    with pytest.raises(BadInput, match="no model of Hugging Face's is here"):
        HFScorer(tmp_path / "nowhere")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(Failure, match=r"pip install 'transformers>=5,<6'"):
        HFScorer(gpt2)


def test_nothing_is_said_of_loading_or_of_texts_beyond_the_context(gpt2, capfd, monkeypatch):
    settings = json.loads((gpt2 / "tokenizer_config.json").read_text())
    (gpt2 / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 24}))
    logging = pytest.importorskip("transformers").utils.logging
    monkeypatch.setattr(logging, "_tqdm_active", True)
    capfd.readouterr()
    scorer = HFScorer(gpt2)
    assert scorer.encode(["sun " * 99])[0].size > scorer.context
    assert capfd.readouterr().err == ""
    assert logging.is_progress_bar_enabled()
