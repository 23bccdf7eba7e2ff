"""Fill in the templates: `python slurm/render.py --config slurm/site.yaml` writes `slurm/rendered/*.sbatch`.

Values come from the file and from variables `NANOCHAT_<KEY>`, which win; a key that neither has takes its default.
What has no value is refused by name. A line
`##SBATCH --option={{key}}` becomes a directive if the key has a value and is left out if it is null; elsewhere a
placeholder stands between double quotes.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
TEMPLATES = ("site.sh", "train.sbatch", "pipeline.sbatch", "sweep.sbatch")
PLACEHOLDER = re.compile(r"\{\{([a-z_]+)\}\}")
UNSET = "???"
# Every key and its default, as text; None leaves its directive out. `site.yaml`, the file to edit, repeats them.
DEFAULTS: dict[str, str | None] = {
    "account": UNSET,
    "partition": UNSET,
    "qos": None,
    "nodes": "1",
    "tasks_per_node": "8",
    "cpus_per_task": "8",
    "gres": "gpu:8",
    "mem": None,
    "time": "12:00:00",
    "margin_s": "180",
    "mail_user": None,
    "mail_type": None,
    "modules": None,
    "scratch": UNSET,
    "venv": ".venv",
    "size": "d20",
    "configs": "configs",
    "overlay": "configs/hardware/gpu8.yaml",
    "corpus": "fineweb_edu",
    "vocab_size": "65536",
    "max_restarts": "100",
    "max_crashes": "3",
}
# The least of what has to be a whole number.
LEAST = {
    "nodes": 1,
    "tasks_per_node": 1,
    "cpus_per_task": 1,
    "margin_s": 0,
    "vocab_size": 1,
    "max_restarts": 0,
    "max_crashes": 0,
}
NEEDED = ("venv", "size", "configs", "corpus", "vocab_size", "max_restarts", "max_crashes")
MOST = 10**9
SHOWN_CHARACTERS = 40  # of what was not expected, which may be anything


class Refused(ValueError):
    """The values do not fill the templates; the message says which."""


def main(argv: list[str] | None = None) -> int:
    """Render everything, or say in three lines at most why not."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--config", type=Path, default=None, help="the cluster's values, see slurm/site.yaml")
    parser.add_argument("--out", type=Path, default=HERE / "rendered", help="folder of the rendered files")
    options = parser.parse_args(argv)
    try:
        for path in render_all(options.config, options.out.absolute(), os.environ):
            print(path)
    except Refused as refused:
        print(f"error: {refused}", file=sys.stderr)
        return 2
    return 0


def render_all(config: Path | None, out: Path, environment: Mapping[str, str]) -> list[Path]:
    """Write the rendered templates to `out` and make the folder of logs, which SLURM does not.

    Raises:
        Refused: a value is missing or cannot be used.
    """
    values = read_values(config, environment)
    check(values)
    base_dir = _scratch(values["scratch"] or "") / "nanochat_pl"
    values |= {
        "base_dir": str(base_dir),
        "logs": str(base_dir / "slurm_logs"),
        "root": str(HERE.parent),
        "rendered": str(out),
    }
    rendered = {name: render((HERE / name).read_text(encoding="utf-8"), values) for name in TEMPLATES}
    try:
        (base_dir / "slurm_logs").mkdir(parents=True, exist_ok=True)
        out.mkdir(parents=True, exist_ok=True)
        for name, text in rendered.items():
            (out / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise Refused(
            f"{error.filename}: {error.strerror}\nGive a scratch and an --out that can be written."
        ) from None
    return [out / name for name in TEMPLATES]


def _scratch(value: str) -> Path:
    scratch = Path(os.path.expandvars(value)).expanduser()
    if not scratch.is_absolute() or "$" in str(scratch):
        raise Refused(f"scratch: {value}\nGive an absolute path that all nodes see.")
    if "%" in str(scratch):
        raise Refused(f"scratch: {value}\nGive a path without %, which SLURM replaces in the names of logs.")
    return scratch


def check(values: Mapping[str, str | None]) -> None:
    """Find what would fail only in a job.

    Raises:
        Refused: a number is none or out of range, a value is needed, or a file is missing.
    """
    for key in NEEDED:
        if values[key] is None:
            raise Refused(f"{key}: null\nGive a value; the default is {DEFAULTS[key]}.")
    for key, least in LEAST.items():
        value = values[key]
        if value is not None and not (re.fullmatch(r"[0-9]{1,10}", value) and least <= int(value) <= MOST):
            raise Refused(f"{key}: {value[:SHOWN_CHARACTERS]}\nGive a whole number from {least} to {MOST:,}.")
    files = [f"{values['configs']}/{values['size']}_{stage}.yaml" for stage in ("base", "mid", "sft")]
    for key, file in [("configs and size", file) for file in files] + [("overlay", values["overlay"])]:
        if file is not None and not (HERE.parent / file).is_file():
            raise Refused(f"{key}: {file}: no such file\nGive one in {HERE.parent}, or an absolute path.")


def read_values(config: Path | None, environment: Mapping[str, str]) -> dict[str, str | None]:
    """Return a value, or None, for every key of `DEFAULTS`.

    Raises:
        Refused: a key is unknown, or one has no value.
    """
    given = _read_yaml(config) if config else {}
    for key in given:
        if key not in DEFAULTS:
            near = get_close_matches(key, DEFAULTS, n=1)
            raise Refused(
                f"{config}: unknown key {key[:SHOWN_CHARACTERS]}\n"
                + (f"Did you mean {near[0]}?" if near else f"Known: {', '.join(DEFAULTS)}")
            )
    found = {key: environment.get(_variable(key), given.get(key, value)) for key, value in DEFAULTS.items()}
    unset = [key for key, value in found.items() if value == UNSET]
    if unset:
        variables = ", ".join(map(_variable, unset))
        raise Refused(
            f"{config or 'no --config'}: no value for {', '.join(unset)}\n"
            f"Replace {UNSET} there (null leaves a line out), or set {variables}."
        )
    _tell_what_won(given, config, environment)
    return {key: None if value in (None, "", "null") else str(value) for key, value in found.items()}


def _variable(key: str) -> str:
    return f"NANOCHAT_{key.upper()}"


def _tell_what_won(given: Mapping[str, Any], config: Path | None, environment: Mapping[str, str]) -> None:
    """Name the variables that say something else than the file: they may be left over from another run."""
    won = [
        _variable(key)
        for key, value in given.items()
        if environment.get(_variable(key), value or "") != (value or "")
    ]
    if won:
        print(f"note: {', '.join(won)} of your shell won over {config}", file=sys.stderr)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        # BaseLoader: everything is text, so that 12:00:00 is not a number of seconds.
        values = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)
    except OSError as error:
        raise Refused(f"--config {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise Refused(f"--config {path}: is not UTF-8 ({error.reason} at byte {error.start})") from None
    except yaml.YAMLError as error:
        raise Refused(f"--config {path}: is not YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise Refused(f"--config {path}: give one line `key: value` for each key, as in slurm/site.yaml")
    return {key: None if value in ("null", "~", "") else value for key, value in values.items()}


def render(template: str, values: Mapping[str, str | None]) -> str:
    """Return a template with its placeholders filled in.

    Raises:
        Refused: a value cannot stand in a directive.
    """
    return "".join(
        line for line in (_rendered(line, values) for line in template.splitlines(keepends=True)) if line
    )


def _rendered(line: str, values: Mapping[str, str | None]) -> str | None:
    """Return a line filled in; None if it is a directive without a value."""
    keys = PLACEHOLDER.findall(line)
    if line.startswith("##SBATCH"):
        if any(values[key] is None for key in keys):
            return None
        return PLACEHOLDER.sub(lambda match: _for_directive(match[1], values), line[1:])
    return PLACEHOLDER.sub(lambda match: re.sub(r'(["\\$`])', r"\\\1", values[match[1]] or ""), line)


def _for_directive(key: str, values: Mapping[str, str | None]) -> str:
    value = values[key] or ""
    if re.search(r"[\s\"'\\#;`$]", value):
        raise Refused(f"{key}: {value!r} cannot stand in an #SBATCH line; leave out spaces, quotes and $")
    return value


if __name__ == "__main__":
    sys.exit(main())
