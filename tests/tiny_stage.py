"""A real but tiny stage, run through the command line in processes of its own, for tests of whole runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from nanochat_pl.system.files import sha256_of

ROOT = Path(__file__).resolve().parent.parent
VOCAB_SIZE = 320


@dataclass
class TinyStage:
    """A base directory with a corpus and a tokenizer, and one configuration in it.

    Args:
        base: the base directory.
        options: further options of every start, such as `--trainer.devices 2`.
    """

    base: Path
    options: list[str] = field(default_factory=list)
    steps: int = 12
    width_per_layer: int = 16
    compile: bool = False

    def __post_init__(self) -> None:
        self.config = self.base / f"{self.name}.yaml"
        self.config.write_text(yaml.safe_dump(self._configuration()))

    @property
    def name(self) -> str:
        """Name of the configuration's file."""
        return "tiny_base"

    def _configuration(self) -> dict:
        model = {
            "depth": 2,
            "aspect_ratio": self.width_per_layer,
            "head_dim": 16,
            "vocab_size": VOCAB_SIZE,
            "compile": self.compile,
        }
        data = {
            "corpus": "world",
            "sequence_len": 32,
            "device_batch_rows": 2,
            "batch_tokens": 256,
            "buffer_docs": 50,
        }
        return {
            "seed_everything": 42,
            "model": {"class_path": "nanochat_pl.training.LanguageModel", "init_args": model},
            "data": {"class_path": "nanochat_pl.data.PretrainData", "init_args": data},
            "trainer": {
                "accelerator": "cpu",
                "devices": 1,
                "precision": "32-true",
                "max_steps": self.steps,
                "log_every_n_steps": 1,
            },
            "checkpoint": {"every_n_steps": 4},
            "bits_per_byte": {"every_n_steps": 6, "tokens": 512},
            "samples": {"every_n_steps": 6, "prompts": ["The river of the town is"], "max_new_tokens": 4},
        }

    def start(
        self, verb: str, *options: str, run: str, env: dict[str, str] | None = None
    ) -> subprocess.Popen:
        """Start a verb in a process group of its own, output captured."""
        command = [sys.executable, "cli.py", verb, "--config", str(self.config), "--run", run]
        return subprocess.Popen(
            [*command, *self.options, *options],
            cwd=ROOT,
            env=self.environment() | (env or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def environment(self) -> dict[str, str]:
        """Return the environment of a start: this base directory, one thread, no network."""
        return os.environ | {
            "NANOCHAT_BASE_DIR": str(self.base),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT / "tests" / "no_network"),
            "NO_NETWORK_LOG": str(self.network_log),
        }

    @property
    def network_log(self) -> Path:
        """Where a start notes that it wanted to reach beyond this machine, which it may not."""
        return self.base / "network.log"

    def finish(
        self, verb: str, *options: str, run: str, timeout_s: float = 240, **kwargs
    ) -> subprocess.CompletedProcess:
        """Start a verb and wait for its end."""
        process = self.start(verb, *options, run=run, **kwargs)
        out, err = process.communicate(timeout=timeout_s)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def fit(self, *options: str, run: str, **kwargs) -> subprocess.CompletedProcess:
        """Train to the end, and insist that it went well."""
        done = self.finish("fit", *options, run=run, **kwargs)
        assert done.returncode == 0, done.stderr
        return done

    def kill_when(
        self, moment: Callable[[Path], bool], *options: str, run: str, timeout_s: float = 240
    ) -> bool:
        """Start `fit`, kill its whole process group with -9 when `moment(run folder)` first holds.

        Returns:
            Whether it was killed; False if it finished before.
        """
        process = self.start("fit", *options, run=run)
        deadline = time.monotonic() + timeout_s
        while process.poll() is None and time.monotonic() < deadline:
            if moment(self.folder(run)):
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                return True
            time.sleep(0.0005)
        assert process.poll() is not None, "neither the moment nor the end came"
        process.communicate()
        return False

    def folder(self, run: str) -> Path:
        """Return the folder of a run."""
        return self.base / "runs" / run

    def losses(self, run: str) -> dict[int, str]:
        """Return the loss of every step as `float.hex`; of a step run twice, the later one."""
        return {step: values[-1] for step, values in self.all_losses(run).items()}

    def all_losses(self, run: str) -> dict[int, list[str]]:
        """Return every loss logged for each step, in the order they were logged."""
        found: dict[int, list[str]] = {}
        for line in (self.folder(run) / "metrics" / "train.jsonl").read_text().splitlines():
            facts = json.loads(line)
            found.setdefault(facts["step"], []).append(float(facts["train/loss"]).hex())
        return found

    def logged_steps(self, run: str) -> int:
        """Return the last step logged so far, 0 before the first."""
        path = self.folder(run) / "metrics" / "train.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return json.loads(lines[-1])["step"] if lines else 0

    def weights(self, run: str) -> str:
        """Return the sha256 of the artifact's weights."""
        return sha256_of(self.folder(run) / "artifact" / "model.safetensors")


def is_saving(run: Path) -> bool:
    """Tell whether a checkpoint is being written right now."""
    return any((run / "checkpoints").glob(".step_*.tmp"))
