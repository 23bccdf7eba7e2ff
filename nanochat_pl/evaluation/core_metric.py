"""CORE: how much more than chance a base model knows, over 22 tasks of in-context learning.

    Bundle ── core_exams ──► one Exam a task ── records ──► Score a task ── core_metric ──► CoreResult

    multiple choice, schema    the option with the lowest mean loss of its scored ids is the model's answer
    language modeling          right where the model would have said every id of the continuation itself

A task's accuracy is centred, so that chance is 0 and all right is 1, and CORE is the mean of that over the tasks.

Source:
    Li et al. 2024, arXiv:2406.11794 (the metric); nanochat's `core_eval.py` and `base_eval.py` (its details).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from nanochat_pl.evaluation.core_bundle import Bundle, CoreItem, CoreTask, Missing
from nanochat_pl.evaluation.core_prompts import (
    crop,
    draw_shots,
    find_continuations,
    item_order,
    render_prompts,
)
from nanochat_pl.evaluation.exam import (
    Exam,
    ItemRecord,
    Score,
    mean_centred,
    prompt_hash,
    require_problems,
)
from nanochat_pl.evaluation.likelihood import Likelihood, Scorer
from nanochat_pl.evaluation.prompt_ids import encode_once
from nanochat_pl.evaluation.row_plan import Continuation
from nanochat_pl.system.errors import BadInput
from nanochat_pl.system.paths import cache_dir

PREFIX = "core/"
CHUNK = 64  # items examined together: enough to find some of equal length
FORMAT = 1  # of prompts and marks; a change makes older records another exam's


class CoreExam(Exam):
    """One task of CORE.

    Args:
        scorer: the model.
        task: what it is asked.
        length: the first so many items, in the order of asking.
        pool: shots are drawn from the first so many.
        cache: folder of encoded prompts.
    """

    chunk = CHUNK

    def __init__(self, scorer: Scorer, task: CoreTask, *, length: int, pool: int, cache: Path) -> None:
        self.name, self.baseline = PREFIX + task.label, task.baseline
        self._scorer, self._task, self._length, self._pool, self._cache = scorer, task, length, pool, cache

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the records depend on besides the weights."""
        task = self._task
        return {
            "format": FORMAT,
            "kind": task.kind,
            "num_fewshot": task.num_fewshot,
            "delimiter": task.delimiter,
            "items": task.items.digest,
            "pool": self._pool,
            "context": self._scorer.context,
            "tokenizer": self._scorer.fingerprint,
        }

    def __len__(self) -> int:
        return self._length

    def examine(self, indices: Sequence[int]) -> list[ItemRecord]:
        """Ask the model these items; return a record of each, in their order."""
        asked = [self.prompts(index) for index in indices]
        texts = [prompt for prompts in asked for prompt in prompts]
        ids = iter(encode_once(self._scorer, texts, self._cache))
        found = [find_continuations(self._task.kind, [next(ids) for _ in prompts]) for prompts in asked]
        rows = [[crop(whole, self._scorer.context) for whole in question] for question in found]
        results = iter(self._scorer.score([row for question in rows for row in question]))
        records = []
        for index, prompts, whole, question in zip(indices, asked, found, rows, strict=True):
            prediction, gold, score = self._mark(index, question, [next(results) for _ in question])
            cropped = sum(len(a.ids) > len(b.ids) for a, b in zip(whole, question, strict=True))
            records.append(ItemRecord(index, prompt_hash(prompts), prediction, gold, score, cropped))
        return records

    def prompts(self, index: int) -> list[str]:
        """Return what is asked in item `index`."""
        shots = draw_shots(index, self._pool, self._task.num_fewshot) if self._task.num_fewshot else []
        return render_prompts(
            self._task.kind, self._task.delimiter, self._item(index), [self._item(shot) for shot in shots]
        )

    def _item(self, place: int) -> CoreItem:
        return self._task.items[self._order[place]]

    @cached_property
    def _order(self) -> list[int]:
        return item_order(len(self._task.items))

    def _mark(
        self, index: int, rows: Sequence[Continuation], results: Sequence[Likelihood]
    ) -> tuple[Any, Any, float]:
        """Return prediction, gold and score of one question."""
        if self._task.kind == "language_modeling":
            (row,), (result,) = rows, results
            said, right = (
                self._scorer.decode(result.likeliest),
                self._scorer.decode(row.ids[row.start :].tolist()),
            )
            return said, right, float(result.is_greedy)
        gold = self._item(index).gold
        # Of equally good options the first counts. An option that another begins with has nothing scored and no
        # mean; comparisons with it fail as they do in nanochat.
        best = min(range(len(results)), key=lambda option: results[option].mean)
        return best, gold, float(best == gold)


def core_exams(
    scorer: Scorer,
    bundle: Bundle,
    max_problems: int | None = None,
    reference_shots: bool = False,
) -> list[CoreExam]:
    """Return the exams of all tasks whose items are here.

    Args:
        scorer: the model that takes them.
        bundle: the tasks.
        max_problems: the first so many items of each, in the order of asking; None means all.
        reference_shots: draw shots from these items, as nanochat does, and not from all of the task's; for
            comparisons only, since an estimate from some items then has other prompts than the whole.

    Raises:
        BadInput: fewer than one problem, or too few to draw shots from.
    """
    require_problems(max_problems)
    exams = []
    for task in bundle.tasks:
        total = len(task.items)
        length = min(total, max_problems or total)
        pool = length if reference_shots else total
        if pool <= task.num_fewshot:
            raise BadInput(
                f"max_problems={max_problems}: with reference_shots the {task.num_fewshot} shots of {task.label} are "
                f"drawn from these; give {task.num_fewshot + 1} or more, or leave reference_shots out"
            )
        exams.append(CoreExam(scorer, task, length=length, pool=pool, cache=cache_dir("prompt_ids")))
    return exams


class CoreResult(NamedTuple):
    """CORE.

    Attributes:
        value: mean of the centred accuracies of the tasks that have a score.
        standard_error: of it, from the items' own spread.
        missing: tasks without a score, and why.
    """

    value: float
    standard_error: float
    missing: list[Missing]

    @property
    def is_partial(self) -> bool:
        """Whether a task is missing; then the value is no CORE and compares with none."""
        return bool(self.missing)

    @property
    def name(self) -> str:
        """What the value is called in metrics."""
        return PREFIX + ("partial" if self.is_partial else "metric")


def core_metric(scores: Sequence[Score], bundle: Bundle) -> CoreResult:
    """Return CORE from the scores of its exams.

    Args:
        scores: those named `core/<label>` count, one at least; others are passed over.
        bundle: the tasks there should be.

    Raises:
        BadInput: no task has a score.
    """
    by_label = {score.name.removeprefix(PREFIX): score for score in scores if score.name.startswith(PREFIX)}
    present = [by_label[label] for label in bundle.labels if label in by_label]
    if not present:
        raise BadInput(
            f"none of the {len(bundle.labels)} tasks of CORE has a score; name at least one of them"
        )
    reasons = {absent.label: absent for absent in bundle.missing}
    missing = [
        reasons.get(label, Missing(label, "was not asked"))
        for label in bundle.labels
        if label not in by_label
    ]
    return CoreResult(*mean_centred(present), missing)
