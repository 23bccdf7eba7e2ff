"""Misfortunes inside of a training process, each once in a run's life, for tests of whole runs.

A run is given them by `--trainer.callbacks`, a file says which; those that have happened are written down before they
happen, so that a step that is run again is spared. Batches that are not numbers are the exception: they belong to the
data and are there each time.
"""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from nanochat_pl.system.receipts import receipts
from nanochat_pl.training import checkpoint_io

DAY_S = 86400.0
DELAYS_S = {"forward": 0.004, "backward": 0.004, "save": 0.002, "validation": 0.03, "loader": 0.01}


class Faults(Callback):
    """Do what a file says.

    Args:
        path: JSON: a list of `{"id", "step", "rank", "phase", "kind", …}`. `rank` -1 is all processes of the run.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.faults: list[dict[str, Any]] = json.loads(self.path.read_text())
        self.failing_saves = 0

    @property
    def happened_file(self) -> Path:
        return self.path.with_suffix(".happened")

    def _happened(self) -> set[str]:
        return set(self.happened_file.read_text().split()) if self.happened_file.exists() else set()

    def setup(self, trainer, pl_module, stage):
        self._fail_saves()
        happened = self._happened()
        saved = next(iter(receipts(Path(trainer.default_root_dir) / "checkpoints")), None)
        for fault in self.faults:
            if (
                fault["kind"] == "loader"
                and fault["id"] not in happened
                and saved
                and saved.step >= fault["step"]
            ):
                if trainer.global_rank == fault["rank"]:
                    self._break_loader(trainer.datamodule, fault)
                break

    def on_train_start(self, trainer, pl_module):
        forward = pl_module.gpt.forward
        bad = {fault["step"] for fault in self.faults if fault["kind"] == "nan"}

        def poisoned(ids, targets=None):
            loss = forward(ids, targets)
            return loss * float("nan") if trainer.global_step in bad and trainer.training else loss

        pl_module.gpt.forward = poisoned

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self._strike("forward", trainer)
        self._strike("loader", trainer)

    def on_before_backward(self, trainer, pl_module, loss):
        self._strike("backward", trainer)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self._strike("validation", trainer)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        self._strike("save", trainer)

    def _strike(self, phase, trainer):
        for fault in self.faults:
            mine = fault.get("rank", 0) in (trainer.global_rank, -1 if trainer.global_rank == 0 else None)
            if mine and fault.get("phase") == phase and trainer.global_step >= fault["step"]:
                if fault["id"] in self._happened():
                    continue
                with self.happened_file.open("a") as file:
                    file.write(fault["id"] + "\n")
                getattr(self, f"_{fault['kind']}")(fault, phase)

    def _signal(self, fault, phase):
        """Send a signal somewhere within the phase that begins now."""
        delay = random.Random(fault["id"]).random() * DELAYS_S[phase]
        send = (os.killpg, os.getpgid(0)) if fault["rank"] == -1 else (os.kill, os.getpid())

        def strike():
            time.sleep(delay)
            send[0](send[1], fault["number"])
            if fault.get("twice"):
                time.sleep(0.002)
                send[0](send[1], fault["number"])

        threading.Thread(target=strike, daemon=True).start()

    def _kill(self, fault, phase):
        os.kill(os.getpid(), signal.SIGKILL)

    def _pause(self, fault, phase):
        subprocess.Popen(
            ["sh", "-c", f"sleep {fault['seconds']}; kill -CONT {os.getpid()}"], start_new_session=True
        )
        os.kill(os.getpid(), signal.SIGSTOP)

    def _clock(self, fault, phase):
        now, jump = time.time, fault["days"] * DAY_S
        time.time = lambda: now() + jump

    def _full_disk(self, fault, phase):
        self.failing_saves = fault["saves"]

    def _fail_saves(self):
        write = checkpoint_io._write

        def sometimes(checkpoint, path):
            if self.failing_saves:
                self.failing_saves -= 1
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(checkpoint, path)

        checkpoint_io._write = sometimes

    def _break_loader(self, datamodule, fault):
        make = datamodule.stream

        def stream(start):
            made = make(start)
            batches = made.batches

            def breaking():
                for number, batch in enumerate(batches()):
                    if number == fault["batches"]:
                        with self.happened_file.open("a") as file:
                            file.write(fault["id"] + "\n")
                        raise RuntimeError("a fault in the loader")
                    yield batch

            made.batches = breaking
            return made

        datamodule.stream = stream
