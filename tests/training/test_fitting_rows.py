"""Too large a micro-batch is halved at the start, on all ranks alike; later, three lines say what to do."""

from __future__ import annotations

import json

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import SingleDeviceStrategy
from tiny_trainer import RandomRows, tiny_module, train

from nanochat_pl.system.errors import Failure
from nanochat_pl.training import failures
from nanochat_pl.training.callbacks import fitting_rows
from nanochat_pl.training.callbacks.fitting_rows import FittingRows
from nanochat_pl.training.failures import explained
from nanochat_pl.training.lost_rank import LostRank


class Seen(RandomRows):
    """Rows whose micro-batches are as large as the data was told."""

    device_batch_rows = 2
    shapes: set[tuple[int, int]]

    def train_dataloader(self):
        self.shapes = set()
        for batch in super().train_dataloader():
            for part in range(0, len(batch.inputs), self.device_batch_rows):
                rows = slice(part, part + self.device_batch_rows)
                self.shapes.add(tuple(batch.inputs[rows].shape))
                yield batch._replace(inputs=batch.inputs[rows], targets=batch.targets[rows])


@pytest.fixture
def small_gpu(monkeypatch):
    """A device on which a micro-batch of more than one row does not fit."""
    real = fitting_rows.rehearse

    def rehearse(trainer, module):
        if module.plan.device_batch_rows > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        real(trainer, module)

    monkeypatch.setattr(fitting_rows, "rehearses", lambda trainer: True)
    monkeypatch.setattr(fitting_rows, "rehearse", rehearse)


def test_rows_are_halved_accumulation_doubled_and_what_to_keep_is_said(tmp_path, small_gpu, capsys):
    data = Seen()
    trainer = train(tiny_module(steps=3, accumulation=2), tmp_path, FittingRows(), data=data)
    assert trainer.global_step == 3
    assert data.shapes == {(1, 16)}
    assert trainer.accumulate_grad_batches == 4
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert (plan["device_batch_rows"], plan["accumulation"], plan["batch_tokens"]) == (1, 4, 64)
    said = capsys.readouterr().err
    assert "2 rows of a micro-batch do not fit in memory; 1 do, with accumulation 4" in said
    assert "Keep it: --data.init_args.device_batch_rows 1" in said


def test_halved_run_learns_what_the_whole_one_would(tmp_path, monkeypatch):
    weights = []
    for rehearses in (False, True):
        monkeypatch.setattr(fitting_rows, "rehearses", lambda trainer, yes=rehearses: yes)
        model = tiny_module(steps=5, accumulation=2)
        train(model, tmp_path / str(rehearses), FittingRows(), data=Seen())
        weights.append(torch.cat([p.detach().flatten() for p in model.gpt.parameters()]))
    assert torch.equal(*weights)  # the rehearsal leaves nothing behind


def test_one_row_that_does_not_fit_ends_the_run_with_what_to_do(tmp_path, small_gpu, monkeypatch):
    def never(trainer, module):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fitting_rows, "rehearse", never)
    with pytest.raises(Failure, match="out of memory at step 0") as refused:
        train(tiny_module(steps=3), tmp_path, FittingRows(), data=Seen())
    assert refused.value.exit_code == 1
    assert len(str(refused.value).splitlines()) <= 3
    assert "fsdp2" in str(refused.value)


class Full(Callback):
    """Run out of memory in a later step."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.global_step == 2:
            self.trainer = trainer
            raise self.error


def meaning_of(error: Exception, folder) -> Exception:
    """Train until an error comes, and return what is made of it."""
    model, full = tiny_module(steps=4), Full(error)
    with pytest.raises(type(error)):
        train(model, folder, full)
    return explained(error, full.trainer, model.plan, LostRank(full.trainer))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_later_it_is_said_what_takes_the_memory_and_what_to_turn(tmp_path, error):
    meaning = meaning_of(error, tmp_path)
    said = str(meaning).splitlines()
    assert (meaning.exit_code, len(said)) == (1, 3)
    assert said[0].startswith("out of memory at step 2; the largest parts by the plan: ")
    assert all(
        knob in said[1] for knob in ("device_batch_rows (1 instead of 2", "sequence_len", "strategy fsdp2")
    )
    assert said[2] == "The same command continues from the beginning."


def test_peak_is_told_where_the_device_knows_it(tmp_path, monkeypatch):
    class Properties:
        total_memory = 80e9

    monkeypatch.setattr(failures.torch.cuda, "get_device_properties", lambda device: Properties)
    monkeypatch.setattr(failures.torch.cuda, "max_memory_allocated", lambda device: 78.9e9)
    monkeypatch.setattr(SingleDeviceStrategy, "root_device", torch.device("cuda:0"))

    class Trainer:
        strategy = SingleDeviceStrategy()
        global_step, default_root_dir = 7, str(tmp_path)

    said = str(failures.out_of_memory(Trainer, tiny_module(steps=4).plan))
    assert "at step 7 on cuda:0: peak 78.9 of 80.0 GB" in said


def test_port_in_use_is_said_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "29500")
    error = torch.distributed.DistNetworkError("The server socket has failed to listen: EADDRINUSE, 29500")
    said = str(meaning_of(error, tmp_path))
    assert ":29500: the port is in use" in said
    assert "unset MASTER_PORT" in said
    assert len(said.splitlines()) <= 3


def test_killed_data_worker_is_told_with_what_to_do(tmp_path):
    error = RuntimeError("DataLoader worker (pid 77) is killed by signal: Killed. ")
    meaning = meaning_of(error, tmp_path)
    assert meaning.exit_code == 75
    assert "num_workers 0" in str(meaning)
    assert len(str(meaning).splitlines()) <= 3


def test_what_is_not_known_stays_what_it_was(tmp_path):
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert meaning_of(error, tmp_path) is error
