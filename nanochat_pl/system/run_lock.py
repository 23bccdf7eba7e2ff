"""One process at a time in a run's folder, on whichever machine, and a sign of life for those who ask.

The lock is a file. Its holder has it locked with `fcntl`, which ends with the process however that ends, and writes
into it every few seconds who it is and how often it did so. Within one kernel the kernel's word is final. Between
machines it is not: NFS and others may lock for each machine alone, or not at all. So a newcomer that is *given*
the lock of a holder elsewhere watches the file, and takes over only if nothing is written to it for `STALE_S`; whoever
finds another's name, or no file, where its own should stand ends at once. No clock is compared with another machine's.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

from nanochat_pl.system.errors import Failure
from nanochat_pl.system.memory import memory

BEAT_S = 10.0
STALE_S = 60.0  # six beats, and as long as NFS may keep an old answer
WRITTEN_BYTES = 1024
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class Holder(NamedTuple):
    """Who holds a lock, as its file says.

    Attributes:
        host: name of the machine.
        boot: id of the kernel's start; processes that share it can ask the kernel about each other.
        pid: number of the process.
        started: when the process began, in the kernel's ticks; tells a number used again from the same process.
        job: SLURM's job, "" without one.
        restarts: how often SLURM has started this job again.
        since: Unix time at which the lock was taken.
        beat: signs of life so far.
        time: Unix time of the last one.
        memory_share: memory in use then, 0 to 1; None where unknown.
    """

    host: str
    boot: str
    pid: int
    started: int
    job: str
    restarts: int
    since: float
    beat: int = 0
    time: float = 0.0
    memory_share: float | None = None

    def __str__(self) -> str:
        job = f"job {self.job}, " if self.job else ""
        return f"{job}process {self.pid} on {self.host}"

    @property
    def is_of_this_machine(self) -> bool:
        """Whether this kernel knows all about it."""
        return self.boot == _boot_id()

    @property
    def how_to_stop(self) -> str:
        """The command that ends it."""
        return f"scancel {self.job}" if self.job else f"kill {self.pid} (on {self.host})"


class RunLock:
    """A lock that is held, until `close` or the end of the process.

    Args:
        path: its file.
        file: the same, open and locked.
        beat_s: seconds between signs of life.
    """

    def __init__(self, path: Path, file: IO[str], beat_s: float = BEAT_S) -> None:
        self.path, self._file = path, file
        self._holder = this_process()
        self._mutex, self._closed = threading.Lock(), threading.Event()
        self._write()
        atexit.register(self.close)
        threading.Thread(target=self._beat, args=(beat_s,), name="run-lock", daemon=True).start()

    def close(self) -> None:
        """Give the lock back, and say so."""
        with self._mutex:
            if not self._closed.is_set() and self._holder.pid == os.getpid():
                self._closed.set()
                if self._is_ours():
                    self._file.truncate(0)
                self._file.close()
        atexit.unregister(self.close)

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _beat(self, beat_s: float) -> None:
        """Write a sign of life again and again; end this process if the lock is another's."""
        while not self._closed.wait(beat_s):
            with self._mutex:
                if self._closed.is_set():
                    return
                if self._is_ours():
                    self._write()
                    continue
            _leave(f"{self.path}: taken over by {_read(self._file) or 'somebody who removed it'}")

    def _is_ours(self) -> bool:
        """Tell whether the file still is the one at its path, and says what was last written to it."""
        try:
            is_at_its_path = os.stat(self.path).st_ino == os.fstat(self._file.fileno()).st_ino
            return is_at_its_path and _read(self._file) == self._holder
        except FileNotFoundError:
            return False
        except OSError:
            return True  # a file system that is out of order for a while tells nothing

    def _write(self) -> None:
        found = memory()
        self._holder = self._holder._replace(
            beat=self._holder.beat + 1,
            time=time.time(),
            memory_share=round(found.share, 4) if found else None,
        )
        text = json.dumps(self._holder._asdict()).ljust(WRITTEN_BYTES - 1) + "\n"
        try:
            os.pwrite(self._file.fileno(), text.encode(), 0)
            os.fsync(self._file.fileno())
        except OSError:  # a full disk: the kernel's lock still holds
            self._holder = _read(self._file) or self._holder


def hold_lock(path: Path, *, stale_s: float = STALE_S, beat_s: float = BEAT_S) -> RunLock:
    """Lock `path` until this process ends, however it ends; forked children do not hold it.

    Args:
        path: the lock's file; its folder is created.
        stale_s: seconds without a sign of life after which a holder on another machine is taken for dead.
        beat_s: seconds between signs of life.

    Raises:
        Failure: another process holds the lock; its machine, job and number are named.
    """
    seen: Holder | None = None
    since = time.monotonic()
    while True:
        file = _opened(path)
        is_exact = _lock(file, path)
        holder = _read(file)
        if holder is None or _is_gone(holder, is_exact=is_exact):
            return RunLock(path, file, beat_s)
        if seen is None:
            seen, since = holder, time.monotonic()
            _say(f"{_run_of(path)}: {holder} was at work here; waiting {stale_s:.0f} s for a sign of life")
        elif holder != seen:
            file.close()
            raise _refusal(path, holder)
        elif time.monotonic() - since > stale_s:
            _say(f"{_run_of(path)}: no sign of life of {holder}; taken over")
            return RunLock(path, file, beat_s)
        file.close()
        time.sleep(min(1.0, stale_s / 10))


def _opened(path: Path) -> IO[str]:
    """Open the file of a lock.

    Raises:
        Failure: nothing can be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+", encoding="utf-8")
    except OSError as error:
        raise Failure(
            f"{path.parent}: cannot be written to: {error.strerror}\n"
            "Mend that, or work elsewhere: NANOCHAT_BASE_DIR=DIR python cli.py ..."
        ) from None


def _lock(file: IO[str], path: Path) -> bool:
    """Ask the kernel for the lock; tell whether it knows of locks here.

    Raises:
        Failure: another process holds it.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return False
        holder = _read(file)
        file.close()
        raise _refusal(path, holder) from None
    return True


def _is_gone(holder: Holder, *, is_exact: bool) -> bool:
    """Tell whether a holder whose lock was not refused is certainly dead."""
    me = this_process()
    if holder.job and holder.job == me.job and holder.restarts < me.restarts:
        return True  # SLURM ends a job before it starts it again
    if not holder.is_of_this_machine:
        return False
    return is_exact or not is_alive(holder)


def _refusal(path: Path, holder: Holder | None) -> Failure:
    run = _run_of(path)
    if holder is None:
        return Failure(f"{run}: another process is at work there already ({path})")
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime(holder.since))
    elsewhere = "" if holder.is_of_this_machine else f"\nIf that is gone for certain: rm {path}"
    return Failure(
        f"{run}: {holder} is at work there already, since {began}\n"
        f"Wait for it, give this one another --run NAME, or stop it: {holder.how_to_stop}{elsewhere}"
    )


def _run_of(path: Path) -> str:
    return path.name.removeprefix(".").removesuffix(".lock")


def lock_path(run_dir: Path) -> Path:
    """Return the file of the lock of a run; it lies beside the folder, which may be moved aside."""
    return run_dir.with_name(f".{run_dir.name}.lock")


def holder_of(path: Path) -> Holder | None:
    """Return who holds, or held until it died, the lock of this file; None after a regular end.

    Not for the holder itself: a process that closes a file loses every lock it has on it.
    """
    try:
        with path.open(encoding="utf-8") as file:
            return _read(file)
    except OSError:
        return None


def is_at_work(holder: Holder) -> bool:
    """Tell whether a holder lives: what this kernel knows, or whether its last sign of life is recent."""
    if holder.is_of_this_machine:
        return is_alive(holder)
    return time.time() - holder.time < STALE_S


def is_alive(holder: Holder) -> bool:
    """Tell whether the very process of a holder of this machine still runs."""
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _start_of(holder.pid) in (0, holder.started)


def this_process() -> Holder:
    """Return this process as a holder."""
    return Holder(
        host=socket.gethostname(),
        boot=_boot_id(),
        pid=os.getpid(),
        started=_start_of(os.getpid()),
        job=os.environ.get("SLURM_JOB_ID", ""),
        restarts=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        since=time.time(),
    )


def _read(file: IO[str]) -> Holder | None:
    """Return the holder that a file names; None if it is empty or says nothing of the kind."""
    try:
        facts: Any = json.loads(os.pread(file.fileno(), WRITTEN_BYTES, 0))
        return Holder(**facts)
    except (ValueError, TypeError):
        return None


def _boot_id() -> str:
    """Return what tells this start of this machine from every other; its name where there is no /proc."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


def _start_of(pid: int) -> int:
    """Return when a process began, in ticks since the machine's start; 0 where unknown, 1 for a dead child."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0
    return 1 if fields[0] == "Z" else int(fields[19])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _leave(reason: str) -> None:
    """End this process at once: whatever it would write now, it would write into another's work."""
    _say(f"error: {reason}\nThis process ends; what it saved until now is kept.")
    os._exit(Failure.exit_code)
