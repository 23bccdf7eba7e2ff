"""One SLURM for all tests of this folder, and a site of tiny stages on it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from slurm.cluster import Cluster, is_missing
from slurm.site import Site


@pytest.fixture(scope="session")
def cluster():
    """SLURM's daemons, for as long as tests run."""
    reason = is_missing()
    if reason:
        (pytest.fail if "REQUIRE_SLURM" in os.environ else pytest.skip)(reason)
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a short path: sockets lie in it
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def site(cluster, tmp_path_factory) -> Site:
    """Rendered templates, a corpus and a tokenizer; jobs have two ranks."""
    site = Site(tmp_path_factory.mktemp("site"))
    site.render()
    return site.with_data()
