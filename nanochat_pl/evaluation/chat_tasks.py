"""Chat tasks as exams, and ChatCORE.

A categorical task is answered by the likeliest of its letters after the prompt, one row of the network a question; a
generative one by what the engine writes, which only the task can mark. In both, the model reads a user's message as
it would in a conversation. A prompt that does not fit the context loses its beginning behind BOS.

ChatCORE is the mean of the centred scores of six tasks, as nanochat had it with SpellingBee among them; later versions
of nanochat have five, and their numbers cannot be compared with these.

Letters: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import NamedTuple

from nanochat_pl.evaluation.exam import (
    Estimate,
    Exam,
    ItemRecord,
    Score,
    mean_centred,
    prompt_hash,
    require_problems,
)
from nanochat_pl.inference.engine import Engine
from nanochat_pl.inference.sampling import SamplingSettings
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.tasks.base import Task
from nanochat_pl.tasks.exams import CHATCORE_TASKS
from nanochat_pl.tokenizer.conversation import Conversation, render_for_completion

CHATCORE_VERSION = "six-tasks"
CHUNKS_OF_ROWS = 4  # items of a chunk per row of the engine, so that its slots stay full


class Answering(NamedTuple):
    """How generative questions are answered.

    Attributes:
        max_new_tokens: length of an answer at most.
        temperature: 0 takes the likeliest token each time.
        top_k: only so many tokens can be drawn; None means all.
        samples: answers to each question; more than one needs a temperature.
        pass_at: k of pass@k, the chance that at least one of k answers is right; `samples` at most.
        seed: of the first answer to the first question.
    """

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_k: int | None = 50
    samples: int = 1
    pass_at: int = 1
    seed: int = 42

    def require_sense(self) -> None:
        """Raise BadInput where the numbers contradict each other."""
        if self.samples < 1:
            raise BadInput(f"num_samples={self.samples} leaves no answer; give 1 or more")
        if not 1 <= self.pass_at <= self.samples:
            raise BadInput(f"pass_at={self.pass_at} is not between 1 and num_samples={self.samples}")
        if self.samples > 1 and not self.temperature > 0:
            raise BadInput(
                f"num_samples={self.samples} at temperature 0 are all the same; add --temperature 1"
            )

    @property
    def variant(self) -> str:
        """Return what sets scores apart from those of one likeliest answer, such as `+pass@4of8+temperature0.8`."""
        if not self.temperature > 0:
            return ""
        several = f"+pass@{self.pass_at}of{self.samples}" if self.samples > 1 else ""
        return f"{several}+temperature{self.temperature:g}" + (
            f"+top_k{self.top_k or 'all'}" if self.top_k != Answering().top_k else ""
        )

    def settings(self, index: int, sample: int) -> SamplingSettings:
        """Return the settings of one answer; they do not depend on what else is asked."""
        return SamplingSettings(
            temperature=self.temperature,
            top_k=self.top_k,
            seed=self.seed + index * self.samples + sample,
            max_new_tokens=self.max_new_tokens,
        )


class ChatExam(Exam):
    """The first items of a task.

    Args:
        name: the task's in metrics, without `chat/`.
        task: the questions.
        engine: the model.
        max_problems: how many items; None means all.
    """

    def __init__(self, name: str, task: Task, engine: Engine, max_problems: int | None = None) -> None:
        require_problems(max_problems)
        task.require_marking()
        self.name, self.baseline = f"chat/{name}", task.chance
        self.task, self.engine = task, engine
        self.chunk = CHUNKS_OF_ROWS * engine.rows
        self.facts = {"task": task.facts, "chunk": self.chunk}
        self._n = len(task) if max_problems is None else min(max_problems, len(task))

    def __len__(self) -> int:
        return self._n

    def _prompt(self, conversation: Conversation, room: int) -> Prompt:
        """Return what the model reads before it answers, of at most `room` ids."""
        ids = render_for_completion(self.engine.tokenizer, conversation)
        surplus = max(0, len(ids) - room)
        return Prompt(ids[:1] + ids[1 + surplus :], int(surplus > 0))


class Prompt(NamedTuple):
    """Ids of a prompt, and 1 if some were taken out behind BOS to make it fit."""

    ids: list[int]
    cropped: int


class Categorical(ChatExam):
    """Questions answered by the likeliest of their letters."""

    def examine(self, indices: Sequence[int]) -> list[ItemRecord]:
        conversations = [self.task[index] for index in indices]
        context = self.engine.gpt.config.sequence_len
        prompts = [self._prompt(conversation, context) for conversation in conversations]
        logits = self.engine.next_logits([prompt.ids for prompt in prompts])  # (B, V)
        records = []
        for index, conversation, prompt, row in zip(indices, conversations, prompts, logits, strict=True):
            letters = conversation["letters"]
            answer = letters[int(row[self._ids_of(letters)].argmax())]
            score = float(self.task.evaluate(conversation, answer))
            gold = conversation["messages"][-1]["content"]
            records.append(ItemRecord(index, prompt_hash(prompt.ids), answer, gold, score, prompt.cropped))
        return records

    def _ids_of(self, letters: Sequence[str]) -> list[int]:
        """Return the id of each letter.

        Raises:
            Failure: the tokenizer needs several for one.
        """
        encoded = [self.engine.tokenizer.encode(letter) for letter in letters]
        for letter, ids in zip(letters, encoded, strict=True):
            if len(ids) != 1:
                raise Failure(
                    f"{self.name}: the tokenizer has no token for {letter!r} alone, so it cannot be chosen"
                )
        return [ids[0] for ids in encoded]


class Generative(ChatExam):
    """Questions answered in writing, once or several times; answers that were drawn are a score of another name.

    Args:
        name: see `ChatExam`.
        task: see `ChatExam`.
        engine: see `ChatExam`.
        max_problems: see `ChatExam`.
        answering: how.
    """

    def __init__(
        self, name: str, task: Task, engine: Engine, max_problems: int | None, answering: Answering
    ) -> None:
        super().__init__(name, task, engine, max_problems)
        answering.require_sense()
        self.answering = answering
        self.name += answering.variant
        self.facts |= {"answering": answering._asdict()}

    def examine(self, indices: Sequence[int]) -> list[ItemRecord]:
        conversations = [self.task[index] for index in indices]
        context, samples = self.engine.gpt.config.sequence_len, range(self.answering.samples)
        room = context - min(self.answering.max_new_tokens, context // 2)
        prompts = [self._prompt(conversation, room) for conversation in conversations]
        completions = self.engine.generate(
            [prompt.ids for prompt in prompts for _ in samples],
            [self.answering.settings(index, sample) for index in indices for sample in samples],
        )
        texts = [completion.text for completion in completions]
        answers = [texts[place * len(samples) :][: len(samples)] for place in range(len(indices))]
        return list(map(self._record, indices, conversations, prompts, answers))

    def _record(
        self, index: int, conversation: Conversation, prompt: Prompt, answers: list[str]
    ) -> ItemRecord:
        right = sum(self.task.evaluate(conversation, answer) for answer in answers)
        score = pass_at_k(len(answers), right, self.answering.pass_at)
        prediction = answers[0] if len(answers) == 1 else answers
        return ItemRecord(
            index, prompt_hash(prompt.ids), prediction, _gold(conversation), score, prompt.cropped
        )


def chat_exam(
    name: str,
    task: Task,
    engine: Engine,
    *,
    max_problems: int | None = None,
    answering: Answering | None = None,
) -> ChatExam:
    """Return the exam of a task, by its kind.

    Args:
        name: the task's in metrics, without `chat/`.
        task: the questions.
        engine: the model.
        max_problems: the first so many items; None means all.
        answering: how generative questions are answered; None means the defaults.

    Raises:
        BadInput: the task has no right answers, or the settings contradict each other.
        Failure: the task's data is missing or damaged, or this machine cannot mark its answers.
    """
    if task.kind == "categorical":
        return Categorical(name, task, engine, max_problems)
    if task.kind == "generative":
        return Generative(name, task, engine, max_problems, answering or Answering())
    raise BadInput(f"{name}: it has no right answers, so nobody can be examined in it")


def chatcore(scores: Sequence[Score]) -> Estimate | None:
    """Return ChatCORE: the mean of the centred scores of its six tasks; None where one of them is missing."""
    found = {score.name.removeprefix("chat/"): score for score in scores}
    if not found.keys() >= set(CHATCORE_TASKS):
        return None
    return mean_centred([found[name] for name in CHATCORE_TASKS])


def pass_at_k(n: int, right: int, k: int) -> float:
    """Return the chance that one of `k` answers, drawn from `n` of which `right` are right, is right.

    Source:
        Chen et al. 2021, arXiv:2107.03374.
    """
    return 1 - comb(n - right, k) / comb(n, k)


def _gold(conversation: Conversation) -> str:
    """Return the text of the reference answer, or of its last part."""
    content = conversation["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]
