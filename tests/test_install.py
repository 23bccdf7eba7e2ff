"""`make install` where something is missing: what, and the command that mends it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tiny_stage import ROOT


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A checkout without an installation, and a folder of stand-ins before all other programs."""
    for name in ("Makefile", "requirements.lock", "rustbpe"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "bin").mkdir()
    for name in ("bash", "sh", "sed", "mkdir", "touch", "make", "env", "printf", "cp"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    return tmp_path


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of a shell, whoever started the tests: `make` tells its children of itself."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return own | changes


def stand_in(checkout: Path, name: str, body: str) -> None:
    program = checkout / "bin" / name
    program.write_text(f"#!/bin/bash\n{body}\n")
    program.chmod(0o755)


def refused(checkout: Path) -> list[str]:
    """Return what `make install` says before it fails, without make's own last word."""
    env = environment(PATH=str(checkout / "bin"))
    command = ["make", "-s", "install"]
    done = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    return [line for line in done.stderr.splitlines() if not line.startswith("make: ")]


def test_python_that_is_too_old_makes_no_environment(checkout):
    stand_in(checkout, "python3", "exit 1")
    assert refused(checkout) == [
        "error: python3 is missing or older than 3.10",
        "Name another: make install PYTHON=python3.12",
    ]
    assert not (checkout / ".venv").exists()


def with_environment(checkout: Path, pip: str, uv: str = "exit 0") -> None:
    """Let `python3 -m venv` make an environment whose pip and uv do as told."""
    stand_in(
        checkout,
        "python3",
        "[[ $1 == -c ]] && exit 0\nmkdir -p .venv/bin\ncp bin/pip_of_it .venv/bin/python\ncp bin/uv_of_it .venv/bin/uv",
    )
    stand_in(checkout, "pip_of_it", pip)
    stand_in(checkout, "uv_of_it", uv)


def test_without_network_the_place_that_has_it_is_named(checkout):
    with_environment(checkout, pip="exit 1")
    problem, remedy = refused(checkout)
    assert problem.startswith("error: uv could not be installed: there is no network here")
    assert remedy == "On a login node or wherever there is network: make install"


def test_without_cargo_and_network_rust_is_named(checkout):
    with_environment(checkout, pip="exit 0", uv='[[ "$*" != *--editable* ]]')
    problem, remedy = refused(checkout)
    assert problem.startswith("error: the crate rustbpe could not be built")
    assert remedy.endswith("then: make install")


def test_crate_that_is_gone_is_built_again_whatever_the_stamp_says(checkout):
    (checkout / ".venv" / ".stamps").mkdir(parents=True)
    (checkout / "nanochat_pl").mkdir()
    for name in ("venv", "packages", "crate"):
        (checkout / ".venv" / ".stamps" / name).touch()
    assert "maturin develop" in planned(checkout)
    (checkout / "nanochat_pl" / "_rustbpe.abi3.so").touch()
    assert "Nothing to be done" in planned(checkout)


def planned(checkout: Path) -> str:
    """Return what `make install` would do."""
    command = ["make", "-n", "install"]
    return subprocess.run(
        command, cwd=checkout, env=environment(), capture_output=True, text=True, check=True
    ).stdout
