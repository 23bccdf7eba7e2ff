"""A run that hangs writes down where, and ends so that it can be started again."""

from __future__ import annotations

import faulthandler
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from nanochat_pl.system.errors import BadInput, RunAgain
from nanochat_pl.system.run_state import end
from nanochat_pl.training.callbacks.cadence import ends_step
from nanochat_pl.training.failures import continues
from nanochat_pl.training.lost_rank import Loss, LostRank, retire_observer
from nanochat_pl.training.stacks import FOLDER, Stacks, stacks_path

REMEMBERED_STEPS = 100
MEDIANS = 10
GRACE_S = 10.0  # for the other ranks to write their stacks
BACKSTOP_S = 60.0


class Phase(NamedTuple):
    """What the training thread is about.

    Attributes:
        words: for people.
        is_step: whether it should end as quickly as the steps before.
    """

    words: str
    is_step: bool


START = Phase("before the first step", False)
STEP = Phase("in a step", True)
PAUSE = Phase("between two steps, in an evaluation or a save", False)


class Watchdog(Callback):
    """End a run without progress: stacks of all threads of all ranks in `<run>/stacks`, exit code 75.

    No progress is a step that takes longer than `timeout_s` and than ten times the median of the last hundred, or
    anything else, such as the first step with its compilation, an evaluation or a save, longer than
    `pause_timeout_s`. Time in which the process was suspended does not count.

    It stands before the other callbacks and `behind` after them, so that it knows steps from what happens between them.

    Args:
        timeout_s: seconds without an optimizer step, at least; 0 switches it off.
        pause_timeout_s: seconds that the start, an evaluation or a save may take.

    Attributes:
        behind: the callback to put last.
    """

    def __init__(self, timeout_s: float = 300.0, pause_timeout_s: float = 3600.0) -> None:
        if timeout_s < 0 or pause_timeout_s <= 0:
            raise BadInput(
                f"watchdog: timeout_s={timeout_s}, pause_timeout_s={pause_timeout_s}: give seconds, 0 is off"
            )
        self.timeout_s, self.pause_timeout_s = timeout_s, pause_timeout_s
        self.behind = BehindTheStep(self)
        self._watch: Watch | None = None
        self._step_began = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin to watch, on every rank."""
        if stage != "fit":
            return
        run_dir = Path(trainer.default_root_dir)
        ranks = LostRank(trainer)
        retire_observer()
        self._watch = Watch(
            Stacks(run_dir, trainer.global_rank),
            ranks,
            step=lambda: trainer.global_step,
            on_hang=lambda why: _leave_hanging(trainer, ranks, why),
            on_loss=lambda loss: _leave(trainer, ranks, loss.words, loss.exit_code),
            timeout_s=self.timeout_s,
            pause_timeout_s=self.pause_timeout_s,
            others=[stacks_path(run_dir, rank) for rank in range(trainer.world_size)],
        )
        self._watch.start()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing counts as a step before the first is done."""
        self._step_began = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the end of a step; what the other callbacks do now is none."""
        if self._watch and ends_step(trainer):
            if self._step_began:
                self._watch.seconds.append(time.monotonic() - self._step_began)
            self._watch.enter(PAUSE)

    def step_begins(self, trainer: Trainer) -> None:
        """Note that the other callbacks are done, and the next batch is fetched."""
        if self._watch and ends_step(trainer):
            self._step_began = time.monotonic()
            self._watch.enter(STEP)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The export and the end of the processes may take their time."""
        if self._watch:
            self._watch.enter(PAUSE)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Watch no longer."""
        if self._watch:
            self._watch.stop()
            self._watch = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Whoever ends with an error does not hang."""
        self.teardown(trainer, pl_module, "fit")


class BehindTheStep(Checkpoint):
    """The end of what happens between two steps; a `Checkpoint`, since Lightning calls those last.

    Args:
        watchdog: whose.
    """

    def __init__(self, watchdog: Watchdog) -> None:
        self._watchdog = watchdog

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let the time of the next step begin."""
        self._watchdog.step_begins(trainer)


class Watch(threading.Thread):
    """The thread that looks at the time, beside a training thread that may hang anywhere.

    Args:
        stacks: where to write what hangs.
        lost_rank: knows whether another rank of this machine is gone.
        step: returns the number of steps taken.
        on_hang: ends the process; called with one line, on the rank that noticed first, else with None.
        on_loss: ends the process because a rank is gone.
        timeout_s: seconds that a step may take, at least; 0 watches the ranks only.
        pause_timeout_s: seconds that anything else may take.
        others: the files of all ranks' stacks.

    Attributes:
        seconds: of the last steps.
    """

    def __init__(
        self,
        stacks: Stacks,
        lost_rank: LostRank,
        *,
        step: Callable[[], int],
        on_hang: Callable[[str | None], None],
        on_loss: Callable[[Loss], None],
        timeout_s: float,
        pause_timeout_s: float,
        others: list[Path],
    ) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._stacks, self._lost_rank, self._step = stacks, lost_rank, step
        self._on_hang, self._on_loss = on_hang, on_loss
        self._timeout_s, self._pause_timeout_s, self._others = timeout_s, pause_timeout_s, others
        self._tick_s = min(1.0, (timeout_s or 10.0) / 10)
        self._over = threading.Event()
        self._phase, self._quiet_s = START, 0.0
        self.seconds: deque[float] = deque(maxlen=REMEMBERED_STEPS)

    def enter(self, phase: Phase) -> None:
        """Note progress, and what comes now."""
        self._phase, self._quiet_s = phase, 0.0

    def stop(self) -> None:
        """End the thread."""
        self._over.set()
        faulthandler.cancel_dump_traceback_later()
        if self is not threading.current_thread():
            self.join()
        self._stacks.close()

    @property
    def limit_s(self) -> float:
        """Seconds that what happens now may take."""
        if not self._phase.is_step:
            return self._pause_timeout_s
        return max(self._timeout_s, MEDIANS * statistics.median(self.seconds or [0.0]))

    def run(self) -> None:
        """Count the seconds since the last progress, without those in which this process was suspended."""
        ticks, last = 0, time.monotonic()
        while not self._over.wait(self._tick_s):
            now = time.monotonic()
            self._quiet_s += min(now - last, 2 * self._tick_s)
            last = now
            if loss := self._lost_rank.noticed():
                self._on_loss(loss)
            if self._timeout_s == 0:
                continue
            if ticks % 5 == 0:
                self._arm_backstop()
            if self._quiet_s > self.limit_s or (ticks % 5 == 0 and self._stacks.is_asked_for):
                self._raise_alarm()
            ticks += 1

    def _arm_backstop(self) -> None:
        """Let C do it, should this thread be kept from running by one that never gives the interpreter back."""
        if sys.version_info >= (3, 11):  # earlier ones wait by the clock on the wall, which may be set
            faulthandler.dump_traceback_later(self.limit_s + BACKSTOP_S, file=self._stacks.file, exit=True)

    def _raise_alarm(self) -> None:
        """Write the stacks of this rank, wait for the others', and leave."""
        faulthandler.cancel_dump_traceback_later()
        began, phase, limit = time.time(), self._phase, self.limit_s
        why = f"no progress for {self._quiet_s:.0f} s {phase.words}, after step {self._step()} (limit {limit:.0f} s)"
        is_first = self._stacks.ask_all(why)
        self._stacks.write(why)
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline and any(
            not _has_been_written(path, began) for path in self._others
        ):
            time.sleep(0.2)
        self._on_hang(why if is_first else None)


def _has_been_written(path: Path, began: float) -> bool:
    """Tell whether a file holds something of the last minute; machines may differ by seconds."""
    try:
        facts = path.stat()
    except OSError:
        return False
    return facts.st_size > 0 and facts.st_mtime > began - 60


def _leave_hanging(trainer: Trainer, ranks: LostRank, why: str | None) -> None:
    """End a run that hangs; without a word where another rank tells."""
    where = f"\nStacks of all threads: {Path(trainer.default_root_dir) / FOLDER}"
    _leave(trainer, ranks, why and why + where, RunAgain.exit_code)


def _leave(trainer: Trainer, ranks: LostRank, why: str | None, exit_code: int) -> None:
    """End this process and the ranks it started, whatever they hang in.

    Args:
        trainer: knows the run's folder.
        ranks: knows the processes it started.
        why: a line or two for people; None for none.
        exit_code: of this process.
    """
    if why is not None:
        end(Path(trainer.default_root_dir), exit_code, why.splitlines()[0])
        print(f"error: {why}\n{continues(trainer)}", file=sys.stderr, flush=True)
    ranks.kill_children()
    os._exit(exit_code)
