"""A run that meets a hundred misfortunes, and what becomes of it: `make chaos`, or `tests/chaos.py --faults 20`.

Two ranks train a tiny model. The supervisor does what a batch script does and no more: a start that ended with 75 or
crashed is started again with the same command. An undisturbed run, on the same texts, with the same damaged shard and
the same batches that are no numbers, ends with the weights to compare with. The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

from forked_ranks import Server
from tiny_stage import VOCAB_SIZE, TinyStage

from nanochat_pl.commands import tokenizer
from nanochat_pl.system.corpus import write_corpus
from nanochat_pl.system.paths import corpus_dir
from nanochat_pl.system.receipts import receipts
from nanochat_pl.tasks import world as worlds

SHARES = {  # how often each misfortune comes, of a hundred
    "kill": 14,
    "SIGTERM": 12,
    "SIGUSR1": 12,
    "pause": 6,
    "full_disk": 8,
    "truncated": 8,
    "nan": 10,
    "loader": 8,
    "clock": 8,
    "port": 6,
    "second_job": 7,
    "corrupt_shard": 1,
}
OUTSIDE = (
    "truncated",
    "port",
    "second_job",
    "corrupt_shard",
)  # the supervisor's doing; the others are in `faults.py`
SAVED_EVERY = 5
STARTS_ALLOWED = 3  # for each misfortune


def chaos(base: Path, steps: int, faults: int, pause_s: float, seed: int = 0) -> dict[str, Any]:
    """Run both; return what is to be reported.

    Args:
        base: an empty base directory.
        steps: of the run.
        faults: how many misfortunes.
        pause_s: seconds for which a rank is stopped.
        seed: of the draw.
    """
    os.environ["NANOCHAT_BASE_DIR"] = str(base)
    make_texts()
    draw = random.Random(seed)
    plan = misfortunes(steps, faults, pause_s, draw)
    server = Server(os.environ | {"OMP_NUM_THREADS": "1"})
    second = Server(os.environ | {"OMP_NUM_THREADS": "1"})
    started = time.monotonic()
    try:
        calm = Run(base, "calm", steps, [fault for fault in plan if fault["kind"] == "nan"], server, second)
        calm.supervise([])
        hunted = Run(base, "hunted", steps, plan, server, second)
        hunted.supervise([fault for fault in plan if fault["kind"] in OUTSIDE])
    finally:
        server.close()
        second.close()
    executed = sum(map(len, hunted.stage.all_losses("hunted").values()))
    return {
        "steps": steps,
        "faults": len(plan),
        "by_kind": dict(Counter(fault["kind"] for fault in plan)),
        "not_met": sorted(hunted.not_met()),
        "starts": hunted.starts,
        "exit_codes": dict(Counter(map(str, hunted.codes))),
        "executed_steps": executed,
        "effective": round(steps / executed, 4),
        "losses_equal": hunted.stage.losses("hunted") == calm.stage.losses("calm"),
        "weights_equal": hunted.stage.weights("hunted") == calm.stage.weights("calm"),
        "seconds": round(time.monotonic() - started),
    }


def make_texts() -> None:
    """Write a corpus of small shards and its tokenizer, then damage the third shard for both runs."""
    world = worlds.World(seed=0, towns=20)
    folder = corpus_dir("world")
    texts = islice(worlds.documents(world), 3000)
    val_texts = islice(worlds.documents(world, split="val"), 200)
    write_corpus(folder, texts, val_texts=val_texts, rows_per_shard=300, made_from={"seed": 0})
    tokenizer.train(corpus="world", vocab_size=VOCAB_SIZE)
    shard = folder / "shard_00002.parquet"
    data = bytearray(shard.read_bytes())
    data[200 : len(data) // 2] = bytes(len(data) // 2 - 200)
    shard.write_bytes(data)


def misfortunes(steps: int, count: int, pause_s: float, draw: random.Random) -> list[dict[str, Any]]:
    """Draw misfortunes, spread over the steps."""
    kinds = [kind for kind, share in SHARES.items() for _ in range(max(1, round(share * count / 100)))]
    draw.shuffle(kinds)
    kinds.remove("kill")
    kinds.append("kill")  # the last is followed by a start, before which what waits for one can still come
    plan = []
    for number, kind in enumerate(kinds):
        step = int((number + 0.2 + 0.6 * draw.random()) * (steps - 30) / len(kinds)) + 5
        fault = {"id": f"{number}-{kind}", "kind": kind, "step": step, "rank": draw.randrange(2)}
        plan.append(fault | details(kind, pause_s, draw))
    return plan


def details(kind: str, pause_s: float, draw: random.Random) -> dict[str, Any]:
    """Return what a kind of misfortune needs to be told."""
    if kind in ("SIGTERM", "SIGUSR1"):
        number = int(getattr(signal, kind))
        phase = draw.choice(("forward", "backward", "save"))
        return {"kind": "signal", "number": number, "phase": phase, "rank": draw.choice((-1, 0, 1))}
    return {
        "kill": {"phase": draw.choice(("forward", "backward", "save"))},
        "pause": {"phase": "forward", "seconds": pause_s},
        "clock": {"phase": "backward", "days": draw.choice((-400, -1, 1, 400))},
        "full_disk": {"phase": "forward", "saves": draw.randint(1, 2)},
        "loader": {"batches": draw.randint(0, 20)},
    }.get(kind, {})


class Run:
    """One run and its supervisor."""

    def __init__(
        self, base: Path, name: str, steps: int, faults: list[dict[str, Any]], server: Server, second: Server
    ) -> None:
        self.stage = TinyStage(base, steps=steps)
        self.name, self.faults, self.server, self.second = name, faults, server, second
        self.path = base / f"{name}.faults.json"
        self.path.write_text(json.dumps([fault for fault in faults if fault["kind"] not in OUTSIDE]))
        self.log = base / f"{name}.log"
        self.starts = 0
        self.codes: list[int] = []
        self._done_outside: set[str] = set()
        self._over = threading.Event()

    def command(self, ranks: int = 2) -> list[str]:
        callback = {"class_path": "faults.Faults", "init_args": {"path": str(self.path)}}
        return [
            *("fit", "--config", str(self.stage.config), "--run", self.name, "--allow_external", "true"),
            *("--trainer.devices", str(ranks), "--trainer.strategy", "ddp"),
            *("--trainer.callbacks", json.dumps([callback]), "--data.init_args.on_bad_shard", "skip"),
            *("--checkpoint.every_n_steps", str(SAVED_EVERY), "--bits_per_byte.every_n_steps", "200"),
            *("--samples.every_n_steps", "0"),
        ]

    def supervise(self, outside: list[dict[str, Any]]) -> None:
        """Start the command until it is done."""
        self._done_outside |= {fault["id"] for fault in outside if fault["kind"] == "corrupt_shard"}
        allowed = STARTS_ALLOWED * (len(self.faults) + 1)
        while True:
            code = self._one_start(outside)
            self.starts += 1
            self.codes.append(code)
            if code == 0:
                return
            if code == 2 or self.starts > allowed:
                raise SystemExit(
                    f"{self.name}: gave up after {self.starts} starts\n{self.log.read_text()[-3000:]}"
                )
            for fault in self._due(outside, "truncated")[:1]:
                self._truncate_newest(fault)

    def _one_start(self, outside: list[dict[str, Any]]) -> int:
        taken = self._due(outside, "port")[:1]
        self._over.clear()
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            if taken:
                listener.listen()
                self._done_outside.add(taken[0]["id"])
            self.server.start(self.command(), self.log, port=listener.getsockname()[1] if taken else None)
            watcher = threading.Thread(target=self._send_second_jobs, args=(outside,))
            watcher.start()
            codes = self.server.wait()
        self._over.set()
        watcher.join()
        return next((code for code in codes if code), 0)

    def _due(self, outside: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
        step = self.stage.logged_steps(self.name)
        return [
            fault
            for fault in outside
            if fault["kind"] == kind and fault["step"] <= step and fault["id"] not in self._done_outside
        ]

    def _send_second_jobs(self, outside: list[dict[str, Any]]) -> None:
        """While the run is under way, start it once more where that is due: it has to be turned away."""
        while not self._over.wait(0.05):
            for fault in self._due(outside, "second_job")[:1]:
                log = self.log.with_suffix(".second.log")
                before = log.stat().st_size if log.exists() else 0
                self.second.start(self.command(ranks=1), log, ranks=1)
                code = self.second.wait()[0]
                if "at work there already" in log.read_text()[before:] and code == 1:
                    self._done_outside.add(fault["id"])
                elif not self._over.is_set():
                    raise SystemExit(f"a second job was not turned away: {code}\n{log.read_text()[before:]}")

    def _truncate_newest(self, fault: dict[str, Any]) -> None:
        newest = receipts(self.stage.folder(self.name) / "checkpoints")
        if len(newest) > 1:
            os.truncate(newest[0].path, newest[0].bytes // 2)
            self._done_outside.add(fault["id"])

    def not_met(self) -> set[str]:
        """Return the misfortunes that did not come."""
        happened = self.path.with_suffix(".happened")
        met = self._done_outside | set(happened.read_text().split() if happened.exists() else ())
        return {fault["id"] for fault in self.faults if fault["kind"] != "nan"} - met


def passed(report: dict[str, Any]) -> bool:
    """Tell whether nothing was lost."""
    return (
        report["weights_equal"]
        and report["losses_equal"]
        and report["effective"] >= 0.9
        and not report["not_met"]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--pause_s", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        report = chaos(Path(folder), options.steps, options.faults, options.pause_s, options.seed)
    print(json.dumps(report))
    return 0 if passed(report) else 1


if __name__ == "__main__":
    sys.exit(main())
