"""HumanEval: Python functions to be written from their header and docstring, judged by tests that run them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nanochat_pl.tasks.base import RowTask
from nanochat_pl.tasks.rows import Row

if TYPE_CHECKING:
    from nanochat_pl.tokenizer.conversation import Conversation

# The closing fence may be missing where an answer was cut off.
BLOCK = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
PYTHON = ("", "python", "python3", "py")


class HumanEval(RowTask):
    """Functions to write; answers are run in the sandbox.

    Args:
        path: file or folder; None means `tasks/humaneval` below the base directory.
        start: first item.
        stop: one past the last; None, or a number beyond the data, means all.
        step: distance between items.

    Source:
        Chen et al. 2021, arXiv:2107.03374; openai/openai_humaneval on the Hugging Face hub.
    """

    name = "HumanEval"
    kind = "generative"
    folder = "humaneval"
    stems = ("HumanEval", "test")
    unsafe_code = False  # whether answers may run where nothing holds them back

    def require_marking(self) -> None:
        from nanochat_pl.sandbox.process import require_sandbox

        require_sandbox(self.unsafe_code)

    def evaluate(self, conversation: Conversation, completion: str) -> bool:
        from nanochat_pl.sandbox.judge import judge  # only who judges needs processes that can be locked

        prompt, entry_point = conversation["messages"][0]["content"], conversation["entry_point"]
        program = assemble(prompt, completion, entry_point)
        return judge(program, conversation["test"], entry_point, unsafe_code=self.unsafe_code).passed

    def _conversation(self, row: Row) -> Conversation:
        prompt = row.field("prompt", str)
        solution = f"{prompt}\n{row.field('canonical_solution', str)}"
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": solution}]
        return {
            "messages": messages,
            "entry_point": row.field("entry_point", str),
            "test": row.field("test", str),
        }


def assemble(prompt: str, completion: str, entry_point: str) -> str:
    """Return the program an answer amounts to, to be judged.

    The prompt, a function that has only a docstring yet, always comes first: its imports and the functions that
    tests borrow from it are there whether or not the answer repeats them, and before anything it could redefine.

    Args:
        prompt: header and docstring, with the imports and functions before them.
        completion: the answer; its first block of code counts, or all of it if it has none.
        entry_point: name of the function; an answer without a definition of it is taken for its body.
    """
    code = extract_code(completion)
    name = re.escape(entry_point)
    defines = re.search(rf"^(?:(?:async )?def {name}\b|{name}\s*[:=])", code, re.MULTILINE)
    return f"{prompt.rstrip()}\n\n\n{code}\n" if defines else f"{prompt}{code}\n"


def extract_code(completion: str) -> str:
    """Return the first block of Python, or the whole text if there is none; indentation is kept."""
    blocks = (block[2] for block in BLOCK.finditer(completion) if block[1].lower() in PYTHON)
    return next(blocks, completion).strip("\n").rstrip()
