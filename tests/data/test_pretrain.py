"""PretrainData: the position in a batch is exact, ranks are disjoint, validation is always the same rows."""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import tempfile
from collections import Counter
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from reference.byte_tokenizer import ByteTokenizer

from nanochat_pl.data import PretrainData
from nanochat_pl.data.batch import Batch
from nanochat_pl.data.pretrain import RowStream, validation_batches
from nanochat_pl.system.corpus import open_corpus, write_corpus
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.sockets import socket_folder

TOKENIZER = ByteTokenizer()
ROWS, SEQUENCE_LEN = 3, 40


def text(number: int) -> str:
    """Return document `number`: its number, then letters up to a length of its own."""
    return f"{number:05d}" + "x" * random.Random(number).randrange(60)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "corpus"
    return write_corpus(
        folder,
        map(text, range(400)),
        val_texts=map(text, range(1000, 1060)),
        rows_per_shard=70,
        row_group_rows=16,
    )


def stream(corpus, start=None, **settings) -> RowStream:
    defaults = {
        "rows": ROWS,
        "sequence_len": SEQUENCE_LEN,
        "buffer_docs": 30,
        "rank": 0,
        "world_size": 1,
        "shuffle_seed": None,
        "on_bad_shard": "error",
    }
    return RowStream(corpus, TOKENIZER, start=start, **(defaults | settings))


def same(first: Batch, second: Batch) -> bool:
    return torch.equal(first.inputs, second.inputs) and torch.equal(first.targets, second.targets)


def saved_and_loaded(position):
    """Send a position through a file, as a checkpoint does."""
    file = io.BytesIO()
    torch.save(position, file)
    assert file.tell() < 100_000, "a rank may keep 100 kB"
    file.seek(0)
    return torch.load(file, weights_only=True)


def documents_in(batches) -> Counter:
    """Return how often the beginning of each document is read."""
    found = Counter()
    for batch in batches:
        for row, last in zip(batch.inputs.tolist(), batch.targets[:, -1].tolist(), strict=True):
            for piece in bytes(token % 256 if token != 256 else 0 for token in [*row, last]).split(b"\0"):
                if len(piece) >= 5:
                    found[int(piece[:5])] += 1
    return found


@pytest.mark.parametrize("shuffle_seed", [None, 7])
def test_stream_continues_exactly_at_thirty_random_places_and_again_from_there(corpus, shuffle_seed):
    settings = {"shuffle_seed": shuffle_seed, "rank": 1, "world_size": 2}
    unbroken = list(islice(stream(corpus, **settings), 300))
    draw = random.Random(0)
    for _ in range(30):
        stop = draw.randrange(280)
        continued = list(islice(stream(corpus, saved_and_loaded(unbroken[stop].position), **settings), 10))
        assert all(map(same, continued, unbroken[stop + 1 :]))
        again = list(islice(stream(corpus, saved_and_loaded(continued[4].position), **settings), 5))
        assert all(map(same, again, unbroken[stop + 6 :]))


def test_position_that_is_off_by_one_document_would_be_noticed(corpus):
    unbroken = list(islice(stream(corpus), 60))
    position = unbroken[20].position
    for changed in (
        position | {"next": position["next"] + 1},
        position | {"buffered": position["buffered"][1:]},
    ):
        continued = islice(stream(corpus, changed), 30)
        assert not all(map(same, continued, unbroken[21:]))


def test_targets_are_the_inputs_one_later_and_rows_begin_with_bos(corpus):
    for batch in islice(stream(corpus), 50):
        assert batch.inputs.shape == batch.targets.shape == (ROWS, SEQUENCE_LEN)
        assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
        assert (batch.inputs[:, 0] == TOKENIZER.bos_id).all()
        assert batch.inputs.dtype == batch.targets.dtype == torch.int64


def test_every_document_is_read_once_per_epoch_and_by_one_rank_only(corpus):
    short = {"sequence_len": 400, "rows": 1, "buffer_docs": 1}  # nothing is cropped away unseen
    for world_size in (1, 2, 3):
        ranks = [stream(corpus, rank=rank, world_size=world_size, **short) for rank in range(world_size)]
        taken = [list(islice(rank, 12 // world_size)) for rank in ranks]
        numbers = [documents_in(batches) for batches in taken]
        assert max(sum(numbers, Counter()).values()) == 1
        assert len(sum(numbers, Counter())) > 80


def test_batch_and_position_do_not_depend_on_how_far_the_loader_has_read_ahead(corpus):
    straight = [batch.position for batch in islice(stream(corpus), 20)]
    loader = torch.utils.data.DataLoader(stream(corpus), batch_size=None, num_workers=1, prefetch_factor=8)
    for batch, position in zip(islice(loader, 20), straight, strict=True):
        assert batch.position["next"] == position["next"]
        assert torch.equal(batch.position["buffered"], position["buffered"])


def test_damaged_shard_comes_as_a_failure_in_the_place_of_its_batch(corpus, tmp_path):
    damaged = write_corpus(tmp_path / "c", map(text, range(200)), val_texts=["v"], rows_per_shard=100)
    path = damaged.train[1].path
    path.write_bytes(path.read_bytes()[:-30])
    *batches, last = stream(damaged)
    assert len(batches) > 5
    assert isinstance(last, Failure)
    assert "shard_00001.parquet" in str(last)


def test_skipped_shard_is_named_in_the_position_and_stays_skipped_after_a_restart(corpus, tmp_path):
    damaged = write_corpus(
        tmp_path / "c", map(text, range(200)), val_texts=["v"], rows_per_shard=100, row_group_rows=20
    )
    path = damaged.train[0].path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (damaged.root / "MANIFEST.json").unlink()  # with it the shard would not even be begun
    damaged = open_corpus(damaged.root)
    unbroken = list(islice(stream(damaged, on_bad_shard="skip"), 100))
    skipped = [bool(batch.position["skipped"]) for batch in unbroken]
    assert (skipped[0], skipped[-1]) == (False, True)
    assert list(unbroken[-1].position["skipped"]) == ["shard_00000.parquet"]
    for stop in range(0, 60, 3):
        start = saved_and_loaded(unbroken[stop].position)
        continued = list(islice(stream(damaged, start, on_bad_shard="skip"), 5))
        assert all(map(same, continued, unbroken[stop + 1 :]))


def validation(corpus, tokens: int, rows: int = ROWS, texts=None) -> list[Batch]:
    texts = texts if texts is not None else map(text, range(1000, 1060))
    settings = {"tokens": tokens, "rows": rows, "sequence_len": SEQUENCE_LEN, "buffer_docs": 30}
    return list(validation_batches(texts, TOKENIZER, **settings))


def test_validation_rows_do_not_depend_on_the_size_of_a_batch(corpus):
    small, large = validation(corpus, 800, rows=1), validation(corpus, 800, rows=7)
    assert [len(batch.inputs) for batch in large] == [7, 7, 6]
    assert torch.equal(torch.cat([b.inputs for b in small]), torch.cat([b.inputs for b in large]))
    assert torch.equal(torch.cat([b.targets for b in small]), torch.cat([b.targets for b in large]))


def test_validation_reads_each_document_once_and_pads_what_is_missing(corpus):
    batches = validation(corpus, 10**6)
    assert set(documents_in(batches).values()) == {1}
    (tiny,) = validation(corpus, 10**6, texts=["ab"])
    assert tiny.inputs[0, :3].tolist() == [256, 97, 256]
    assert tiny.targets[0, :3].tolist() == [97, 98, -1]
    assert (tiny.inputs[0, 2:] == 256).all()


def data_module(corpus, rank=0, world_size=1, **settings) -> PretrainData:
    data = PretrainData(
        path=str(corpus.root),
        sequence_len=SEQUENCE_LEN,
        device_batch_rows=ROWS,
        batch_tokens=ROWS * SEQUENCE_LEN,
        **settings,
    )
    device = SimpleNamespace(type="cpu")
    data.trainer = SimpleNamespace(
        global_rank=rank, world_size=world_size, strategy=SimpleNamespace(root_device=device)
    )
    data.corpus_on_disk, data.tokenizer_on_disk = corpus, TOKENIZER
    return data


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_validation_batches_are_dealt_to_the_ranks(corpus, world_size):
    whole = validation(corpus, 800)
    for rank in range(world_size):
        data = data_module(corpus, rank, world_size, buffer_docs=30)
        data.eval_tokens = 800
        for _ in range(2):
            mine = list(data.val_dataloader())
            dealt, filler = whole[rank::world_size], mine[len(whole[rank::world_size]) :]
            assert len(mine) == -(-len(whole) // world_size)  # every rank takes part in every reduction
            assert all(map(same, mine, dealt))
            assert not any((batch.targets != -1).any() for batch in filler)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_checkpoint_holds_the_last_batch_trained_on_not_the_last_one_read(corpus, num_workers):
    settings = {"buffer_docs": 30, "num_workers": num_workers}
    unbroken = list(islice(stream(corpus), 40))
    data = data_module(corpus, **settings)
    batches = iter(data.train_dataloader())
    for _ in range(9):
        batch = data.on_before_batch_transfer(next(batches), 0)
    assert batch.position is None
    next(batches)  # read ahead, not trained on
    state = data.state_dict()
    continued = data_module(corpus, **settings)
    continued.load_state_dict(saved_and_loaded(state))
    assert all(map(same, islice(continued.train_dataloader(), 10), unbroken[9:]))


def leave_a_loader(corpus) -> None:
    """End a process as an exception does: while the loader is at work, and still referred to."""
    global left
    left = iter(data_module(corpus, num_workers=1, buffer_docs=30).train_dataloader())
    next(left)


def test_a_process_that_ends_by_an_exception_does_not_wait_for_its_loader(corpus):
    process = multiprocessing.get_context("fork").Process(target=leave_a_loader, args=(corpus,))
    process.start()
    process.join(30)
    code = process.exitcode
    process.kill()
    assert code == 0


@pytest.mark.timeout(60)
def test_batches_come_though_the_path_of_temporary_files_is_long(corpus, tmp_path, monkeypatch):
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    batches = data_module(corpus, num_workers=1, buffer_docs=30).train_dataloader()
    assert all(map(same, islice(batches, 5), islice(stream(corpus), 5)))


def test_where_no_folder_takes_a_socket_it_says_so(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/" + "long" * 25)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(BadInput, match="num_workers 0"):
        socket_folder()


def test_state_of_other_data_is_refused_with_both_values(corpus, tmp_path):
    state = data_module(corpus, world_size=2).state_dict()
    with pytest.raises(Failure, match="ranks 2 -> 1"):
        data_module(corpus).load_state_dict(state)
    state = data_module(corpus).state_dict()
    with pytest.raises(Failure, match="shuffle_seed None -> 3"):
        data_module(corpus, shuffle_seed=3).load_state_dict(state)
    other = write_corpus(tmp_path / "o", ["a"], val_texts=["b"], rows_per_shard=5)
    with pytest.raises(Failure, match=r"corpus .* -> "):
        data_module(other).load_state_dict(state)


def test_failure_in_the_stream_is_raised_when_its_turn_comes(corpus):
    with pytest.raises(Failure, match="broken"):
        data_module(corpus).on_before_batch_transfer(Failure("broken"), 0)


def test_skipped_shard_is_said_once(corpus, capsys):
    data = data_module(corpus)
    batch = next(iter(stream(corpus)))
    batch.position["skipped"]["a.parquet"] = (7, "a.parquet: damaged")
    for _ in range(3):
        data.on_before_batch_transfer(batch, 0)
    assert capsys.readouterr().err.count("a.parquet: damaged; its documents are skipped") == 1


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"corpus": "wrld"}, BadInput, "Did you mean world?"),
        ({"corpus": "world"}, Failure, "python cli.py data generate world"),
        ({"corpus": "fineweb_edu"}, Failure, "python cli.py data fetch --for configs/d20_base.yaml"),
        ({"path": "no/such/folder"}, BadInput, "no/such/folder"),
        ({"num_workers": 2}, BadInput, "num_workers=2"),
        ({"buffer_docs": 0}, BadInput, "buffer_docs=0"),
    ],
    ids=str,
)
def test_what_is_missing_is_named_with_its_remedy(base_dir, settings, error, said):
    with pytest.raises(error) as caught:
        PretrainData(**settings).preflight()
    assert said in str(caught.value)
    assert str(caught.value).count("\n") <= 2
    assert not base_dir.exists()


def test_missing_tokenizer_is_named_with_the_command_that_trains_it(corpus, base_dir):
    with pytest.raises(Failure, match=f"tokenizer train --corpus {corpus.root}"):
        PretrainData(path=str(corpus.root)).preflight()
