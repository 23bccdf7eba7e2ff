"""Where metrics go: lines of JSON in the run folder, TensorBoard, and the person watching.

Callbacks hand a dictionary of names and the number of optimizer steps taken to every logger; none of them knows
which loggers there are, and no logger changes what runs. One folder serves all restarts of a run. After a restart
the steps since the last checkpoint are run again and logged again, equal to the last bit; the later line counts.
Points that do not fit on a full disk are lost, and said to be; they end no run.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tqdm import tqdm

from nanochat_pl.system.files import append_json_line

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_COMPLAINTS = 60.0
FILES = {"val": "val.jsonl", "core": "core.jsonl", "chat": "chat.jsonl"}


class Refusals:
    """What a full disk refuses of one logger: said, and then counted for a minute before it is said again."""

    def __init__(self) -> None:
        self._said_at, self._unsaid = -math.inf, 0

    @property
    def is_recent(self) -> bool:
        """Whether something was refused within the last minute."""
        return time.monotonic() - self._said_at < SECONDS_BETWEEN_COMPLAINTS

    def count(self) -> None:
        """Note that something was lost that is not worth a line."""
        self._unsaid += 1

    @contextmanager
    def said(self, what: str) -> Iterator[None]:
        """Say that something is lost where the disk refuses it, instead of failing."""
        try:
            yield
        except OSError as error:
            if self.is_recent:
                return self.count()
            more = f", nor {self._unsaid:,} before" if self._unsaid else ""
            print(
                f"warning: {what} not written{more} ({error.strerror or error}); training goes on",
                file=sys.stderr,
            )
            self._said_at, self._unsaid = time.monotonic(), 0


def _say_nothing_of_full_disks(args: threading.ExceptHookArgs) -> None:
    """Keep TensorBoard's writer from showing a traceback when it ends; the logger says what is lost."""
    if not (isinstance(args.exc_value, OSError) and type(args.thread).__name__ == "_AsyncWriterThread"):
        threading.__excepthook__(args)


class RunTensorBoard(TensorBoardLogger):
    """TensorBoard in `<run>/logs`, x axis = optimizer steps taken.

    Args:
        run_dir: the run's folder.
    """

    def __init__(self, run_dir: Path) -> None:
        super().__init__(save_dir=run_dir, name="logs", version="")
        self._refusals = Refusals()
        if threading.excepthook is threading.__excepthook__:
            threading.excepthook = _say_nothing_of_full_disks

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Add a point to each curve; what is no number stands in the files only."""
        if self._refusals.is_recent:  # a new writer for each point would fail as often
            return self._refusals.count()
        numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        with self._refusals.said(f"TensorBoard: step {step}"), self._anew_after_failure():
            try:
                super().log_metrics(numbers, step)
            except ValueError as error:  # Lightning takes any error for a value it cannot draw
                raise error.__cause__ or error from None

    @rank_zero_only
    def log_sample(self, prompt: str, text: str, step: int) -> None:
        """Show a prompt and what the model made of it."""
        with self._refusals.said(f"TensorBoard: samples of step {step}"), self._anew_after_failure():
            self.experiment.add_text(f"samples/{prompt}", prompt + text, step)

    @rank_zero_only
    def save(self) -> None:
        """Flush."""
        with self._refusals.said("TensorBoard"), self._anew_after_failure():
            super().save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Flush and close."""
        with self._refusals.said("TensorBoard"), self._anew_after_failure():
            super().finalize(status)

    @contextmanager
    def _anew_after_failure(self) -> Iterator[None]:
        """Take a new file after an error: the thread that writes the old one has ended with it."""
        try:
            yield
        except OSError:
            broken, self._experiment = self._experiment, None
            with suppress(OSError):
                broken and broken.close()
            raise


class _PlainLogger(Logger):
    """What Lightning asks of a logger, for those that keep no experiment and no parameters."""

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The run's `config.yaml` says it all."""


class MetricsFiles(_PlainLogger):
    """One JSON object a line in `<run>/metrics/{train,val,core,chat,samples}.jsonl`.

    Args:
        run_dir: the run's folder.
    """

    def __init__(self, run_dir: Path) -> None:
        self.folder = run_dir / "metrics"
        self._refusals = Refusals()

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Append one line; the first part of a name chooses the file."""
        family = next(iter(metrics)).split("/")[0]
        self._append(FILES.get(family, "train.jsonl"), step, metrics)

    @rank_zero_only
    def log_sample(self, prompt: str, text: str, step: int) -> None:
        """Append one line to `samples.jsonl`."""
        self._append("samples.jsonl", step, {"prompt": prompt, "text": text})

    def _append(self, name: str, step: int | None, facts: dict[str, Any]) -> None:
        with self._refusals.said(f"{name}: step {step}"):
            append_json_line(self.folder / name, {"step": step, "time": time.time(), **facts})


class Console(_PlainLogger):
    """Progress for a person: one bar on a terminal, else plain lines, at most one every ten seconds.

    Args:
        steps: optimizer steps of the run.
        stream: where to write.
    """

    def __init__(self, steps: int, stream: TextIO | None = None) -> None:
        self.steps, self.stream = steps, stream or sys.stderr
        self._bar: tqdm | None = None
        self._last_line = 0.0

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Show training progress; a validation result is always shown."""
        if "val/bpb" in metrics:
            self._say(f"step {step}/{self.steps} | bits per byte {metrics['val/bpb']:.4f}")
        elif "train/loss" in metrics:
            self._progress(metrics, step or 0)

    def _progress(self, metrics: dict[str, float], step: int) -> None:
        if self.stream.isatty():
            self._update_bar(metrics, step)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES or step == self.steps:
            self._last_line = time.monotonic()
            print(f"step {step}/{self.steps} | {_summary(metrics)}", file=self.stream, flush=True)

    def _update_bar(self, metrics: dict[str, float], step: int) -> None:
        if self._bar is None:
            self._bar = tqdm(total=self.steps, initial=step, file=self.stream, unit="step", leave=True)
        self._bar.set_postfix_str(_summary(metrics), refresh=False)
        self._bar.update(step - self._bar.n)

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.write(line, file=self.stream)
        else:
            print(line, file=self.stream, flush=True)

    def finalize(self, status: str) -> None:
        """Close the bar, so that what follows starts on a line of its own."""
        if self._bar is not None:
            self._bar.close()


def _summary(metrics: dict[str, float]) -> str:
    """Return loss, speed and time to go in one line."""
    minutes, seconds = divmod(round(metrics["train/eta_s"]), 60)
    hours, minutes = divmod(minutes, 60)
    utilization = f" | mfu {metrics['train/mfu']:.1%}" if "train/mfu" in metrics else ""
    return (
        f"loss {metrics['train/loss']:.4f} | {metrics['train/tokens_per_s']:,.0f} tokens/s{utilization}"
        f" | {hours}:{minutes:02d}:{seconds:02d} to go"
    )
