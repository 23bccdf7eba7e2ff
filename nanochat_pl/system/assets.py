"""The registry of the corpora a stage can name: where each comes from, how large it is, its validation.

Facts only; nothing is opened or downloaded here. How a corpus lies on disk is `corpus.py`'s business.
"""

from __future__ import annotations

from typing import NamedTuple


class CorpusAsset(NamedTuple):
    """One named corpus.

    Attributes:
        name: what a configuration writes, and the folder's name below `data/`.
        source: where it comes from, for people.
        dataset_id: id of the data set on the Hugging Face hub; None for a corpus made here.
        file_pattern: name of shard number i, `file_pattern % i`.
        shards: how many there are in all; None where the user decides.
        bytes_per_shard: about how large one is on disk.
        validation_file: the shard that is validation where there is no manifest; None if the manifest says.
        licence: under which terms it may be used.
        obtain: the command that brings it here, `{config}` for the stage's file.
    """

    name: str
    source: str
    dataset_id: str | None
    file_pattern: str
    shards: int | None
    bytes_per_shard: int
    validation_file: str | None
    licence: str
    obtain: str


CORPORA: dict[str, CorpusAsset] = {
    asset.name: asset
    for asset in (
        CorpusAsset(
            name="fineweb_edu",
            source="FineWeb-Edu sample-100BT, shuffled",
            dataset_id="karpathy/fineweb-edu-100b-shuffle",
            file_pattern="shard_%05d.parquet",
            shards=1823,
            bytes_per_shard=100_000_000,
            validation_file="shard_01822.parquet",  # pinned: bits per byte compare only on the same text
            licence="ODC-By 1.0",
            obtain="python cli.py data fetch --for {config}",
        ),
        CorpusAsset(
            name="world",
            source="the embedded world, made on this machine",
            dataset_id=None,
            file_pattern="shard_%05d.parquet",
            shards=None,
            bytes_per_shard=500_000,
            validation_file=None,
            licence="MIT, as this program",
            obtain="python cli.py data generate world",
        ),
    )
}
