"""Signals at random moments, to one rank or to all: every start ends in order, and nothing of the run changes."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from forked_ranks import Server
from tiny_stage import TinyStage

from nanochat_pl.system import signals
from nanochat_pl.system.receipts import newest_valid, receipts

PHASES = ("forward", "backward", "save", "validation", "loader", "start-up")
NUMBERS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
EVERY_SAVE, EVERY_LOOK = 4, 6
DEADLOCK_S = 1200.0


class OfItsOwnLength(TinyStage):
    """A stage whose file is not that of the other tests' runs beside it."""

    @property
    def name(self) -> str:
        """Name of the configuration's file."""
        return f"{self.steps}_steps"


class Interrupted:
    """One run of two ranks that is interrupted again and again, always continued by the same command."""

    def __init__(self, base: Path, server: Server, run: str, steps: int) -> None:
        self.stage = OfItsOwnLength(base, steps=steps)
        self.server, self.run = server, run
        self.log = base / f"{run}.log"
        self.faults = base / f"{run}.faults.json"
        self.codes: list[int] = []

    def command(self, *further: str) -> list[str]:
        ranks = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
        return ["fit", "--config", str(self.stage.config), "--run", self.run, *ranks, *further]

    def start(self, faults: list[dict]) -> list[int]:
        self.faults.write_text(json.dumps(faults))
        self.faults.with_suffix(".happened").unlink(missing_ok=True)
        callback = {"class_path": "faults.Faults", "init_args": {"path": str(self.faults)}}
        return self.server.start(
            self.command("--allow_external", "true", "--trainer.callbacks", json.dumps([callback])), self.log
        )

    def step(self) -> int:
        folder = self.stage.folder(self.run) / "checkpoints"
        return next((receipt.step for receipt in receipts(folder)), 0)

    def interrupt(self, phase: str, draw: random.Random) -> None:
        """Let one start meet a signal in a phase; insist that it ends in order."""
        number, rank = draw.choice(NUMBERS), draw.choice((-1, 0, 1))
        due = {"save": EVERY_SAVE, "validation": EVERY_LOOK}.get(phase, 1)
        first = self.step() + draw.randint(0, 3)
        step = -(-(first + 1) // due) * due - (0 if due > 1 else 1)
        fault = {
            "id": f"{phase}-{draw.random()}",
            "kind": "signal",
            "phase": phase,
            "rank": rank,
            "step": step,
        }
        before = self.log.stat().st_size if self.log.exists() else 0
        started = time.monotonic()
        if phase == "start-up":
            ranks = self.start([])
            wait_until_it_listens(ranks[max(rank, 0)])
            time.sleep(draw.random() * 0.6)
            for pid in ranks if rank == -1 else ranks[rank : rank + 1]:
                os.kill(pid, number)
        else:
            self.start(
                [fault | {"number": int(number), "twice": number != signal.SIGINT and draw.random() < 0.3}]
            )
        codes = self.server.wait()
        said = self.log.read_text()[before:]
        assert codes == [signals.exit_code(number), 0], f"{phase} {number.name} rank {rank}: {codes}\n{said}"
        assert time.monotonic() - started < DEADLOCK_S
        assert "Traceback" not in said, said
        self.intact()
        self.codes.append(codes[0])

    def intact(self) -> None:
        """Insist that every checkpoint is whole and nothing half-written is left."""
        folder = self.stage.folder(self.run) / "checkpoints"
        found = newest_valid(folder)
        assert not found.rejected
        assert not list(folder.glob(".*.tmp"))


def wait_until_it_listens(pid: int) -> None:
    """Wait until the handlers of a process are in place: the first lines of the program are behind it."""
    deadline = time.monotonic() + DEADLOCK_S
    bit = 1 << (signal.SIGUSR1 - 1)
    while time.monotonic() < deadline:
        status = Path(f"/proc/{pid}/status").read_text()
        caught = int(status.split("SigCgt:")[1].split()[0], 16)
        if caught & bit:
            return
        time.sleep(0.001)
    raise AssertionError("it never listens")


def interrupted_run(base: Path, count: int, seed: int) -> None:
    """Interrupt a run so many times; compare it with one nobody touched."""
    draw = random.Random(seed)
    server = Server(TinyStage(base).environment())
    try:
        unbroken = Interrupted(base, server, f"calm_{count}", steps=4 * count + 12)
        server.start(unbroken.command(), unbroken.log)
        assert server.wait() == [0, 0], unbroken.log.read_text()
        broken = Interrupted(base, server, f"restless_{count}", steps=4 * count + 12)
        for number in range(count):
            broken.interrupt(PHASES[number % len(PHASES)], draw)
        server.start(broken.command(), broken.log)
        assert server.wait() == [0, 0], broken.log.read_text()
    finally:
        server.close()
    stage = unbroken.stage
    assert stage.losses(broken.run) == stage.losses(unbroken.run)
    assert stage.weights(broken.run) == stage.weights(unbroken.run)
    assert looks(stage, broken.run) == looks(stage, unbroken.run)
    assert len(broken.codes) == count


def looks(stage: TinyStage, run: str) -> list[tuple[int, str]]:
    """Return every validation, none twice and none left out."""
    lines = (stage.folder(run) / "metrics" / "val.jsonl").read_text().splitlines()
    return [(line["step"], float(line["val/bpb"]).hex()) for line in map(json.loads, lines)]


def test_a_signal_in_each_phase_changes_nothing(world_base):
    interrupted_run(world_base, len(PHASES), seed=0)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_hundred_random_signals_change_nothing(world_base):
    interrupted_run(world_base, 100, seed=1)
