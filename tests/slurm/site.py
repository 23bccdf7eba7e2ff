"""A site with tiny stages: its rendered templates, and its runs."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml
from slurm.cluster import ask, facts
from tiny_stage import ROOT, VOCAB_SIZE, TinyStage

SIZE = "tiny"


@dataclass
class Site:
    """Everything below one folder.

    Args:
        folder: the scratch file system.
        ranks: processes of a job.
    """

    folder: Path
    ranks: int = 2
    size: str = SIZE
    configs: Path | None = None

    @property
    def base(self) -> Path:
        """NANOCHAT_BASE_DIR of the jobs."""
        return self.folder / "nanochat_pl"

    @property
    def rendered(self) -> Path:
        return self.folder / "rendered"

    def render(self, **values: object) -> subprocess.CompletedProcess:
        """Fill in the templates for this site."""
        settings = {
            "account": None,
            "partition": "main",
            "tasks_per_node": self.ranks,
            "cpus_per_task": 1,
            "gres": None,
            "time": "60",
            "margin_s": 90,
            "scratch": str(self.folder),
            "venv": str(Path(sys.prefix)),
            "size": self.size,
            "configs": str(self.configs or self.base),
            "overlay": None,
            "corpus": "world",
            "vocab_size": VOCAB_SIZE,
            "max_crashes": 20,
        } | values
        configs = Path(settings["configs"])
        configs.mkdir(exist_ok=True)
        for stage in ("base", "mid", "sft"):
            (configs / f"{self.size}_{stage}.yaml").touch()
        config = self.folder / "site.yaml"
        config.write_text(yaml.safe_dump(settings))
        done = subprocess.run(
            [sys.executable, ROOT / "slurm" / "render.py", "--config", config, "--out", self.rendered],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done

    def environment(self) -> dict[str, str]:
        """Return the environment of a login node."""
        return os.environ | {"NANOCHAT_BASE_DIR": str(self.base), "OMP_NUM_THREADS": "1"}

    def cli(self, *arguments: str) -> None:
        """Run a verb on the login node."""
        subprocess.run(
            [sys.executable, "cli.py", *arguments],
            cwd=ROOT,
            env=self.environment(),
            check=True,
            capture_output=True,
        )

    def with_data(self) -> Site:
        """Make a corpus and its tokenizer."""
        self.cli("data", "generate", "world", "--documents", "600")
        self.cli("tokenizer", "train", "--corpus", "world", "--vocab_size", str(VOCAB_SIZE))
        return self

    def submit(self, script: str, *arguments: str, options: tuple[str, ...] = ()) -> str:
        """Submit a rendered script; return the job's number."""
        done = subprocess.run(
            ["sbatch", "--parsable", *options, self.rendered / script, *arguments],
            capture_output=True,
            text=True,
            env=self.environment(),
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def stage(self, **settings) -> TinyStage:
        """Return a base stage of this site; its runs are the jobs'."""
        return TinyStage(self.base, **settings)

    def log(self, job: str) -> str:
        """Return what a job has written."""
        path = Path(facts(job).get("StdOut", "/nowhere"))
        return path.read_text() if path.exists() else ""


def processes_of(run: str) -> list[int]:
    """Return the process ids of the ranks of a run, without their loaders, `srun` and shells."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            above = Path(f"/proc/{parent}/cmdline").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        if words[0].endswith(b"python") and run.encode() in words and above[0].endswith(b"bash"):
            found.append(int(folder.name))
    return found


def job_named(name: str) -> str:
    """Return the newest job of a name, empty if there is none."""
    numbers = ask("squeue", "--noheader", "--states", "all", "--name", name, "--format", "%A").split()
    return max(numbers, key=int, default="")
