"""The same work on many things, a few at a time, in threads that never keep a program from ending.

For work that waits for the network or the disk, or that numbers-crunches outside Python's lock, such as digests.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Generic, NamedTuple, TypeVar

GRACE_S = 3.0  # for threads to notice that they should stop

Job = TypeVar("Job")
Result = TypeVar("Result")


class Done(NamedTuple, Generic[Job, Result]):
    """What became of one job: its result, or the error that ended it."""

    job: Job
    result: Result | None
    error: Exception | None

    def value(self) -> Result:
        """Return the result, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.result


def in_parallel(
    jobs: Sequence[Job], work: Callable[[Job], Result], *, workers: int, stop: Event | None = None
) -> Iterator[Done[Job, Result]]:
    """Yield what became of every job, as they end.

    Leaving the loop early, by Ctrl-C for one, sets `stop`; then no job begins any more, and those that look at it end.

    Args:
        jobs: what to do.
        work: is called with each, in some thread.
        workers: threads at most.
        stop: looked at by long work.
    """
    stop = stop or Event()
    waiting: SimpleQueue[Job] = SimpleQueue()
    done: SimpleQueue[Done[Job, Result]] = SimpleQueue()
    for job in jobs:
        waiting.put(job)

    def labour() -> None:
        while not stop.is_set():
            try:
                job = waiting.get_nowait()
            except Empty:
                return
            try:
                done.put(Done(job, work(job), None))
            except Exception as error:
                done.put(Done(job, None, error))

    threads = [Thread(target=labour, daemon=True) for _ in range(min(workers, len(jobs)))]
    for thread in threads:
        thread.start()
    try:
        for _ in jobs:
            yield done.get()
    finally:
        stop.set()
        deadline = time.monotonic() + GRACE_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
