"""The command line: fast help, clear refusals, nothing created by a mistake."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_stage import VOCAB_SIZE, TinyStage

import cli
from nanochat_pl.artifacts import save_artifact
from nanochat_pl.model.config import GPTConfig
from nanochat_pl.model.gpt import GPT
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.paths import tokenizer_dir
from nanochat_pl.tokenizer.encoding import Tokenizer
from nanochat_pl.training import verbs

ROOT = Path(__file__).resolve().parent.parent
D20 = ["--config", "configs/d20_base.yaml"]


def run(capsys: pytest.CaptureFixture, *argv: str) -> tuple[int, str, str]:
    """Run the program in this process; return exit code, stdout and stderr."""
    try:
        code = cli.main(list(argv))
    except SystemExit as exit_:
        code = exit_.code
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch, base_dir):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    "line", ["--help", "report --help", "data list", "data list --help", "tokenizer train --help"]
)
def test_quick_verbs_import_neither_torch_nor_lightning(line):
    argv = line.split()
    program = (
        "import sys, cli\n"
        f"try: code = cli.main({argv!r})\n"
        "except SystemExit as exit_: code = exit_.code or 0\n"
        "assert code == 0, code\n"
        "loaded = {'torch', 'lightning', 'datasets', 'transformers'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_verb_can_be_called(capsys):
    _, out, _ = run(capsys, "--help")
    for name, verb in cli.VERBS.items():
        assert name in out
        module, function = verb.target.split(":")
        assert callable(getattr(__import__(module, fromlist=[function]), function))


def test_plan_of_d20_has_the_published_figures(capsys):
    code, out, _ = run(capsys, "plan", *D20, "--devices", "8", "--json")
    plan = json.loads(out)
    assert code == 0
    assert plan["parameters"] == 560_988_160
    assert plan["steps"] == 21_400
    assert plan["tokens"] == 11_219_763_200
    assert plan["flops_per_token"] == pytest.approx(3.491758e9, rel=1e-6)
    assert plan["total_flops"] == pytest.approx(3.918e19, rel=1e-3)
    assert plan["accumulation"] * plan["device_batch_rows"] * plan["sequence_len"] * 8 == plan["batch_tokens"]
    assert set(plan["sources"]) >= {"steps", "tokens", "flops_per_token", "batch_tokens"}


def test_plan_of_d32_by_one_option(capsys):
    _, out, _ = run(capsys, "plan", *D20, "--model.init_args.depth", "32", "--json")
    plan = json.loads(out)
    assert (plan["parameters"], plan["steps"]) == (1_879_048_192, 71_680)


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["fit", *D20], 1, "python cli.py data fetch --for configs/d20_base.yaml"),
        (["fit"], 2, "no --config"),
        (["fti", *D20], 2, "python cli.py fit"),
        (["data", "lisst"], 2, "python cli.py data list"),
        (["fit", *D20, "--trainer.max_stepz", "3"], 2, "--trainer.max_steps"),
        (["fit", *D20, "--trainer.max_step", "3"], 2, "--trainer.max_steps"),
        (["fit", *D20, "--model.init_args.depht", "4"], 2, "depth"),
        (["fit", "--config", "configs/d20_bsae.yaml"], 2, "configs/d20_base.yaml"),
        (["fit", *D20, "--model.init_args.depth", "0"], 2, "depth"),
        (["fit", *D20, "--model.init_args.depth", "four"], 2, "four"),
        (["plan", *D20, "--data.init_args.batch_tokens", "500000"], 2, "try 524288"),
        (["plan", *D20, "--devices", "0"], 2, "devices=0 is less than 1"),
        (["plan", *D20, "--devices", "-1"], 2, "devices=-1 is less than 1"),
        (["fit", *D20, "--trainer.accumulate_grad_batches", "4"], 2, "batch_tokens"),
        (["fit", *D20, "--checkpoint.keep", "1"], 2, "at least 2"),
        (["fit", *D20, "--run", "../elsewhere"], 2, "not a path"),
        (["fit", *D20, "--trainer.accelerator", "cpu", "--trainer.devices", "3.5"], 2, "devices"),
        (["fit", *D20, "--trainer.strategy", "dpp"], 2, "dpp"),
        (["fit", *D20, "--trainer.precision", "bf17"], 2, "trainer.precision"),
        (["fit", *D20, "--model.class_path", "os.system"], 2, "not of this package"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else None,
)
def test_mistake_is_answered_in_three_lines_and_creates_nothing(capsys, base_dir, argv, code, said):
    got, _, err = run(capsys, *argv)
    assert got == code, err
    assert said in err
    assert err.count("\n") <= 3
    assert "Traceback" not in err
    assert not base_dir.exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--data", "foreign_module.X"],
        ['--data={"class_path": "foreign_module.X"}'],
        ["--trainer.callbacks+=foreign_module.X"],
        ["--trainer.callbacks", "[{class_path: foreign_module.X}]"],
        ["--trainer.strategy.class_path=foreign_module.X"],
        ["--allow_external", "true", "--allow_external=false", "--model", "foreign_module.X"],
        ["--config", "FILE"],
    ],
    ids=lambda options: " ".join(options)[:40],
)
def test_code_of_others_is_refused_before_it_is_imported(capsys, tmp_path, monkeypatch, options):
    (tmp_path / "foreign_module.py").write_text("class X: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "stage.conf"  # any name, and it allows itself what it brings
    file.write_text("allow_external: true\ndata: {class_path: foreign_module.X}\n")
    options = [str(file) if option == "FILE" else option for option in options]
    code, _, err = run(capsys, "validate", *D20, *options)
    assert (code, err.splitlines()) == (
        2,
        [
            "error: class_path: foreign_module.X is not of this package, and loading it would run its code",
            "Add --allow_external true if you trust it.",
        ],
    )
    assert "foreign_module" not in sys.modules


@pytest.mark.parametrize(
    ("args", "is_closed"),
    [
        ("", True),
        ("--allow_external true", False),
        ("--allow_external=True", False),
        ("--allow_external false", True),
        ("--allow_external true --allow_external false", True),
    ],
)
def test_only_the_command_line_lets_code_of_others_in(monkeypatch, args, is_closed):
    from nanochat_pl.training import lightning_cli

    said = []
    monkeypatch.setattr(lightning_cli, "set_parsing_settings", lambda **policy: said.append(policy))
    lightning_cli.refuse_foreign_classes(args.split())
    assert (
        said
        == [{"import_path_denylist": ["*"], "import_path_allowlist": ["nanochat_pl", "lightning"]}]
        * is_closed
    )


def test_tokenizer_of_another_size_is_refused(world_base, capsys, monkeypatch):
    stage = TinyStage(world_base)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(world_base))
    argv = [
        "fit",
        "--config",
        str(stage.config),
        "--run",
        "other_size",
        "--model.init_args.vocab_size",
        "512",
    ]
    code, _, err = run(capsys, *argv)
    assert code == 2
    assert "--model.init_args.vocab_size 320" in err
    assert err.count("\n") <= 3
    assert not stage.folder("other_size").exists()


@pytest.mark.parametrize("options", [[], ["--data.init_args.tokenizer", "other"]], ids=["usual", "named"])
def test_missing_tokenizer_is_told_with_the_command_that_trains_one_that_fits(
    world_base, base_dir, capsys, monkeypatch, options
):
    shutil.copytree(world_base / "data", base_dir / "data")
    stage = TinyStage(base_dir)
    argv = ["fit", "--config", str(stage.config), *options]
    code, _, err = run(capsys, *argv)
    assert (code, err.count("\n") <= 3) == (1, True)
    command = err.strip().splitlines()[-1].removeprefix("Train it: python cli.py ")
    assert run(capsys, *command.split())[0] == 0
    monkeypatch.setattr(verbs, "_lock", lambda stage: None)
    monkeypatch.setattr(verbs, "_refuse_what_would_fail", _reached)
    code, _, err = run(capsys, *argv)
    assert "all that is needed is here" in err


@pytest.mark.parametrize(
    ("options", "is_short"),
    [
        (["--trainer.max_steps", "300000"], True),
        (["--trainer.max_steps", "4"], False),
        (["--trainer.max_steps", "300000", "--data.init_args.path", "OWN"], False),
    ],
    ids=["short", "enough", "own files"],
)
def test_fewer_shards_than_the_plan_counts_are_told_with_the_command_that_brings_the_rest(
    world_base, base_dir, capsys, monkeypatch, options, is_short
):
    folder = base_dir / "data" / "fineweb_edu"
    shutil.copytree(world_base / "data" / "world", folder)
    shutil.copytree(world_base / "tokenizers", base_dir / "tokenizers")
    config = TinyStage(base_dir).config
    monkeypatch.setattr(verbs, "_lock", lambda stage: None)
    monkeypatch.setattr(verbs, "_prepare", lambda stage, *_: _reached(stage))
    settings = ["--data.init_args.corpus", "fineweb_edu", "--data.init_args.tokenizer", "world"]
    options = [str(folder) if option == "OWN" else option for option in options]
    _, _, err = run(capsys, "fit", "--config", str(config), *settings, *options)
    assert "all that is needed is here" in err
    warning = [
        f"warning: {folder}: 1 of the 3 training shards of the plan are here; documents will repeat",
        f"Get the rest: python cli.py data fetch --for {config} --shards 3",
    ]
    assert [line for line in err.splitlines() if line.startswith(("warning", "Get"))] == warning * is_short


def _reached(stage):
    raise Failure("all that is needed is here")


@pytest.fixture
def unlocked(monkeypatch):
    """A run's lock is held until the process ends, and this one goes on to other tests."""
    monkeypatch.setattr(verbs, "_lock", lambda stage: None)


@pytest.mark.usefixtures("unlocked")
def test_a_full_disk_is_told_before_the_run_has_a_folder(world_base, capsys, monkeypatch):
    stage = TinyStage(world_base)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(world_base))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    code, _, err = run(capsys, "fit", "--config", str(stage.config), "--run", "no_space")
    assert (code, err.count("\n")) == (1, 2)
    assert "two checkpoints need" in err
    assert not stage.folder("no_space").exists()


@pytest.mark.usefixtures("unlocked")
@pytest.mark.parametrize("options", [[], ["--fresh"]], ids=["new", "fresh"])
def test_damaged_weights_to_start_from_are_told_before_the_run_has_a_folder(
    world_base, tmp_path, capsys, monkeypatch, options
):
    stage = TinyStage(world_base)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(world_base))
    tokenizer = Tokenizer.load(tokenizer_dir("world"))
    config = GPTConfig.from_depth(2, vocab_size=VOCAB_SIZE, sequence_len=32, aspect_ratio=16, head_dim=16)
    save_artifact(tmp_path / "start", GPT.materialized(config, device="cpu"), tokenizer, {})
    weights = tmp_path / "start" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    old = stage.folder("damaged_start")
    shutil.rmtree(old, ignore_errors=True)
    if options:
        (old / "metrics").mkdir(parents=True)
    argv = ["fit", "--config", str(stage.config), "--run", "damaged_start", *options]
    code, _, err = run(capsys, *argv, "--model.init_args.init_from", str(tmp_path / "start"))
    assert (code, err.count("\n")) == (1, 2), err
    assert f"{weights}: damaged or altered" in err
    assert (old / "metrics").exists() is bool(options)  # the run that was there is not moved aside
    assert not (old / "config.yaml").exists()


def test_prompts_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "prompts").write_bytes(b"\xff\xfe\x00")
    stage = SimpleNamespace(config=SimpleNamespace(prompts=str(tmp_path / "prompts")))
    with pytest.raises(BadInput, match="is no text in UTF-8"):
        verbs._prompts(stage)


@pytest.mark.parametrize("name", ["..", ".", "a/b"])
def test_repackage_refuses_a_name_that_leads_elsewhere(base_dir, tmp_path, capsys, name):
    (tmp_path / "a.txt").write_text("one\n\ntwo")
    code, _, err = run(capsys, "data", "repackage", str(tmp_path), "--name", name, "--force", "true")
    assert (code, "a name, not a path" in err) == (2, True)
    assert not base_dir.exists()


@pytest.mark.parametrize(
    ("further", "remedy"),
    [
        (("b.txt",), "Replace the file or take it away; training can pass it over"),
        ((), "Replace the file: a shard for validation is never passed over"),
    ],
    ids=["for training", "for validation"],
)
def test_repackage_tells_a_damaged_file_with_a_remedy_that_there_is(
    base_dir, tmp_path, capsys, further, remedy
):
    (tmp_path / "a.txt").write_bytes(b"\xff")
    for name in further:
        (tmp_path / name).write_text("one document\n\nanother\n")
    code, _, err = run(capsys, "data", "repackage", str(tmp_path), "--name", "mine")
    assert code == 1
    assert "a.txt" in err
    assert remedy in err
    assert len(err.splitlines()) == 2


def spoil(folder: Path, how: str) -> None:
    """Make the first shard of a corpus unusable."""
    shard = folder / "shard_00000.parquet"
    if how == "truncated":
        shard.write_bytes(shard.read_bytes()[:-100])
    elif how == "without text":
        pq.write_table(pa.table({"content": ["a", "b"]}), shard)
    elif how == "not parquet":
        shard.write_text("<html>404</html>")
    elif how == "empty":
        shard.write_bytes(b"")


@pytest.mark.parametrize("manifest", [True, False])
@pytest.mark.parametrize("how", ["truncated", "without text", "not parquet", "empty"])
def test_bad_shard_is_named_before_anything_is_created(
    world_base, tmp_path, capsys, monkeypatch, how, manifest
):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(world_base))
    texts = tmp_path / "world"
    shutil.copytree(world_base / "data" / "world", texts)
    spoil(texts, how)
    if not manifest:
        (texts / "MANIFEST.json").unlink()
    config = TinyStage(world_base).config
    argv = ["fit", "--config", str(config), "--run", "bad_shard", "--data.init_args.path", str(texts)]
    code, _, err = run(capsys, *argv)
    assert code == 1, err
    assert "shard_00000.parquet" in err
    assert "Replace the file or take it away; training can pass it over: --data" in err
    assert err.count("\n") <= 3
    assert not (world_base / "runs" / "bad_shard").exists()


@pytest.mark.parametrize("number", [0, 1], ids=["training", "validation"])
@pytest.mark.parametrize("name", ["world", "fineweb_edu"])
@pytest.mark.parametrize("manifest", [True, False])
def test_bad_shard_of_a_known_corpus_is_told_with_the_command_that_brings_it_anew(
    world_base, base_dir, capsys, name, number, manifest
):
    folder = base_dir / "data" / name
    shutil.copytree(world_base / "data" / "world", folder)
    shard = folder / f"shard_0000{number}.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    if not manifest:
        (folder / "MANIFEST.json").unlink()
    config = TinyStage(base_dir).config
    code, _, err = run(capsys, "fit", "--config", str(config), "--data.init_args.corpus", name)
    assert code == 1, err
    complaint, remedy = err.splitlines()
    settings = " --documents 600 --val_documents 600 --seed 0 --towns 60 --held_out_described true"
    obtain = {
        "fineweb_edu": f"data fetch --for {config}",
        "world": f"data generate world{settings * manifest} --force true",
    }
    skip = "" if number else "; or pass it over: --data.init_args.on_bad_shard skip"
    assert complaint.startswith(f"error: {shard}: ")
    assert remedy == f"Bring it anew: python cli.py {obtain[name]}{skip}"


@pytest.mark.parametrize("files", [{}, {"a.txt": ""}, {"a.txt": "one document"}, {"a.pdf": "x"}], ids=str)
def test_folder_without_enough_text_is_refused(base_dir, tmp_path, capsys, files):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    code, _, err = run(
        capsys, "fit", "--config", "configs/demo_base.yaml", "--data.init_args.path", str(folder)
    )
    assert code == 1, err
    assert "texts" in err
    assert err.count("\n") <= 3
    assert not base_dir.exists()


def mistyped(name: str, draw: random.Random) -> str:
    """Return `name` with one letter doubled, dropped, replaced, or two swapped."""
    place = draw.randrange(1, len(name) - 1)
    swapped = name[:place] + name[place + 1] + name[place] + name[place + 2 :]
    doubled = name[:place] + name[place] + name[place:]
    dropped = name[:place] + name[place + 1 :]
    replaced = name[:place] + draw.choice("qxz") + name[place + 1 :]
    return next(typo for typo in draw.sample([swapped, doubled, dropped, replaced], 4) if typo != name)


def test_typing_mistakes_are_answered_with_what_was_meant(capsys):
    draw = random.Random(20)
    options = [
        *[
            "trainer.max_steps",
            "trainer.devices",
            "trainer.precision",
            "trainer.strategy",
            "trainer.accelerator",
        ],
        *[
            "trainer.log_every_n_steps",
            "seed_everything",
            "checkpoint.every_n_steps",
            "samples.max_new_tokens",
        ],
        *["bits_per_byte.tokens"],
    ]
    keys = ["depth", "vocab_size", "matrix_lr", "embedding_lr", "warmdown_ratio", "target_flops", "head_dim"]
    right = 0
    for option in options:
        head, dot, leaf = option.rpartition(".")
        _, _, err = run(capsys, "fit", *D20, f"--{head}{dot}{mistyped(leaf, draw)}", "1")
        right += f"--{option}?" in err
    for key in keys:
        _, _, err = run(capsys, "fit", *D20, f"--model.init_args.{mistyped(key, draw)}", "1")
        right += f"mean {key}?" in err
    for verb in ("validate", "predict", "plan"):
        with pytest.raises(BadInput, match=f"cli.py {verb}"):
            cli.split_verb([mistyped(verb, draw)])
        right += 1
    assert right >= 18, f"{right} of 20"


def test_debug_shows_the_traceback():
    with pytest.raises(BadInput):
        cli.main(["fit", "--debug"])


def test_no_environment_variable_changes_the_configuration(capsys, monkeypatch):
    monkeypatch.setitem(os.environ, "PL_TRAINER__MAX_STEPS", "7")
    _, out, _ = run(capsys, "plan", *D20, "--json")
    assert json.loads(out)["steps"] == 21_400


@pytest.mark.parametrize(("variable", "lines"), [("SLURM_PROCID", 0), ("LOCAL_RANK", 0), ("HOME", 2)])
def test_bad_input_is_said_by_one_rank(monkeypatch, capsys, variable, lines):
    monkeypatch.setenv(variable, "3")
    assert cli.main(["fitt"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == lines


@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_gpu_that_torch_does_not_see_is_missed_before_anything_is_made(
    base_dir, capsys, monkeypatch, accelerator
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    code, _, err = run(capsys, "fit", *D20, "--trainer.accelerator", accelerator)
    assert code == 1
    problem, remedy = err.splitlines()
    assert f"trainer.accelerator={accelerator}, but torch {torch.__version__} sees no GPU here" in problem
    assert "python cli.py doctor" in remedy
    assert not (base_dir / "runs").exists()


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
def test_logger_whose_package_is_not_installed_is_named(capsys):
    code, _, err = run(capsys, "fit", *D20, "--trainer.logger", "lightning.pytorch.loggers.WandbLogger")
    assert code == 2
    problem, remedy = err.splitlines()
    assert problem.startswith("error: lightning.pytorch.loggers.WandbLogger: Requirement 'wandb")
    assert problem.endswith("' not met")
    assert "TensorBoard and metrics/*.jsonl are always written" in remedy
    assert remedy.endswith(".venv/bin/uv pip install --python .venv/bin/python PACKAGE")


@pytest.mark.skipif(find_spec("torch_xla") is not None, reason="torch_xla is installed")
def test_accelerator_whose_package_is_not_installed_is_named(capsys):
    code, _, err = run(capsys, "fit", *D20, "--trainer.accelerator", "tpu")
    assert (code, err) == (2, "error: trainer: Requirement 'torch_xla>=1.13' not met\n")


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (["fit", *D20], "torch"),
        (["fit", *D20], "lightning"),
        (["chat", "--prompt", "hi"], "nanochat_pl._rustbpe"),
        (["plan", *D20], "torch"),
        (["data", "list"], "jsonargparse"),
    ],
)
def test_what_the_installation_lacks_is_named_with_the_command_that_brings_it(arguments, missing):
    program = (
        "import sys, cli\n"
        "class Lacks:\n"
        "    def find_spec(name, *_):\n"
        f"        if name == {missing!r}: raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Lacks)\n"
        f"sys.exit(cli.main({arguments!r}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    problem, remedy = done.stderr.splitlines()
    assert ("rustbpe is not built" if "rust" in missing else f"{missing} is not installed") in problem
    assert remedy.endswith("make install")


def old_pythons() -> list[Path]:
    """Return interpreters of this machine that are too old."""
    names = [shutil.which(f"python3.{minor}") for minor in (6, 7, 8, 9)]
    managed = Path.home().glob(".pyenv/versions/3.[6789].*/bin/python")
    return [*(Path(name) for name in names if name), *managed]


@pytest.mark.skipif(not old_pythons(), reason="no Python older than 3.10 is here")
def test_python_that_is_too_old_is_refused():
    for python in old_pythons():
        done = subprocess.run([python, "cli.py", "doctor"], capture_output=True, text=True, check=False)
        if "pyenv" in done.stderr:  # a name without an interpreter behind it
            continue
        assert done.returncode == 2
        problem, *remedies = done.stderr.splitlines()
        assert problem.startswith("error: Python 3.")
        assert problem.endswith(" is too old; 3.10 or newer is needed")
        assert remedies[1].endswith("make clean; make install PYTHON=python3.12")
        assert len(remedies) == 2
