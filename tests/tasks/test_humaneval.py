"""HumanEval: which program an answer amounts to, and that the judge's word is the verdict."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
from task_files import FORMS, write_rows

from nanochat_pl.tasks import HumanEval
from nanochat_pl.tasks.humaneval import assemble, extract_code

pytestmark = pytest.mark.xdist_group("sandbox")  # whose tests count processes like those started here

PROMPT = '''from math import floor


def half(x):
    return x / 2


def down(x):
    """Round half of x down.

    >>> down(5)
    2
    """
'''
BODY = "    return floor(half(x))\n"
TEST = "def check(candidate):\n    assert candidate(5) == 2\n    assert half(5) == 2.5\n"
ROW = {"task_id": "X/0", "prompt": PROMPT, "canonical_solution": BODY, "test": TEST, "entry_point": "down"}


def passes(completion: str) -> bool:
    """Run the program of an answer and its test right here; the answers are the test's own."""
    names: dict = {}
    exec(assemble(PROMPT, completion, "down"), names)
    exec(TEST, names)
    try:
        names["check"](names["down"])
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize(
    "completion",
    [
        BODY,
        PROMPT + BODY,
        f"```python\n{BODY}```",
        f"```python\n{PROMPT}{BODY}```",
        f"Here you are:\n\n```python\ndef down(x):\n{BODY}```\nIt rounds down.",
        f"```\ndef down(x):\n{BODY}```\n```python\ndef down(x):\n    return 0\n```",
        f"```Python\ndef down(x):\n{BODY}```",
        f"```python\ndef down(x):\n{BODY}",
        f"def down(x):\n{BODY}",
        "down = lambda x: floor(half(x))",
        "def other(x):\n    return floor(half(x))\n\ndef down(x):\n    return other(x)",
    ],
)
def test_a_right_answer_passes_in_every_form(completion):
    assert passes(completion)


WRONG = "def down(x):\n    return 3"


@pytest.mark.parametrize("completion", ["", "    return 3", WRONG, f"```\n{WRONG}\n```\n{BODY}"])
def test_a_wrong_answer_fails(completion):
    assert not passes(completion)


def test_what_the_prompt_defines_stands_before_anything_an_answer_may_redefine():
    program = assemble(PROMPT, "def half(x):\n    return 2.5\n\ndef down(x):\n    return 2", "down")
    assert program.index("return x / 2") < program.index("def down") < program.index("return 2.5")


def test_the_first_block_counts_and_keeps_its_indentation():
    assert extract_code("a\n```python\n    x = 1\n```\n```python\ny\n```") == "    x = 1"
    assert extract_code("\n\n  no block \n") == "  no block"
    assert extract_code("```bash\nls\n```\n```python\nx = 1\n```") == "x = 1"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stem", ["HumanEval", "test", "test-00000-of-00001"])
def test_both_names_of_the_file_are_known(base_dir, form, stem):
    write_rows(base_dir / f"tasks/humaneval/{stem}.{form}", [ROW])
    assert [conversation["entry_point"] for conversation in HumanEval()] == ["down"]


def test_the_verdict_is_that_of_the_judge(tmp_path, monkeypatch):
    asked = []

    def judge(solution: str, test: str, entry_point: str, unsafe_code: bool) -> SimpleNamespace:
        assert not unsafe_code
        asked.append((solution, test, entry_point))
        return SimpleNamespace(passed="right" in solution, reason="")

    fake = ModuleType("nanochat_pl.sandbox.judge")
    fake.judge = judge
    monkeypatch.setitem(sys.modules, "nanochat_pl.sandbox.judge", fake)
    task = HumanEval(path=str(write_rows(tmp_path / "x.jsonl", [ROW])))
    assert task.evaluate(task[0], "    return 'right'") is True
    assert task.evaluate(task[0], "    return 'wrong'") is False
    assert asked[0] == (PROMPT + "    return 'right'\n", TEST, "down")


def test_canonical_solutions_pass_and_others_do_not(tmp_path):
    pytest.importorskip("nanochat_pl.sandbox.judge")
    task = HumanEval(path=str(write_rows(tmp_path / "x.jsonl", [ROW])))
    assert task.evaluate(task[0], f"```python\ndef down(x):\n{BODY}```")
    assert not task.evaluate(task[0], "    return 3")
    assert not task.evaluate(task[0], "half = lambda x: 2.5\n\ndef down(x):\n    raise SystemExit(0)")
