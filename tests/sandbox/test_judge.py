"""The judge: right solutions pass, and nothing else does, whatever it does to its interpreter."""

from __future__ import annotations

import gzip
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sandbox.fakes import FAKES

from nanochat_pl.sandbox import process
from nanochat_pl.sandbox.judge import judge
from nanochat_pl.sandbox.seccomp import this_machine
from nanochat_pl.system.errors import Failure

pytestmark = pytest.mark.skipif(this_machine() is None, reason="no filter of system calls for this machine")

PROBLEMS = [
    {
        "task_id": "middle",
        "prompt": "from typing import List\n\n\ndef middle(numbers: List[int]) -> int:\n",
        "canonical_solution": "    return sorted(numbers)[len(numbers) // 2]\n",
        "entry_point": "middle",
        "test": "def check(candidate):\n    assert candidate([3, 1, 2]) == 2\n    assert middle([5]) == 5\n",
    },
    {
        "task_id": "halves",
        "prompt": "def halves(text):\n",
        "canonical_solution": "    half = len(text) // 2\n    return text[:half], text[half:]\n",
        "entry_point": "halves",
        "test": "def check(candidate):\n    assert candidate('abcd') == ('ab', 'cd'), 'wrong'\n",
    },
    {
        "task_id": "decode",
        "prompt": "def encode_shift(text):\n    return text[1:] + text[:1]\n\n\ndef decode(text):\n",
        "canonical_solution": "    return text[-1:] + text[:-1]\n",
        "entry_point": "decode",
        "test": (
            "def check(candidate):\n    for text in ('abc', 'xy'):\n"
            "        assert candidate(encode_shift(text)) == text\n"
        ),
    },
]


def humaneval(shared_data: Path) -> list[dict[str, Any]]:
    with gzip.open(
        shared_data / "tasks" / "humaneval" / "HumanEval.jsonl.gz", "rt", encoding="utf-8"
    ) as lines:
        return [json.loads(line) for line in lines]


def judged(problem: dict[str, Any], completion: str, **settings: Any) -> tuple[bool, str]:
    return judge(problem["prompt"] + completion, problem["test"], problem["entry_point"], **settings)


def judged_fake(problem: dict[str, Any], name: str) -> tuple[bool, str]:
    """Judge a trick, put where a model writes: after the prompt, whose own function is left empty."""
    return judged(problem, "    pass\n\n\n" + FAKES[name].replace("ENTRY", problem["entry_point"]))


def judged_lines(solution: str, *test: str, **settings: Any) -> tuple[bool, str]:
    """Judge a function `f` by a test given as the lines of `check`."""
    return judge(solution, "def check(candidate):\n    " + "\n    ".join(test), "f", **settings)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem["task_id"])
def test_a_right_solution_passes(problem):
    assert judged(problem, problem["canonical_solution"]) == (True, "")


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem["task_id"])
@pytest.mark.parametrize("name", FAKES)
def test_a_fake_does_not_pass(name, problem):
    assert not judged_fake(problem, name).passed


def test_there_are_twenty_five_fakes():
    assert len(FAKES) >= 25


def test_twenty_canonical_solutions_of_humaneval_pass(shared_data):
    problems = humaneval(shared_data)
    borrowing = [problem for problem in problems if problem["entry_point"] in ("find_zero", "decode_cyclic")]
    _assert_all_pass(problems[::6][:18] + borrowing)


@pytest.mark.slow
def test_all_canonical_solutions_of_humaneval_pass(shared_data):
    _assert_all_pass(humaneval(shared_data))


def _assert_all_pass(problems: list[dict[str, Any]]) -> None:
    verdicts = {problem["task_id"]: judged(problem, problem["canonical_solution"]) for problem in problems}
    assert {name: verdict for name, verdict in verdicts.items() if not verdict.passed} == {}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_fake_passes_a_problem_of_humaneval(shared_data):
    passed = [
        (problem["task_id"], name)
        for problem in humaneval(shared_data)
        for name in FAKES
        if judged_fake(problem, name).passed
    ]
    assert passed == []


def test_what_a_test_borrows_is_not_the_completions_to_redefine():
    prompt = "def helper(x):\n    return x + 1\n\n\ndef f(x):\n"
    test = "def check(candidate):\n    assert candidate(helper(1)) == 3\n"
    assert judge(prompt + "    return helper(x)\n", test, "f").passed
    assert not judge(prompt + "    return 0\n\n\ndef helper(x):\n    return 0\n", test, "f").passed
    cheat = "    return 0\n\n\nimport builtins\nhelper = builtins.helper = lambda x: 3\nf = lambda x: x\n"
    assert not judge(prompt + cheat, test, "f").passed


def test_what_a_solution_does_to_its_arguments_does_not_change_the_test():
    verdict = judged_lines(
        "def f(x):\n    x.clear()\n    return x", "mine = [3, 1]", "assert candidate(mine) == sorted(mine)"
    )
    assert not verdict.passed


@pytest.mark.parametrize(
    ("solution", "test"),
    [
        ("def f(*, x): return x", "assert candidate(x=[1, None]) == [1, None]"),
        (
            "def f(x): return {1: (2,), 'a': {3}, None: b'b'}",
            "assert candidate(0) == {1: (2,), 'a': {3}, None: b'b'}",
        ),
        ("def f(x): yield from x", "assert list(candidate(i for i in range(3))) == [0, 1, 2]"),
        ("def f(x): return next(x)", "assert candidate(iter('ab')) == 'a'"),
        ("def f(x): return x * 1j", "assert candidate(2) == 2j"),
        ("def f(x): return -x", "assert candidate(float('inf')) == float('-inf')"),
        ("def f(x): return x", "assert candidate(True) is True"),
        ("def f(x): return x", "assert type(candidate(1.0)) is float"),
        ("def f(x): return 2**x", "assert candidate(20000) == 2**20000"),
        (
            "def f(x): return x",
            "found = candidate([1, 2])\n    found.append(3)\n    assert found == [1, 2, 3]",
        ),
        (
            "from collections import Counter\ndef f(x): return Counter(x)",
            "assert candidate('aab') == {'a': 2, 'b': 1}",
        ),
        (
            "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\ndef f(x): return A(x).x",
            "assert candidate(1) == 1",
        ),
        ("def f(x): print('noise' * 10**6)\n", "assert candidate(1) is None"),
        (
            "calls = []\ndef f(x): calls.append(x); return len(calls)",
            "candidate(1)\n    assert candidate(1) == 2",
        ),
    ],
)
def test_values_cross_both_ways(solution, test):
    assert judged_lines(solution, test) == (True, "")


def test_an_exception_crosses_by_name():
    raising = "def f(x): raise KeyError('gone')"
    test = ("try:", "    candidate(1)", "except KeyError:", "    return", "assert False")
    assert judged_lines(raising, *test).passed
    assert judged_lines(raising, "candidate(1)") == (False, "KeyError: 'gone'")
    own = "class Odd(Exception): pass\ndef f(x): raise Odd('text')"
    assert judged_lines(own, "candidate(1)") == (False, "RuntimeError: Odd: text")
    assert judged_lines("def f(x): raise UnicodeDecodeError('a', b'', 0, 1, 'b')", "candidate(1)").reason


def test_a_test_that_swallows_everything_does_not_pass_a_solution_that_is_gone():
    leaving = "import os\ndef f(x): os._exit(0)"
    assert not judged_lines(leaving, "try:", "    candidate(1)", "except:", "    pass").passed


@pytest.mark.parametrize(
    ("solution", "reason"),
    [
        ("def f(x): return 1", "AssertionError: one is not two"),
        ("def f(x) return", "SyntaxError"),
        ("def g(x): return 2", "name 'f' is not defined"),
        ("1 / 0", "ZeroDivisionError"),
        ("import os\nos._exit(0)", "the solution ended its process"),
        ("def f(x): return object()", "a value of type object cannot cross"),
        ("def f(x):\n    while True: pass", "no verdict after 0.5 s"),
        ("while True: pass", "no verdict after 0.5 s"),
        ("def f(x): return bytearray(10**10)", "MemoryError"),
        ("def f(x): return f(x)", "RecursionError"),
        ("def f(x): return open('/etc/passwd').read()", "PermissionError"),
        ("x = '\0'", "NUL"),
        ("#" * 2**21, "bytes"),
        ("x = '\ud800'", "surrogates not allowed"),
    ],
)
def test_the_reason_says_what_is_wrong(solution, reason):
    verdict = judged_lines(solution, "assert candidate(1) == 2, 'one is not two'", timeout_s=0.5)
    assert not verdict.passed
    assert reason in verdict.reason


def test_a_reason_commands_no_terminal():
    verdict = judged_lines("def f(x): raise ValueError('\\x1b[2J\\x9b' * 1000)", "candidate(1)")
    assert verdict.reason.isprintable()
    assert len(verdict.reason) < 1000


def test_a_test_without_check_passes_nothing():
    assert not judge("def f(x): return x", "pass", "f").passed
    assert not judge("def f(x): return x", "def check(", "f").passed


def test_a_test_may_end_the_checker_without_a_pass():
    verdict = judge("def f(x): return x", "import os\ndef check(candidate): os._exit(0)", "f")
    assert verdict == (False, "the checker ended without a verdict")


def test_judging_leaves_no_descriptor_and_keeps_to_its_time():
    judged(PROBLEMS[0], PROBLEMS[0]["canonical_solution"])
    before = len(os.listdir("/proc/self/fd"))
    start = time.monotonic()
    for _ in range(5):
        judged(PROBLEMS[0], "    while True: pass\n", timeout_s=0.2)
        judged(PROBLEMS[2], PROBLEMS[2]["canonical_solution"])
    assert len(os.listdir("/proc/self/fd")) == before
    assert time.monotonic() - start < 60  # a safety limit: nothing hangs


def test_threads_judge_side_by_side():
    def passes(number: int) -> bool:
        return judged_lines(f"def f(x): return {number}", f"assert candidate(1) == {number % 3}").passed

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(passes, range(12))) == [True] * 3 + [False] * 9


def test_a_machine_without_a_filter_judges_only_when_told(monkeypatch):
    monkeypatch.setattr(process, "this_machine", lambda: None)
    with pytest.raises(Failure, match="--unsafe_code"):
        judged(PROBLEMS[0], PROBLEMS[0]["canonical_solution"])
    assert judged(PROBLEMS[0], PROBLEMS[0]["canonical_solution"], unsafe_code=True).passed
