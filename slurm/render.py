"""Fill in the templates: `python slurm/render.py --config slurm/site.yaml` writes `slurm/rendered/*.sbatch`.

Values come from the file and from variables `NANOCHAT_<KEY>`, which win. What has no value is refused by name. A line
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
    scratch = Path(os.path.expandvars(values["scratch"])).expanduser()
    if not scratch.is_absolute() or "$" in str(scratch):
        raise Refused(f"scratch: {values['scratch']}\nGive an absolute path that all nodes see.")
    base_dir = scratch / "nanochat_pl"
    values |= {
        "base_dir": str(base_dir),
        "logs": str(base_dir / "slurm_logs"),
        "root": str(HERE.parent),
        "rendered": str(out),
    }
    rendered = {name: render((HERE / name).read_text(encoding="utf-8"), values) for name in TEMPLATES}
    out.mkdir(parents=True, exist_ok=True)
    (base_dir / "slurm_logs").mkdir(parents=True, exist_ok=True)
    for name, text in rendered.items():
        (out / name).write_text(text, encoding="utf-8")
    return [out / name for name in TEMPLATES]


def read_values(config: Path | None, environment: Mapping[str, str]) -> dict[str, str | None]:
    """Return a value, or None, for every key; the keys and their defaults are those of `slurm/site.yaml`.

    Raises:
        Refused: a key is unknown, or one has no value.
    """
    defaults = _read_yaml(HERE / "site.yaml")
    given = _read_yaml(config) if config else {}
    for key in given:
        if key not in defaults:
            near = get_close_matches(key, defaults, n=1)
            raise Refused(
                f"{config}: unknown key {key}\n"
                + (f"Did you mean {near[0]}?" if near else f"Known: {', '.join(defaults)}")
            )
    found = {
        key: environment.get(f"NANOCHAT_{key.upper()}", given.get(key, value))
        for key, value in defaults.items()
    }
    unset = [key for key, value in found.items() if value == UNSET]
    if unset:
        variables = ", ".join(f"NANOCHAT_{key.upper()}" for key in unset)
        raise Refused(
            f"{config or 'no --config'}: no value for {', '.join(unset)}\n"
            f"Replace {UNSET} there (null leaves a line out), or set {variables}."
        )
    return {key: None if value in (None, "", "null") else str(value) for key, value in found.items()}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        # BaseLoader: everything is text, so that 12:00:00 is not a number of seconds.
        values = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)
    except OSError as error:
        raise Refused(f"--config {path}: {error.strerror}") from None
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
