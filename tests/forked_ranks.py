"""Command lines on two ranks, started in a blink: forked from a process that has imported everything already.

What `srun --kill-on-bad-exit=1` does is done here too: when a rank ends badly, the others are killed soon after.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GRACE_S = 15.0


class Server:
    """The process that has imported everything, seen from the test.

    Args:
        environment: of every start.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            cwd=ROOT,
            env=environment | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._reply() == "ready"

    def _reply(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def start(
        self, args: list[str], log: Path, ranks: int = 2, port: int | None = None, **variables: str
    ) -> list[int]:
        """Start a command line on every rank; return their process ids. The first leads a process group."""
        assert self._process.stdin is not None
        request = {
            "args": args,
            "log": str(log),
            "ranks": ranks,
            "port": port or free_port(),
            "variables": variables,
        }
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._reply()

    def wait(self) -> list[int]:
        """Wait until all ranks have ended; return their exit codes, -N for signal N."""
        return self._reply()

    def close(self) -> None:
        """End the server."""
        self._process.communicate(timeout=60)


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def serve() -> None:
    """Fork ranks as asked on standard input, until it ends."""
    import nanochat_pl.training.testing
    import nanochat_pl.training.verbs  # noqa: F401

    answer("ready")
    for line in sys.stdin:
        request = json.loads(line)
        ranks: list[int] = []
        for rank in range(request["ranks"]):
            ranks.append(fork_rank(request, rank, leader=ranks[0] if ranks else 0))
        answer(ranks)
        answer(ended(ranks))


def answer(value: Any) -> None:
    print(json.dumps(value), flush=True)


def fork_rank(request: dict[str, Any], rank: int, leader: int) -> int:
    """Start one rank; in the child, this does not return."""
    child = os.fork()
    if child:
        return child
    os.setpgid(0, leader)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)
    os.environ.update(request["variables"])
    os.environ.update(
        LOCAL_RANK=str(rank),
        NODE_RANK="0",
        WORLD_SIZE=str(request["ranks"]),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(request["port"]),
    )
    code = 1
    try:
        code = run(request["args"], rank)
    finally:
        os._exit(code)


def run(args: list[str], rank: int) -> int:
    """Run a command line as `python cli.py` would."""
    import multiprocessing.util
    import traceback

    from lightning.pytorch.utilities import rank_zero_only

    import cli

    rank_zero_only.rank = rank
    sys.argv = ["cli.py", *args]
    try:
        code = cli.main(args)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    multiprocessing.util._exit_function()  # ends loader workers, as the interpreter's end does
    return code


def ended(ranks: list[int]) -> list[int]:
    """Wait for all ranks; kill those that stay when another ended badly."""
    codes: dict[int, int] = {}
    deadline = None
    while len(codes) < len(ranks):
        for pid in ranks:
            if pid not in codes and (found := os.waitpid(pid, os.WNOHANG))[0]:
                codes[pid] = os.waitstatus_to_exitcode(found[1])
        if deadline is None and any(codes.values()):
            deadline = time.monotonic() + GRACE_S
        if deadline is not None and time.monotonic() > deadline:
            for pid in set(ranks) - set(codes):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    return [codes[pid] for pid in ranks]


if __name__ == "__main__":
    serve()
