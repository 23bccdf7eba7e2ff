"""Fixtures every test may use: shared real data where it exists, and a base directory of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import FakeHub, believe_in, serving
from tiny_stage import VOCAB_SIZE, TinyStage

from nanochat_pl.commands import data, tokenizer

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real public data beside the checkout; tests that need it skip where it is absent."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real public data is not here: ../shared/data is missing")
    return folder


@pytest.fixture
def base_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh base directory, in force for the test and the processes it starts."""
    folder = tmp_path / "base"
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(folder))
    return folder


@pytest.fixture
def hub(base_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub on this machine that this process takes for the real one, and a fresh base directory."""
    with serving(FakeHub()) as hub:
        believe_in(hub, monkeypatch)
        yield hub


@pytest.fixture(scope="session")
def world_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base directory with a small corpus `world` and its tokenizer; runs of tests live in it side by side."""
    folder = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(folder))
        data.generate(what="world", documents=600, seed=0)
        tokenizer.train(corpus="world", vocab_size=VOCAB_SIZE)
    return folder


@pytest.fixture(scope="session")
def stage(world_base: Path) -> TinyStage:
    """A tiny stage, and its run `unbroken`, which went from the first step to the last without a stop."""
    stage = TinyStage(world_base)
    stage.fit(run="unbroken")
    return stage
