"""Commands as somebody types them one after the other, with this environment's programs first in the path."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def type_commands(
    script: str, folder: Path, timeout_s: float, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the commands in a folder until one fails, and insist that none does."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=os.environ | {"PATH": path} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done
