"""What each task asks, word for word: conversations written by hand, and every real row rendered a second time.

The rows written here are invented, in the form of the real files. Where real data is present, plain loops render it
again from the raw rows, in the order `datasets` itself shuffles them.
"""

from __future__ import annotations

import gzip
import json
import re
from hashlib import sha256
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from task_files import write_lines, write_rows

from nanochat_pl.tasks import ARC, GSM8K, MMLU, CustomJSON, HumanEval, SimpleSpelling, SmolTalk, SpellingBee

REAL_LENGTHS = {
    "arc/ARC-Easy/train": 2251,
    "arc/ARC-Easy/validation": 570,
    "arc/ARC-Easy/test": 1663,
    "arc/ARC-Challenge/train": 1119,
    "arc/ARC-Challenge/validation": 299,
    "arc/ARC-Challenge/test": 829,
    "mmlu/all/dev": 285,
    "mmlu/all/validation": 1531,
    "mmlu/all/test": 9834,
    "gsm8k/train": 7473,
    "gsm8k/test": 930,
    "humaneval/HumanEval": 115,
}


def one(task):
    """The only conversation of a task."""
    (conversation,) = task
    return conversation


def test_arc(tmp_path):
    row = {
        "id": "INVENTED_1",
        "question": "Which of these floats on water?",
        "choices": {"text": ["a coin", "a cork", "a brick"], "label": ["A", "B", "C"]},
        "answerKey": "B",
    }
    assert one(ARC("ARC-Challenge", "train", path=str(write_rows(tmp_path / "x.parquet", [row])))) == {
        "messages": [
            {
                "role": "user",
                "content": "Multiple Choice question: Which of these floats on water?\n"
                "- a coin=A\n"
                "- a cork=B\n"
                "- a brick=C\n"
                "\n"
                "Respond only with the letter of the correct answer.",
            },
            {"role": "assistant", "content": "B"},
        ],
        "letters": ("A", "B", "C"),
    }


def test_mmlu(tmp_path):
    row = {"question": "2 + 2 =", "subject": "arithmetic", "choices": ["1", "2", "3", "4"], "answer": 3}
    assert one(
        MMLU("auxiliary_train", "train", path=str(write_rows(tmp_path / "x.parquet", [{"train": row}])))
    ) == {
        "messages": [
            {
                "role": "user",
                "content": "Multiple Choice question: 2 + 2 =\n"
                "- 1=A\n- 2=B\n- 3=C\n- 4=D\n\nRespond only with the letter of the correct answer.",
            },
            {"role": "assistant", "content": "D"},
        ],
        "letters": ("A", "B", "C", "D"),
        "subject": "arithmetic",
    }


def test_gsm8k(tmp_path):
    row = {
        "question": "Ann has 3 boxes of 4 pens and loses 2 pens.  How many are left?",
        "answer": "She has 3*4=<<3*4=12>>12 pens.\nThen 12-2 = $<<12-2=10>>10 are left.\n#### 10",
    }
    assert one(GSM8K(path=str(write_rows(tmp_path / "x.jsonl", [row])))) == {
        "messages": [
            {"role": "user", "content": "Ann has 3 boxes of 4 pens and loses 2 pens.  How many are left?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "She has 3*4="},
                    {"type": "python", "text": "3*4"},
                    {"type": "python_output", "text": "12"},
                    {"type": "text", "text": "12 pens.\nThen 12-2 = $"},
                    {"type": "python", "text": "12-2"},
                    {"type": "python_output", "text": "10"},
                    {"type": "text", "text": "10 are left.\n#### 10"},
                ],
            },
        ]
    }


def test_humaneval(tmp_path):
    row = {
        "task_id": "Invented/0",
        "prompt": 'def twice(x):\n    """ Return x two times.\n    """\n',
        "canonical_solution": "    return x + x\n",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n",
        "entry_point": "twice",
    }
    assert one(HumanEval(path=str(write_rows(tmp_path / "x.jsonl.gz", [row])))) == {
        "messages": [
            {"role": "user", "content": 'def twice(x):\n    """ Return x two times.\n    """\n'},
            {
                "role": "assistant",
                "content": 'def twice(x):\n    """ Return x two times.\n    """\n\n    return x + x\n',
            },
        ],
        "entry_point": "twice",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n",
    }


def test_smoltalk_and_own_conversations(tmp_path):
    messages = [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "Which colour has the sky?"},
        {"role": "assistant", "content": "Blue."},
    ]
    parquet = write_rows(tmp_path / "x.parquet", [{"messages": messages, "source": "invented"}])
    lines = write_rows(tmp_path / "x.jsonl", [messages])
    assert one(SmolTalk("test", path=str(parquet))) == one(CustomJSON(str(lines))) == {"messages": messages}


def test_simple_spelling(tmp_path):
    path = str(write_lines(tmp_path / "words_alpha.txt", ["banana"]))
    assert one(SimpleSpelling("train", size=1, path=path)) == {
        "messages": [
            {"role": "user", "content": "Spell the word: banana"},
            {"role": "assistant", "content": "banana:b,a,n,a,n,a"},
        ]
    }


def test_spelling_bee(tmp_path):
    path = str(write_lines(tmp_path / "words_alpha.txt", ["banana"]))
    task = SpellingBee("train", size=50, path=path)
    user, assistant = next(
        item["messages"] for item in task if item["messages"][1]["content"][1]["text"].endswith("('a')")
    )
    assert re.search(r"banana", user["content"])
    assert assistant == {
        "role": "assistant",
        "content": [
            {
                "type": "text",
                "text": "I count the letter 'a' in 'banana' by hand and check the result with Python.\n"
                "\n"
                "The word letter by letter:\n"
                "banana:b,a,n,a,n,a\n"
                "\n"
                "Now each letter that is 'a':\n"
                "1:b\n"
                "2:a hit! count=1\n"
                "3:n\n"
                "4:a hit! count=2\n"
                "5:n\n"
                "6:a hit! count=3\n"
                "\n"
                "By hand I get 3. Python says:\n"
                "\n",
            },
            {"type": "python", "text": "'banana'.count('a')"},
            {"type": "python_output", "text": "3"},
            {"type": "text", "text": "\n\nBoth agree.\n\n#### 3"},
        ],
    }


def test_spelling_bee_asks_the_same_on_every_machine(tmp_path):
    path = str(
        write_lines(tmp_path / "words_alpha.txt", ["apple", "banana", "cherry", "elder", "moon", "star"])
    )
    items = [list(SpellingBee(split, size=100, path=path)) for split in ("train", "test")]
    digest = sha256(json.dumps(items, ensure_ascii=False).encode()).hexdigest()
    assert digest == "2a16a4cea46afb21e1cd7f178b4e60a8b3aad7d42956eee30879e1f308d99c27"


def raw_rows(shared_data: Path, name: str) -> list[dict]:
    """The rows of a real file, shuffled by `datasets` itself."""
    from datasets import Dataset

    parquet = shared_data / "tasks" / f"{name}-00000-of-00001.parquet"
    if parquet.exists():
        rows = pq.read_table(parquet).to_pylist()
    else:
        with gzip.open(shared_data / "tasks" / f"{name}.jsonl.gz", "rt") as lines:
            rows = [json.loads(line) for line in lines]
    order = Dataset.from_dict({"number": list(range(len(rows)))}).shuffle(seed=42)["number"]
    return [rows[number] for number in order]


@pytest.fixture
def real_tasks(shared_data, base_dir) -> Path:
    """The base directory of a user who has fetched the real data."""
    base_dir.mkdir()
    (base_dir / "tasks").symlink_to(shared_data / "tasks")
    return shared_data


def expected_choice(question: str, labels: list[str], texts: list[str], answer: str) -> list[dict]:
    text = "Multiple Choice question: " + question + "\n"
    for i in range(len(texts)):
        text += "- " + texts[i] + "=" + labels[i] + "\n"
    text += "\nRespond only with the letter of the correct answer."
    return [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize("subset", ["ARC-Easy", "ARC-Challenge"])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_all_real_arc_questions(real_tasks, subset, split):
    name = f"arc/{subset}/{split}"
    rows, task = raw_rows(real_tasks, name), ARC(subset, split)
    assert len(task) == len(rows) == REAL_LENGTHS[name]
    for row, conversation in zip(rows, task, strict=True):
        labels, texts = row["choices"]["label"], row["choices"]["text"]
        assert conversation["messages"] == expected_choice(row["question"], labels, texts, row["answerKey"])
        assert row["answerKey"] in conversation["letters"]
        assert task.evaluate(conversation, row["answerKey"])


@pytest.mark.parametrize("split", ["dev", "validation", "test"])
def test_all_real_mmlu_questions(real_tasks, split):
    name = f"mmlu/all/{split}"
    rows, task = raw_rows(real_tasks, name), MMLU("all", split)
    assert len(task) == len(rows) == REAL_LENGTHS[name]
    for row, conversation in zip(rows, task, strict=True):
        answer = "ABCD"[row["answer"]]
        assert conversation["messages"] == expected_choice(
            row["question"], list("ABCD"), row["choices"], answer
        )
        assert task.evaluate(conversation, answer)
    assert len({conversation["subject"] for conversation in task}) == 57


@pytest.mark.parametrize("split", ["train", "test"])
def test_all_real_gsm8k_answers_are_right_and_their_neighbours_wrong(real_tasks, split):
    rows, task = raw_rows(real_tasks, f"gsm8k/{split}"), GSM8K(split)
    assert len(task) == len(rows) == REAL_LENGTHS[f"gsm8k/{split}"]
    for row, conversation in zip(rows, task, strict=True):
        question, answer = conversation["messages"]
        assert question["content"] == row["question"]
        brackets = {"text": "{}", "python": "<<{}=", "python_output": "{}>>"}
        assert (
            "".join(brackets[part["type"]].format(part["text"]) for part in answer["content"])
            == row["answer"]
        )
        reference = row["answer"].split("#### ")[1].replace(",", "")
        assert task.evaluate(conversation, row["answer"])
        assert task.evaluate(conversation, f"#### ${int(reference):,}.00.")
        assert not task.evaluate(conversation, f"#### {int(reference) + 1}")
        assert not task.evaluate(conversation, row["answer"].split("####")[0])


def test_all_real_humaneval_problems(real_tasks):
    rows, task = raw_rows(real_tasks, "humaneval/HumanEval"), HumanEval()
    assert len(task) == len(rows) == REAL_LENGTHS["humaneval/HumanEval"]
    for row, conversation in zip(rows, task, strict=True):
        prompt, solution = (message["content"] for message in conversation["messages"])
        assert (prompt, solution) == (row["prompt"], row["prompt"] + "\n" + row["canonical_solution"])
        assert (conversation["entry_point"], conversation["test"]) == (row["entry_point"], row["test"])


def test_real_conversations_are_taken_as_they_are(shared_data):
    for file in sorted((shared_data / "sft").glob("*.parquet")):
        rows, task = pq.read_table(file, columns=["messages"]).to_pylist(), SmolTalk(path=str(file))
        assert len(task) == len(rows)
        told = sorted(json.dumps(conversation["messages"], sort_keys=True) for conversation in task)
        assert told == sorted(json.dumps(row["messages"], sort_keys=True) for row in rows)


def test_real_identity_conversations_in_the_order_of_the_file(shared_data):
    task = CustomJSON(str(shared_data / "sft" / "identity_conversations.jsonl"))
    with gzip.open(shared_data / "sft" / "identity_conversations.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    assert len(task) == 1000
    assert [conversation["messages"] for conversation in task] == rows


def test_no_real_word_of_the_spelling_test_is_trained_on(real_tasks):
    def word(conversation) -> str:
        return conversation["messages"][1]["content"][1]["text"].split("'")[1]

    def spelled(conversation) -> str:
        return conversation["messages"][1]["content"].split(":")[0]

    train, test = SpellingBee("train"), SpellingBee("test")
    assert (len(train), len(test)) == (80_000, 256)
    trained = set(map(word, train)) | set(map(spelled, SimpleSpelling("train", size=50_000)))
    assert not trained & set(map(word, test))
    assert not trained & set(map(spelled, SimpleSpelling("test")))
    asked = {conversation["messages"][0]["content"] for conversation in train}
    assert not asked & {conversation["messages"][0]["content"] for conversation in test}
    assert all(test.evaluate(item, item["messages"][1]["content"][-1]["text"]) for item in test)
