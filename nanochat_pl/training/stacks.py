"""What every thread of every process of a run is doing, written into `<run>/stacks/`, one file a rank.

    kill -USR2 PID                      the stacks of that process and of its data workers, at any time
    Watchdog on one rank ─► REQUEST ─► the watchdogs of all ranks, on whichever machine

The signal's handler is C and needs no lock of the interpreter: a process that hangs in a library answers too. Data
workers are forked and inherit it, with the open file.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

FOLDER, REQUEST = "stacks", "REQUEST"
SIGNAL = getattr(signal, "SIGUSR2", None)  # does not exist on Windows


class Stacks:
    """The file of this rank's stacks.

    Args:
        run_dir: the run's folder.
        rank: this rank.
    """

    def __init__(self, run_dir: Path, rank: int) -> None:
        self.folder = run_dir / FOLDER
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = stacks_path(run_dir, rank)
        self.file = self.path.open("a", encoding="utf-8")
        if SIGNAL is not None:
            faulthandler.register(SIGNAL, file=self.file, all_threads=True)

    def close(self) -> None:
        """Take the handler away, and the file if it is empty."""
        if SIGNAL is not None:
            faulthandler.unregister(SIGNAL)
        self.file.close()
        if self.path.exists() and self.path.stat().st_size == 0:
            self.path.unlink()
            with suppress(OSError):  # another rank's is there still
                self.folder.rmdir()

    def write(self, why: str) -> None:
        """Add the stacks of this process and of its children that have the handler."""
        print(
            f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} process {os.getpid()}: {why}",
            file=self.file,
            flush=True,
        )
        faulthandler.dump_traceback(self.file, all_threads=True)
        for child in listening_children():
            print(
                f"--- its child {child}, if this rank writes no file of its own:", file=self.file, flush=True
            )
            os.kill(child, SIGNAL)
            time.sleep(0.2)  # handlers write at once; without a pause two would write into each other

    def ask_all(self, why: str) -> bool:
        """Ask all ranks for their stacks; tell whether this rank was the first to ask."""
        try:
            with (self.folder / REQUEST).open("x", encoding="utf-8") as file:
                file.write(why)
        except OSError:
            return False
        return True

    @property
    def is_asked_for(self) -> bool:
        """Whether some rank asked."""
        return (self.folder / REQUEST).exists()


def forget_request(run_dir: Path) -> None:
    """Take back what a former start of this run asked for; before any rank of this one watches."""
    (run_dir / FOLDER / REQUEST).unlink(missing_ok=True)


def stacks_path(run_dir: Path, rank: int) -> Path:
    """Return the file of a rank's stacks."""
    return run_dir / FOLDER / f"rank_{rank:05d}.txt"


def written(run_dir: Path) -> list[Path]:
    """Return the files with stacks, oldest first."""
    files = [path for path in (run_dir / FOLDER).glob("rank_*.txt") if path.stat().st_size > 0]
    return sorted(files, key=lambda path: path.stat().st_mtime)


def listening_children() -> list[int]:
    """Return the processes this one started that would answer the signal rather than die of it."""
    if SIGNAL is None:
        return []
    try:
        threads = list(Path("/proc/self/task").iterdir())
        children = [int(pid) for thread in threads for pid in (thread / "children").read_text().split()]
    except OSError:
        return []
    return [child for child in children if _catches(child)]


def _catches(pid: int) -> bool:
    """Tell from the mask in /proc whether a process has a handler for the signal."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    mask = next((int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:")), 0)
    return bool(mask >> (SIGNAL - 1) & 1)
