"""CORE equals its slow twin item by item, and is the mean it says it is."""

from __future__ import annotations

import gzip
import json
import math

import numpy as np
import pytest
import torch
from core_files import make_items, write_bundle
from reference import core_eval
from reference.byte_tokenizer import ByteTokenizer, ChatByteTokenizer
from tiny_gpt import random_gpt

from nanochat_pl.evaluation.core_bundle import Missing, read_bundle
from nanochat_pl.evaluation.core_metric import CHUNK, core_exams, core_metric
from nanochat_pl.evaluation.core_prompts import find_continuations
from nanochat_pl.evaluation.exam import Score, chunks_of
from nanochat_pl.evaluation.likelihood import GPTScorer
from nanochat_pl.model.config import GPTConfig
from nanochat_pl.system.errors import BadInput
from nanochat_pl.tokenizer.encoding import Tokenizer

ITEMS = 24
LETTERS = "abdegilnorstuw"


def tiny_gpt(context, vocab_size=257):
    """Return a model that mostly says `a`, `b` or what is merged from them, so that it is right now and then."""
    config = GPTConfig(
        sequence_len=context, vocab_size=vocab_size, n_layer=2, n_head=2, n_kv_head=1, n_embd=32
    )
    gpt = random_gpt(config, seed=3, std=1.5)
    quiet = torch.ones(vocab_size, dtype=torch.bool)
    quiet[[*b"ab", 256]] = False
    gpt.lm_head.weight[quiet] *= 0.2
    return gpt


def merging_tokenizer():
    """Return a tokenizer that merges across every border: `=` with the `a` after it, letters with a space."""
    ranks = [bytes([value]) for value in range(256)] + [b"=a"] + [f"{letter} ".encode() for letter in LETTERS]
    return Tokenizer.from_ranks(ranks, r"[\s\S]+")


def task_of(kind):
    """Return a task; continuations of a text are one letter, which can be guessed."""
    items = make_items(kind, ITEMS)
    if kind == "language_modeling":
        items = [item | {"continuation": "ab"[number % 2]} for number, item in enumerate(items)]
    return {"kind": kind, "items": items, "shots": 2, "baseline": 25, "delimiter": "="}


def twin(gpt, tokenizer, task, number, pool):
    """Return the slow twin's answer."""
    return core_eval.answer(
        number,
        task["items"],
        pool,
        kind=task["kind"],
        shots=task["shots"],
        delimiter=task["delimiter"],
        bos=tokenizer.bos_id,
        encode=lambda text: tokenizer.encode_flat([text])[0].tolist(),
        logits=lambda ids: gpt(torch.tensor([ids]))[0].tolist(),
        context=gpt.config.sequence_len,
    )


@pytest.mark.parametrize("kind", ["multiple_choice", "schema", "language_modeling"])
@pytest.mark.parametrize("context", [512, 60], ids=["whole", "cropped"])
@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), merging_tokenizer()], ids=["bytes", "merging"])
@torch.inference_mode()
def test_every_item_is_answered_as_by_the_slow_twin(base_dir, tmp_path, kind, context, tokenizer):
    gpt, task = tiny_gpt(context, tokenizer.vocab_size), task_of(kind)
    bundle = read_bundle(write_bundle(tmp_path / "core", {"t": task}))
    (exam,) = core_exams(GPTScorer(gpt, tokenizer), bundle)
    records = exam.examine(range(ITEMS))
    expected = [twin(gpt, tokenizer, task, number, ITEMS) for number in range(ITEMS)]
    assert [record.score for record in records] == [float(answer.is_right) for answer in expected]
    assert 0 < sum(record.score for record in records) < ITEMS
    if kind != "language_modeling":
        assert [record.prediction for record in records] == [answer.option for answer in expected]
    assert any(record.cropped for record in records) == (context == 60)


@torch.inference_mode()
def test_real_items_are_answered_as_by_the_slow_twin(base_dir, shared_data):
    """One item of every real task, its prompts cut to the context where they are longer."""
    tokenizer = ChatByteTokenizer()
    gpt = tiny_gpt(600, tokenizer.vocab_size)
    bundle = read_bundle(shared_data / "core")
    for exam, task in zip(core_exams(GPTScorer(gpt, tokenizer), bundle), bundle.tasks, strict=True):
        plain = {
            "kind": task.kind,
            "items": raw_items(task.items.path),
            "shots": task.num_fewshot,
            "delimiter": task.delimiter,
        }
        (record,) = exam.examine([7])
        expected = twin(gpt, tokenizer, plain, 7, len(plain["items"]))
        assert record.score == float(expected.is_right)
        if task.kind != "language_modeling":
            assert record.prediction == expected.option


def raw_items(path):
    """Return the rows of a gzipped file of JSON lines."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@torch.inference_mode()
def test_shots_come_from_all_items_unless_asked_otherwise(base_dir, tmp_path):
    gpt, task, few = tiny_gpt(512), task_of("multiple_choice"), 7
    bundle = read_bundle(write_bundle(tmp_path / "core", {"t": task}))
    scorer = GPTScorer(gpt, ByteTokenizer())
    (whole,), (some,), (cropped,) = (
        core_exams(scorer, bundle, *arguments) for arguments in ((), (few,), (few, True))
    )
    assert len(some) == len(cropped) == few
    assert [some.prompts(index) for index in range(few)] == [whole.prompts(index) for index in range(few)]
    assert some.facts == whole.facts != cropped.facts
    expected = [twin(gpt, ByteTokenizer(), task, number, few) for number in range(few)]
    assert [record.prediction for record in cropped.examine(range(few))] == [a.option for a in expected]


def test_an_item_is_never_among_its_own_shots(base_dir, tmp_path):
    task = task_of("multiple_choice") | {"shots": ITEMS - 1}
    items = [item | {"query": f"<{number}>"} for number, item in enumerate(task["items"])]
    bundle = read_bundle(write_bundle(tmp_path / "core", {"t": task | {"items": items}}))
    (exam,) = core_exams(GPTScorer(tiny_gpt(64), ByteTokenizer()), bundle)
    for index in range(ITEMS):
        prompt = exam.prompts(index)[0]
        assert [prompt.count(f"<{number}>") for number in range(ITEMS)] == [1] * ITEMS


def test_of_equally_likely_options_the_first_counts(base_dir, tmp_path):
    pairs = [(first, second) for first in LETTERS for second in LETTERS if first != second][:ITEMS]
    items = [{"query": "q", "choices": [*pair, *pair], "gold": 2} for pair in pairs]
    bundle = read_bundle(
        write_bundle(tmp_path / "core", {"t": task_of("multiple_choice") | {"items": items}})
    )
    (exam,) = core_exams(GPTScorer(tiny_gpt(512), ByteTokenizer()), bundle)
    assert {record.prediction for record in exam.examine(range(ITEMS))} == {0, 1}


def test_where_the_tokenizer_merges_across_the_border_the_merged_id_is_scored():
    tokenizer = merging_tokenizer()
    prompts = tokenizer.encode_flat(["cat=", "cat=a"], prepend_bos=True)
    without, whole = np.split(prompts.ids, prompts.offsets[1:-1])
    assert [tokenizer.decode([ids[-1]]) for ids in (without, whole)] == ["=", "=a"]
    (continuation,) = find_continuations("language_modeling", [without, whole])
    assert tokenizer.decode(whole[continuation.start :]) == "=a"


def test_records_do_not_depend_on_what_else_is_examined(base_dir, tmp_path):
    """A chunk's records are the same to the last bit whenever and wherever it is examined."""
    task = task_of("schema") | {"items": make_items("schema", CHUNK + 9)}
    bundle = read_bundle(write_bundle(tmp_path / "core", {"t": task, "u": task | {"shots": 0}}))
    exams = core_exams(GPTScorer(tiny_gpt(512), ByteTokenizer()), bundle)
    chunks = chunks_of(exams)
    assert [len(chunk.indices) for chunk in chunks] == [CHUNK, 9] * 2
    forward, backward = (
        {chunk: exams[chunk.exam].examine(chunk.indices) for chunk in order}
        for order in (chunks, chunks[::-1])
    )
    assert forward == backward


def test_a_record_says_what_was_asked_and_answered(base_dir, tmp_path):
    tasks = {kind: task_of(kind) for kind in ("multiple_choice", "language_modeling")}
    bundle = read_bundle(write_bundle(tmp_path / "core", tasks))
    choice, text = core_exams(GPTScorer(tiny_gpt(512), ByteTokenizer()), bundle, max_problems=3)
    assert (choice.name, choice.baseline, len(choice)) == ("core/multiple_choice", 0.25, 3)
    records = text.examine([1])
    assert records[0].index == 1
    assert text.prompts(1)[1].endswith("=" + records[0].gold)
    assert len(records[0].prediction) == len(records[0].gold) == 1
    assert len({record.prompt for record in choice.examine(range(3)) + records}) == 4


def test_max_problems_must_leave_something_to_ask_and_to_show(base_dir, tmp_path):
    bundle = read_bundle(write_bundle(tmp_path / "core", {"t": task_of("schema")}))
    scorer = GPTScorer(tiny_gpt(64), ByteTokenizer())
    with pytest.raises(BadInput, match="max_problems=0 leaves no item"):
        core_exams(scorer, bundle, 0)
    with pytest.raises(
        BadInput, match=r"max_problems=2: with reference_shots the 2 shots of t .* give 3 or more"
    ):
        core_exams(scorer, bundle, 2, reference_shots=True)
    assert len(core_exams(scorer, bundle, 2)[0]) == 2
    assert len(core_exams(scorer, bundle, 999)[0]) == ITEMS


def scores(**means):
    return [Score(f"core/{label}", mean, 0.01, 100, 0.25) for label, mean in means.items()]


@pytest.fixture
def bundle(tmp_path):
    tasks = {label: task_of("schema") for label in "abc"}
    tasks["c"]["items"] = None
    return read_bundle(write_bundle(tmp_path / "core", tasks))


def test_core_is_the_mean_of_centred_accuracies(tmp_path):
    bundle = read_bundle(write_bundle(tmp_path / "core", {label: task_of("schema") for label in "ab"}))
    result = core_metric([*scores(a=0.25, b=0.625), Score("chat/MMLU", 1.0, 0.0, 9)], bundle)
    assert result.value == pytest.approx((0.0 + 0.5) / 2)
    assert result.standard_error == pytest.approx(math.hypot(0.01 / 0.75, 0.01 / 0.75) / 2)
    assert (result.name, result.missing, result.is_partial) == ("core/metric", [], False)


def test_a_missing_task_makes_core_partial_and_is_named(bundle):
    result = core_metric(scores(b=0.625), bundle)
    assert result.value == pytest.approx(0.5)
    assert (result.name, result.is_partial) == ("core/partial", True)
    path = bundle.folder / "eval_data" / "group" / "c.jsonl"
    assert result.missing == [Missing("a", "was not asked"), Missing("c", f"{path} is missing")]


def test_core_of_nothing_is_refused(bundle):
    with pytest.raises(BadInput, match="none of the 3 tasks of CORE has a score"):
        core_metric([Score("chat/MMLU", 1.0, 0.0, 9)], bundle)
