"""Inside a locked process: run a program by itself, as `python program.py` would."""

from __future__ import annotations

import os
import sys
from typing import Any

FILENAME = "<program>"


def run(job: dict[str, Any]) -> None:
    """Run the job's program as `__main__`; what it prints and how it ends is the outcome."""
    os.close(job["report"])
    sys.argv = [FILENAME]
    sys.excepthook = _show
    (source,) = job["sources"]
    main = sys.modules["__main__"].__dict__
    main.pop("main", None)
    exec(compile(source, FILENAME, "exec"), main)


def _show(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print an uncaught error without the frames that are ours."""
    while trace is not None and trace.tb_frame.f_code.co_filename != FILENAME:
        trace = trace.tb_next
    sys.__excepthook__(kind, error.with_traceback(trace), trace)
