"""Batches in: from shards, rows and positions to the DataModules of the stages."""

from nanochat_pl.data.chat import ChatData
from nanochat_pl.data.pretrain import PretrainData

__all__ = ["ChatData", "PretrainData"]
