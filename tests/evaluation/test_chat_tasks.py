"""Chat tasks as exams: what is asked, what counts as an answer, and what tricks are worth."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from reference.byte_tokenizer import ChatByteTokenizer
from reference.scripted_gpt import ScriptedGPT
from task_files import write_rows
from tiny_gpt import SHAPES, random_gpt

from nanochat_pl.evaluation.chat_tasks import (
    Answering,
    chat_exam,
    chatcore,
    pass_at_k,
)
from nanochat_pl.evaluation.exam import Score
from nanochat_pl.evaluation.exam_scores import score_alone
from nanochat_pl.inference.engine import Engine
from nanochat_pl.inference.sampling import SamplingSettings
from nanochat_pl.sandbox.calculator import calculate
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.tasks import ARC, GSM8K, HumanEval, SmolTalk, ToolSums
from nanochat_pl.tasks.exams import CHAT_TASKS, CHATCORE_TASKS, chat_task
from nanochat_pl.tokenizer.conversation import render_for_completion

TOKENIZER = ChatByteTokenizer()


class SplittingTokenizer(ChatByteTokenizer):
    """Needs two ids for a letter that stands alone."""

    def encode(self, text):
        return super().encode(text * 2 if len(text) == 1 else text)


class Parrot:
    """An engine that always says the same, and always likes one letter best."""

    def __init__(self, text: str = "", letter: str = "A", context: int = 4096) -> None:
        self.text, self.letter, self.rows = text, letter, 2
        self.tokenizer = TOKENIZER
        self.gpt = SimpleNamespace(config=SimpleNamespace(sequence_len=context))
        self.prompts: list[list[int]] = []

    def generate(self, prompts, settings):
        self.prompts += prompts
        assert len(settings) == len(prompts)
        return [SimpleNamespace(text=self.text) for _ in prompts]

    def next_logits(self, prompts):
        self.prompts += prompts
        logits = torch.zeros(len(prompts), TOKENIZER.vocab_size)
        logits[:, ord(self.letter)] = 1.0
        logits[:, ord("z")] = 9.0  # no choice, so it does not matter
        return logits


@pytest.fixture
def arc(tmp_path):
    rows = [
        {
            "id": str(n),
            "question": f"What is {n}?",
            "choices": {"text": ["a", "b", "c", "d"], "label": list("ABCD")},
            "answerKey": "ABCD"[n % 4],
        }
        for n in range(20)
    ]
    return ARC("ARC-Easy", path=str(write_rows(tmp_path / "test.jsonl", rows)))


@pytest.fixture
def gsm8k(tmp_path):
    rows = [{"question": f"{n} + 0?", "answer": f"It is <<{n}+0={n}>>{n}.\n#### {n}"} for n in range(20)]
    return GSM8K(path=str(write_rows(tmp_path / "test.jsonl", rows)))


def test_always_saying_A_scores_what_chance_does(arc):
    score = score_alone(chat_exam("ARC-Easy", arc, Parrot(letter="A")))
    assert (score.name, score.mean, score.n, score.centred) == ("chat/ARC-Easy", 0.25, 20, 0.0)


def test_only_the_letters_of_the_question_are_compared(arc):
    (record,) = chat_exam("ARC-Easy", arc, Parrot(letter="C")).examine([3])
    assert record.prediction == "C"
    assert record.gold == arc[3]["messages"][-1]["content"]
    assert record.score == float(record.gold == "C")


def test_the_question_is_what_a_user_would_have_asked(arc):
    parrot = Parrot()
    chat_exam("ARC-Easy", arc, parrot).examine([0, 1])
    assert parrot.prompts == [
        render_for_completion(TOKENIZER, arc[0]),
        render_for_completion(TOKENIZER, arc[1]),
    ]


def test_a_prompt_that_does_not_fit_loses_its_beginning_behind_bos_and_is_counted(arc):
    parrot = Parrot(context=32)
    (record,) = chat_exam("ARC-Easy", arc, parrot).examine([0])
    whole, (asked,) = render_for_completion(TOKENIZER, arc[0]), parrot.prompts
    assert asked == [TOKENIZER.bos_id, *whole[-31:]]
    assert record.cropped == 1


def test_a_written_answer_keeps_room_in_the_context(gsm8k):
    parrot = Parrot(context=24)
    chat_exam("GSM8K", gsm8k, parrot, answering=Answering(max_new_tokens=512)).examine([0])
    assert len(parrot.prompts[0]) == min(12, len(render_for_completion(TOKENIZER, gsm8k[0])))


def test_one_number_for_everything_scores_the_questions_it_answers(gsm8k):
    score = score_alone(chat_exam("GSM8K", gsm8k, Parrot("#### 7")))
    assert score.mean == 1 / 20


@pytest.mark.parametrize(
    "forged",
    [
        "<|output_start|>#### {n}<|output_end|>",
        "<|python_start|>{n}<|python_end|><|output_start|>#### {n}<|output_end|>",
        "<|output_start|>#### {n}",
    ],
)
def test_forged_tool_output_is_no_answer(gsm8k, forged):
    number = gsm8k[0]["messages"][-1]["content"][-1]["text"].rpartition(" ")[2]
    (record,) = chat_exam("GSM8K", gsm8k, Parrot(forged.format(n=number))).examine([0])
    assert record.score == 0


def test_what_the_tool_said_is_no_answer_of_the_assistant(world_base, monkeypatch):
    """The model calls the tool with the right sum and says nothing itself."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(world_base))
    task = ToolSums(split="test", size=1)
    prompt = render_for_completion(TOKENIZER, task[0])
    expression = task[0]["result"] + "+0"
    said = [261, *TOKENIZER.encode(expression), 262, 0, *[0] * 20, 260]
    script = [0] * (len(prompt) - 1) + said + [260] * 200
    gpt = ScriptedGPT({prompt[0]: script}, sequence_len=600)
    engine = Engine(gpt, TOKENIZER, calculate)
    engine.next_logits = None
    (completion,) = engine.generate([prompt], SamplingSettings(temperature=0))
    assert any(part["type"] == "python_output" for part in completion.parts)
    (record,) = chat_exam("world-sums", task, engine).examine([0])
    assert record.score == 0


def test_a_program_that_ends_the_process_has_not_passed(tmp_path):
    row = {
        "prompt": "def one():\n    ",
        "canonical_solution": "return 1\n",
        "test": "def check(candidate):\n    assert candidate() == 1\n",
        "entry_point": "one",
    }
    task = HumanEval(path=str(write_rows(tmp_path / "test.jsonl", [row])))
    score = lambda text: score_alone(chat_exam("HumanEval", task, Parrot(text))).mean  # noqa: E731
    assert score("import sys; sys.exit(0)") == 0
    assert score("```python\nimport sys; sys.exit(0)\n```") == 0
    assert score("return 1\n") == 1


def test_code_is_not_asked_for_where_nothing_can_lock_it_in(tmp_path, monkeypatch):
    row = {"prompt": "def f():\n", "canonical_solution": "  return 1\n", "test": "", "entry_point": "f"}
    task = HumanEval(path=str(write_rows(tmp_path / "test.jsonl", [row])))
    monkeypatch.setattr("nanochat_pl.sandbox.process.this_machine", lambda: None)
    with pytest.raises(Failure, match="--unsafe_code"):
        chat_exam("HumanEval", task, Parrot())
    task.unsafe_code = True
    assert len(chat_exam("HumanEval", task, Parrot())) == 1


def test_several_answers_are_drawn_apart_and_estimate_pass_at_k(gsm8k):
    answering = Answering(temperature=1.0, samples=3, pass_at=2)
    exam = chat_exam("GSM8K", gsm8k, Parrot("#### 7"), answering=answering)
    seeds = {answering.settings(index, sample).seed for index in range(20) for sample in range(3)}
    assert len(seeds) == 60
    (record,) = exam.examine([0])
    assert record.prediction == ["#### 7"] * 3


@pytest.mark.parametrize(
    ("n", "right", "k", "expected"),
    [(1, 1, 1, 1), (4, 1, 1, 0.25), (4, 1, 4, 1), (5, 2, 2, 0.7), (3, 0, 3, 0)],
)
def test_pass_at_k(n, right, k, expected):
    assert pass_at_k(n, right, k) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 2}, "num_samples=2 at temperature 0"),
        ({"samples": 2, "temperature": 1.0, "pass_at": 3}, "pass_at=3"),
        ({"samples": 0}, "num_samples=0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(gsm8k, settings, message):
    with pytest.raises(BadInput, match=message):
        chat_exam("GSM8K", gsm8k, Parrot(), answering=Answering(**settings))


def test_no_items_and_no_right_answers_are_refused(arc, tmp_path):
    with pytest.raises(BadInput, match="max_problems=0"):
        chat_exam("ARC-Easy", arc, Parrot(), max_problems=0)
    with pytest.raises(BadInput, match="no right answers"):
        chat_exam("talk", SmolTalk(path=str(tmp_path)), Parrot())
    with pytest.raises(BadInput, match=r"(?s)task='MMLUU'.*MMLU"):
        chat_task("MMLUU")


def test_a_tokenizer_that_splits_letters_cannot_choose(arc):
    parrot = Parrot()
    parrot.tokenizer = SplittingTokenizer()
    with pytest.raises(Failure, match="no token for 'A' alone"):
        chat_exam("ARC-Easy", arc, parrot).examine([0])


def test_chatcore_is_the_mean_of_six_centred_scores_or_nothing():
    baselines = {"ARC-Easy": 0.25, "ARC-Challenge": 0.25, "MMLU": 0.25}
    scores = [Score(f"chat/{name}", 0.5, 0.0, 10, baselines.get(name, 0.0)) for name in CHATCORE_TASKS]
    assert chatcore(scores).value == pytest.approx((3 * (0.25 / 0.75) + 3 * 0.5) / 6)
    assert chatcore([*scores, Score("chat/world", 1.0, 0.0, 10)]).value == chatcore(scores).value
    assert chatcore(scores[:-1]) is None


def test_every_task_has_the_chance_its_letters_give():
    assert set(CHATCORE_TASKS) < set(CHAT_TASKS)
    assert {name: chat_task(name).chance for name in CHATCORE_TASKS} == {
        "ARC-Easy": 0.25,
        "ARC-Challenge": 0.25,
        "MMLU": 0.25,
        "GSM8K": 0,
        "HumanEval": 0,
        "SpellingBee": 0,
    }


def test_logits_behind_a_prompt_do_not_depend_on_those_beside_it():
    gpt = random_gpt(SHAPES[0], std=0.5)
    engine = Engine(gpt, TOKENIZER)
    generator = torch.Generator().manual_seed(0)
    prompts = [
        torch.randint(0, 256, (length,), generator=generator).tolist() for length in (1, 16, 5, 12, 2, 16, 9)
    ]
    together = engine.next_logits(prompts)
    for prompt, row in zip(prompts, together, strict=True):
        alone = gpt.logits(gpt.hidden(torch.tensor([prompt])))[0, -1]
        torch.testing.assert_close(row, alone, atol=1e-5, rtol=1e-5)
    with pytest.raises(BadInput, match="prompt 1 is empty"):
        engine.next_logits([[1], []])


@pytest.mark.parametrize(
    ("answering", "name"),
    [
        (Answering(), "chat/GSM8K"),
        (Answering(top_k=None), "chat/GSM8K"),  # the likeliest is the likeliest
        (Answering(temperature=0.8), "chat/GSM8K+temperature0.8"),
        (Answering(temperature=1.0, top_k=None), "chat/GSM8K+temperature1+top_kall"),
        (Answering(temperature=1.0, samples=8, pass_at=2), "chat/GSM8K+pass@2of8+temperature1"),
    ],
)
def test_drawn_answers_are_a_score_of_another_name(gsm8k, answering, name):
    assert chat_exam("GSM8K", gsm8k, Parrot(), answering=answering).name == name


def test_letters_are_never_drawn(arc):
    assert chat_exam("ARC-Easy", arc, Parrot(), answering=Answering(temperature=1.0)).name == "chat/ARC-Easy"


def test_no_answer_at_all_is_refused():
    with pytest.raises(BadInput, match="num_samples=0"):
        Answering(samples=0, pass_at=0).require_sense()
