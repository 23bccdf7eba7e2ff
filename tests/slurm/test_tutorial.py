"""The commands of the tutorial, typed one after the other on a cluster."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest
from tiny_stage import ROOT
from typed import type_commands

BLOCK = re.compile(r"<!-- not run here: make test-slurm runs it -->\n```bash\n(.*?)```", re.S)


@pytest.mark.slurm
@pytest.mark.timeout(3600)
def test_commands_of_the_tutorial_run(cluster, tmp_path):
    blocks = BLOCK.findall((ROOT / "docs" / "tutorials" / "first-cluster-job.md").read_text())
    assert len(blocks) >= 5
    try:
        done = type_commands("".join(blocks), ROOT, 3000, SCRATCH=str(tmp_path), NANOCHAT_VENV=sys.prefix)
        for said in (
            "stopped by SIGUSR1",
            "requeued",
            "continuing demo_base",
            "is finished: 200 steps",
            "base is finished",
        ):
            assert said in done.stdout, done.stdout + done.stderr
    finally:
        subprocess.run(["scancel", "--user", "root"], check=False)
        shutil.rmtree(ROOT / "slurm" / "rendered", ignore_errors=True)
