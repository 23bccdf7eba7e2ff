"""The verb `report`: from the files of runs to `report.md` and `report.html`, in seconds, wherever the files are."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path

from nanochat_pl.report.build import build
from nanochat_pl.report.curves import WITHOUT_CURVES, can_draw
from nanochat_pl.report.html import to_html
from nanochat_pl.report.markdown import to_markdown
from nanochat_pl.report.runs import choose, read_runs
from nanochat_pl.system.errors import BadInput, Failure, room, unwritable
from nanochat_pl.system.files import write_together
from nanochat_pl.system.paths import base_dir, user_path

ELSEWHERE = "--out DIR"


def report(runs: str | None = None, out: str | None = None) -> None:
    """Write the report card of some runs.

    Args:
        runs: names with commas between (default: the run trained last and those its model comes from).
        out: folder to write to (default: `report` in the base directory).
    """
    base = base_dir()
    folder = user_path(out) if out else base / "report"
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"--out {out}: is a file; name a folder")
    everything = read_runs(base)
    chosen = choose(everything, runs, base / "runs")
    card = build(chosen, everything, base, time.time())
    pages = {"report.md": to_markdown(card), "report.html": to_html(card)}
    if not can_draw():
        print(" ".join(WITHOUT_CURVES), file=sys.stderr)
    is_new = not folder.exists()
    _make(folder, f"--out {out}" if out else str(folder))
    try:
        write_together(folder, pages)
    except OSError as error:
        if is_new:
            with suppress(OSError):
                folder.rmdir()
        raise unwritable(folder, error, ELSEWHERE) from error
    for name in pages:
        print(folder / name)


def _make(folder: Path, name: str) -> None:
    """Make the folder of the card.

    Raises:
        Failure: the system refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"{name}: cannot be made ({error.strerror})\n{room(error, ELSEWHERE)}") from error
