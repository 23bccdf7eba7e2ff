"""A short chaos run: one misfortune of each kind, nothing lost. `make chaos` is the long one."""

from __future__ import annotations

import chaos
import pytest


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_one_misfortune_of_each_kind_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    report = chaos.chaos(tmp_path, steps=300, faults=len(chaos.SHARES), pause_s=2.0)
    assert report["faults"] >= len(chaos.SHARES)
    assert report["not_met"] == []
    assert report["losses_equal"]
    assert report["weights_equal"]
    assert report["effective"] >= 0.9
