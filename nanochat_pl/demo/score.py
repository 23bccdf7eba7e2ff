"""What the demo's models are asked, and how they do: facts of held-out towns, unseen words, unseen sums.

The facts stand in documents of pretraining and midtraining only. No question about a held-out town was ever trained
on, no word and no sum asked here stands in any document or conversation.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from nanochat_pl.artifacts import Artifact, load_artifact
from nanochat_pl.evaluation.chat_tasks import Answering, chat_exam
from nanochat_pl.evaluation.exam import Score
from nanochat_pl.evaluation.exam_scores import score_alone
from nanochat_pl.inference.engine import Engine
from nanochat_pl.inference.sampling import SamplingSettings
from nanochat_pl.model.gpt import GPT
from nanochat_pl.sandbox.calculator import calculate
from nanochat_pl.tasks.world_chat import WORDINGS, ToolSums, TownFacts, WordSpelling

WORDS = SUMS = 300
TRAINED_QUESTIONS = 200
ROWS = 64  # answered at once
ANSWER_TOKENS = 64
UNTRAINED_SEED = 0


class Scores(NamedTuple):
    """Results of one model."""

    facts: Score
    spelling: Score
    arithmetic: Score


def scores_of(artifact: Artifact) -> Scores:
    """Ask a model everything."""
    tasks = TownFacts(split="test"), WordSpelling(split="test", size=WORDS), ToolSums(split="test", size=SUMS)
    return Scores(*(_score(artifact, task) for task in tasks))


def facts_of(artifact: Artifact) -> Score:
    """Ask a model about the held-out towns."""
    return _score(artifact, TownFacts(split="test"))


def trained_facts_of(artifact: Artifact) -> Score:
    """Ask a model about training towns, as it was asked in training."""
    return _score(artifact, TownFacts(split="train", stop=TRAINED_QUESTIONS))


def untrained(artifact: Artifact) -> Artifact:
    """Return an artifact's model as it was before its first step."""
    generator = torch.Generator().manual_seed(UNTRAINED_SEED)
    return artifact._replace(gpt=GPT.materialized(artifact.gpt.config, generator=generator).eval())


def cloze_score(folder: Path) -> Score:
    """Let a base model finish the sentences that tell the facts of held-out towns, up to the value."""
    artifact = load_artifact(folder)
    facts = TownFacts(split="test")
    engine = _engine(artifact)
    asked = [(town, key) for town in facts.world.held_out_towns for key in WORDINGS]
    beginnings = [WORDINGS[key].answer.split(" {value}")[0].format(town=town.name) for town, key in asked]
    prompts = [artifact.tokenizer.encode(text, prepend="<|bos|>") for text in beginnings]
    completions = engine.generate(prompts, SamplingSettings(temperature=0.0, max_new_tokens=8))
    return Score.of(
        "cloze",
        [
            float(completion.text.strip().startswith(town.facts[key]))
            for (town, key), completion in zip(asked, completions, strict=True)
        ],
    )


def _score(artifact: Artifact, task: TownFacts | WordSpelling | ToolSums) -> Score:
    answering = Answering(max_new_tokens=ANSWER_TOKENS)
    return score_alone(chat_exam(task.name, task, _engine(artifact), answering=answering))


def _engine(artifact: Artifact) -> Engine:
    return Engine(artifact.gpt, artifact.tokenizer, calculate, rows=ROWS)
