"""lm-evaluation-harness on an exported model against this project's own scorer: the same answers, item by item?

    python benchmarks/lm_eval_agreement.py --from RUN|DIR --items-path FOLDER [--items 200]

    --items-path    a folder or file of ARC questions, such as tasks/arc/ARC-Easy below the base directory

Both sides follow one rule, lm-evaluation-harness's `arc_easy`: "Question: …\\nAnswer:", each choice after a space, the
choice whose ids are likeliest together (their log-likelihoods are added up, not averaged), BOS first. The harness reads
the model as `AutoModelForCausalLM` and `AutoTokenizer` give it, from a task file written here; nothing is downloaded.

Prints one line of JSON: how many items the two sides answer alike, the largest difference of a log-likelihood, the
smallest lead of a best choice over the second, and both accuracies. Without lm-eval (`pip install "lm-eval[hf]"`,
best into an environment of its own) it says so and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nanochat_pl.artifacts import Artifact, find_artifact, load_artifact, save_huggingface
from nanochat_pl.evaluation.likelihood import GPTScorer
from nanochat_pl.evaluation.row_plan import Continuation
from nanochat_pl.tasks.rows import Rows, find_files

TASK = """
task: nanochat_pl_arc
dataset_path: json
dataset_kwargs: {data_files: {test: ITEMS}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: "{{gold}}"
metric_list: [{metric: acc}]
"""


LogLikelihoods = list[list[float]]  # of each item, of every choice


class Item(NamedTuple):
    """A question with its choices, and which of them is right."""

    question: str
    choices: list[str]
    gold: int


def read_items(path: Path, count: int) -> list[Item]:
    """Return the first questions of the test split."""
    rows = Rows(find_files(path, ("test",), whose="ARC"))
    items = []
    for row in (rows[number].content for number in range(min(count, len(rows)))):
        labels, texts = row["choices"]["label"], row["choices"]["text"]
        items.append(Item(row["question"], texts, labels.index(row["answerKey"])))
    return items


def by_us(artifact: Artifact, items: Sequence[Item]) -> LogLikelihoods:
    """Answer with this project's scorer."""
    scorer = GPTScorer(artifact.gpt, artifact.tokenizer)
    asked = [f"Question: {item.question}\nAnswer:" for item in items]
    rows = [
        Continuation(scorer.encode([f"{prompt} {choice}"])[0], len(ids))
        for item, prompt, ids in zip(items, asked, scorer.encode(asked), strict=True)
        for choice in item.choices
    ]
    totals = iter([-result.total for result in scorer.score(rows)])
    return [[next(totals) for _ in item.choices] for item in items]


def by_harness(exported: Path, items: Sequence[Item], scratch: Path) -> LogLikelihoods:
    """Answer with lm-evaluation-harness."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    lines = (json.dumps(item._asdict()) for item in items)
    (scratch / "items.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (scratch / "arc.yaml").write_text(TASK.replace("ITEMS", str(scratch / "items.jsonl")))
    manager = TaskManager(include_path=str(scratch), include_defaults=False)
    model = HFLM(pretrained=str(exported), device="cpu", dtype="float32", batch_size=16, add_bos_token=True)
    results = simple_evaluate(
        model, tasks=["nanochat_pl_arc"], task_manager=manager, log_samples=True, bootstrap_iters=0
    )
    samples = sorted(results["samples"]["nanochat_pl_arc"], key=lambda sample: sample["doc_id"])
    return [[float(response[0]) for response in sample["filtered_resps"]] for sample in samples]


def compare(items: Sequence[Item], ours: LogLikelihoods, theirs: LogLikelihoods) -> dict[str, Any]:
    """Return how far the two sides agree."""
    chosen, their_choices = likeliest(ours), likeliest(theirs)
    pairs = [(x, y) for a, b in zip(ours, theirs, strict=True) for x, y in zip(a, b, strict=True)]
    differ = [number for number, choice in enumerate(chosen) if choice != their_choices[number]]
    gold = [item.gold for item in items]
    return {
        "items": len(items),
        "agree": len(items) - len(differ),
        "differ": differ,
        "largest_difference": max(abs(x - y) for x, y in pairs),
        "smallest_lead": min(max(item) - sorted(item)[-2] for item in ours),
        "accuracy": sum(map(int.__eq__, chosen, gold)) / len(items),
        "lm_eval_accuracy": sum(map(int.__eq__, their_choices, gold)) / len(items),
    }


def likeliest(answers: LogLikelihoods) -> list[int]:
    """Return the number of the likeliest choice of each item; of equals the first."""
    return [max(range(len(item)), key=item.__getitem__) for item in answers]


def main() -> None:
    """Export, ask both, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from", dest="source", help="run or folder of a model")
    parser.add_argument("--items-path", type=Path, help="folder or file of ARC questions")
    parser.add_argument("--items", type=int, default=200)
    args = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    try:
        import lm_eval
    except ImportError:
        print(json.dumps({"benchmark": "lm_eval_agreement", "lm_eval": "missing"}))
        return
    if args.source is None or args.items_path is None:
        print(
            json.dumps({"benchmark": "lm_eval_agreement", "lm_eval": lm_eval.__version__, "model": "missing"})
        )
        return
    items = read_items(args.items_path, args.items)
    artifact = load_artifact(find_artifact(args.source))
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HF_DATASETS_CACHE"] = f"{scratch}/cache"
        exported = Path(scratch) / "hf"
        save_huggingface(exported, artifact.gpt, artifact.tokenizer, artifact.provenance)
        ours, theirs = by_us(artifact, items), by_harness(exported, items, Path(scratch))
    facts = {"benchmark": "lm_eval_agreement", "lm_eval": lm_eval.__version__, "model": args.source}
    print(json.dumps(facts | compare(items, ours, theirs)))


if __name__ == "__main__":
    main()
