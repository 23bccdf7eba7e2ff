"""Command lines that answer a typing mistake with what was meant.

jsonargparse reports every mistake through `error`; here its text is cut to one line, the nearest known name is
added, and the whole becomes a `BadInput`. Abbreviated options are refused: `--trainer.max_step` is a mistake, not a
short form, and must not become one the day a second option starts alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from nanochat_pl.system.errors import BadInput

SIMILAR_ENOUGH, ALMOST_EQUAL = 0.6, 0.9
VALUE_FOR_SECTION = re.compile(r"""Parser key "([\w.]+)":\s*Unable to load config ['"](.*?)['"]""")
OFF = ("timeout_s 0", "every_n_steps 0", "enabled false")  # the settings that turn sections off
ONE_VALUE = bool | int | float | str | list | None


class Suggesting:
    """A mixin for jsonargparse parsers; put it first.

    Attributes:
        further_names: names that may stand in a configuration although the parser has no option for them,
            such as the parameters of a class chosen by `class_path`.
    """

    further_names: tuple[str, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.allow_abbrev = False

    def error(self, message: str, ex: Exception | None = None) -> None:
        """Raise a BadInput that says what was wrong and what is near."""
        raise BadInput(explain(message, {*self._option_names(), *self.further_names})) from None

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse as jsonargparse does; it lets a file set a section to one value, which is refused here."""
        config = super().parse_args(*args, **kwargs)
        known = self._option_names()
        for name, value in vars(config).items():
            if isinstance(value, ONE_VALUE) and _is_section(name, known):
                raise BadInput(not_a_section(name, value, known))
        return config

    def _option_names(self) -> set[str]:
        options = {
            name for action in self._actions for name in action.option_strings if name.startswith("--")
        }
        return options | {option.removeprefix("--") for option in options}


def explain(message: str, known: Iterable[str]) -> str:
    """Turn a parser's message into at most three lines with a suggestion.

    Args:
        message: what jsonargparse said; it may span many lines.
        known: every option and key that exists.
    """
    known = set(known)
    found = VALUE_FOR_SECTION.search(message)
    if found and _is_section(found[1], known):
        return not_a_section(found[1], found[2], known)
    what = re.sub(r" Did you mean [^?]*\?", "", _essence(message))  # argparse has a guess of its own
    wrong = _wrong_name(what)
    hint = _nearest_file(wrong) if _names_a_file(what) else nearest(wrong, known)
    return f"{what}\nDid you mean {hint}?" if hint else what


def not_a_section(name: str, value: object, known: set[str]) -> str:
    """Return what to say of one value given to a section, which has settings of its own, such as `--watchdog false`."""
    off = next((f"--{name}.{setting}" for setting in OFF if f"--{name}.{setting.split()[0]}" in known), None)
    remedy = f"Turn it off: {off}" if off else f"Set one of them: --{name}.SETTING VALUE"
    return f"{name}: is a section of several settings, {value!r} is none of them\n{remedy}"


def _is_section(name: str, known: set[str]) -> bool:
    """Tell whether a name is that of a group of options; what a class is chosen for has an option `help`."""
    return f"--{name}.help" not in known and any(option.startswith(f"--{name}.") for option in known)


def nearest(wrong: str, known: Iterable[str]) -> str | None:
    """Return the known name most like `wrong`, as long as it would be typed in its place; None if nothing is near."""
    names = sorted(set(known))
    leaves = {name.split(".")[-1].removeprefix("--"): name for name in names}
    head, dot, leaf = wrong.rpartition(".")
    if matches := get_close_matches(wrong, names, n=1, cutoff=ALMOST_EQUAL):
        return matches[0]
    if matches := get_close_matches(leaf.removeprefix("--"), leaves, n=1, cutoff=SIMILAR_ENOUGH):
        return f"{head}{dot}{matches[0]}" if dot else leaves[matches[0]]
    if matches := get_close_matches(wrong, names, n=1, cutoff=SIMILAR_ENOUGH):
        return matches[0]
    in_small_letters = {name.lower(): name for name in names}
    matches = get_close_matches(wrong.lower(), in_small_letters, n=1, cutoff=SIMILAR_ENOUGH)
    return in_small_letters[matches[0]] if matches else None


def _essence(message: str) -> str:
    """Return the lines of a message that tell a person something, joined into one."""
    lines = [line.strip(" -") for line in message.splitlines()]
    noise = ("Does not validate", "Subtypes:", "Errors:", "Given value", "Expected a <class 'NoneType'>")
    kept = [line for line in lines if line and not line.startswith(noise)]
    return re.sub(r"<class '([\w.]+)'>", r"\1", " ".join(kept))[:400]


def _wrong_name(what: str) -> str:
    """Return the name a message complains about."""
    for pattern in (
        r"[Uu]nrecognized arguments: ([^\s=]+)",
        r"does not accept option '([^']+)'",
        r"'([^']+)'",
    ):
        if found := re.search(pattern, what):
            return found.group(1)
    return ""


def _names_a_file(what: str) -> bool:
    return "does not exist" in what


def _nearest_file(path: str) -> str | None:
    """Return the file beside a missing one whose name is most like it."""
    folder = Path(path).parent
    here = [file.name for file in folder.glob("*") if file.is_file()] if folder.is_dir() else []
    matches = get_close_matches(Path(path).name, here, n=1, cutoff=SIMILAR_ENOUGH)
    if not matches:
        return None
    found = folder / matches[0]
    return str(found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found)
