"""The one entry of nanochat_pl: `python cli.py VERB …`. See `python cli.py --help` and docs/reference/cli.md.

A verb is a function named here and imported when it is called; nothing heavier than the standard library is needed to
print the list or to catch a mistyped verb. What a verb does stands with its function, not here.
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036  # one from 3.6 on can read this file, but not those below
    print("error: Python %d.%d is too old; 3.10 or newer is needed" % sys.version_info[:2], file=sys.stderr)  # noqa: UP031
    print("Use that of the installation: .venv/bin/python cli.py", file=sys.stderr)
    print("Where that is missing or old too: make clean; make install PYTHON=python3.12", file=sys.stderr)
    sys.exit(2)

import gc
import json
import os
import re
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from inspect import signature
from itertools import zip_longest
from typing import Any, NamedTuple

from nanochat_pl.system import signals
from nanochat_pl.system.errors import BadInput, Failure, told
from nanochat_pl.system.output import open_streams, outlast_log, outlast_reader


class Verb(NamedTuple):
    """Where a verb's function stands, and one line about it."""

    target: str
    summary: str
    parses_itself: bool = False
    positional: bool = False  # what has no default is given without a name
    first_word: str = ""  # the option that a first word without a name is the value of
    is_for_a_reader: bool = False  # what it does is only what it prints: it ends when nobody reads any more


CRATE = "nanochat_pl._rustbpe"

VERBS = {
    "fit": Verb("nanochat_pl.training.verbs:fit", "train a stage; the same command again continues", True),
    "validate": Verb(
        "nanochat_pl.training.verbs:validate", "bits per byte on the pinned validation split", True
    ),
    "test": Verb("nanochat_pl.training.testing:test", "a stage's whole evaluation", True),
    "predict": Verb("nanochat_pl.training.verbs:predict", "continue prompts", True, is_for_a_reader=True),
    "plan": Verb("nanochat_pl.commands.plan:plan", "every number of a run and where it comes from", True),
    "data list": Verb("nanochat_pl.commands.data:list_data", "what the stages need, and what is here"),
    "data check": Verb("nanochat_pl.commands.data:check", "verify sizes and hashes of what a stage needs"),
    "data fetch": Verb("nanochat_pl.commands.data:fetch", "download what a stage needs, verified"),
    "data generate": Verb(
        "nanochat_pl.commands.data:generate", "write the embedded world's shards", positional=True
    ),
    "data repackage": Verb(
        "nanochat_pl.commands.data:repackage", "make shards from files of your own", positional=True
    ),
    "tokenizer train": Verb("nanochat_pl.commands.tokenizer:train", "train the byte-level BPE in Rust"),
    "tokenizer show": Verb(
        "nanochat_pl.commands.tokenizer:show", "a conversation's tokens and what is learned", positional=True
    ),
    "chat": Verb(
        "nanochat_pl.chat.terminal:chat", "talk to a model, in the terminal or by pipe", is_for_a_reader=True
    ),
    "report": Verb("nanochat_pl.report.verb:report", "the report card of a chain of runs, from their files"),
    "export": Verb("nanochat_pl.commands.export:export", "write a model for other programs: Hugging Face"),
    "import": Verb(
        "nanochat_pl.commands.import_checkpoint:import_checkpoint",
        "turn a checkpoint of nanochat into a model",
    ),
    "doctor": Verb(
        "nanochat_pl.commands.doctor:doctor", "the machine, and the command that mends each finding"
    ),
    "status": Verb(
        "nanochat_pl.commands.status:status", "where a run stands, also after a crash", first_word="--run"
    ),
    "demo": Verb("nanochat_pl.demo.road:demo", "the whole road on a laptop, offline"),
}


def main(argv: list[str]) -> int:
    """Run one verb and return the exit code: 0 done, 1 failed, 2 bad input, 75 preempted, 130 interrupted."""
    debug = "--debug" in argv
    argv = [arg for arg in argv if arg != "--debug"]
    open_streams()
    outlast_log()
    try:
        code = run(argv)
        sys.stdout.flush()  # results that the disk does not take are an error like another
        return code
    except (BadInput, Failure) as error:
        if debug:
            raise
        is_said_already = isinstance(error, BadInput) and is_further_rank()  # it is as wrong on every rank
        if not is_said_already:
            print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except (OSError, MemoryError) as error:
        if debug:
            raise
        print(f"error: {told(error)}", file=sys.stderr)
        return Failure.exit_code
    except ModuleNotFoundError as error:
        lacking = what_lacks(error.name or "nanochat_pl")  # an error without a name is none of an import
        if debug or not lacking:
            raise
        print(f"error: {lacking}", file=sys.stderr)
        return Failure.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return signals.INTERRUPTED


def what_lacks(module: str) -> str:
    """Return what of the installation is not there, and what brings it; "" of a module of this package."""
    if module == CRATE:
        return "the crate rustbpe is not built\nBuild it: make install"
    package = module.split(".")[0]
    if package == "nanochat_pl":
        return ""
    return (
        f"{package} is not installed for {sys.executable}\n"
        "Run .venv/bin/python cli.py …, which `make install` makes; where it is that one: make clean; make install"
    )


def is_further_rank() -> bool:
    """Tell whether a launcher started this process beside another that says the same."""
    return any(os.environ.get(name, "0") != "0" for name in ("SLURM_PROCID", "RANK", "LOCAL_RANK"))


def run(argv: list[str]) -> int:
    """Find the verb in the command line and do it, whether or not somebody reads what it prints."""
    if not argv or argv[0] in ("-h", "--help"):
        outlast_reader()
        print(overview())
        return 0
    name, args = split_verb(argv)
    is_for_a_reader = VERBS[name].is_for_a_reader
    outlast_reader(ends_with_reader=is_for_a_reader)
    try:
        return do(name, args)
    except BrokenPipeError:
        if not is_for_a_reader:
            raise
        return 0  # whoever reads has enough, such as `head`
    except SystemExit as leaving:  # by the parser, after `--help`
        if leaving.code:
            raise
        return 0


def do(name: str, args: list[str]) -> int:
    """Call a verb with what follows it in the command line."""
    verb = VERBS[name]
    if verb.parses_itself and {"-h", "--help"} & set(args):
        return stage_help(name, args)
    if name == "test" and any(arg.split("=")[0] == "--hf" for arg in args):
        return call(name, imported("nanochat_pl.commands.hf_core:hf_core"), args)
    if name == "fit":
        signals.listen()  # a stop signal during the imports below must not be lost, nor kill the run half-way
    if name == "test":
        signals.leave_at_once()  # what is done is kept as it goes, so a scheduler need not wait
    target = imported(verb.target)
    return target(args) if verb.parses_itself else call(name, target, args)


def stage_help(name: str, args: list[str]) -> int:
    """Print what a stage's verb accepts; `--help all` prints what Lightning's parser says."""
    if "all" in args:
        return imported(VERBS[name].target)(["--help"])
    print(imported("nanochat_pl.commands.stage_help:stage_help")(name))
    return 0


def imported(target: str) -> Callable[..., Any]:
    """Return a verb's function; the collector rests meanwhile, for imports make many objects and no garbage."""
    module, function = target.split(":")
    gc.disable()
    try:
        return getattr(import_module(module), function)
    finally:
        gc.enable()


def split_verb(argv: list[str]) -> tuple[str, list[str]]:
    """Split a command line into a verb of one or two words and its arguments.

    Raises:
        BadInput: there is no such verb.
    """
    for words in (2, 1):
        if " ".join(argv[:words]) in VERBS:
            return " ".join(argv[:words]), argv[words:]
    family = [name for name in VERBS if name.split()[0] == argv[0]]
    typed = " ".join(argv[: 2 if family else 1])
    near = get_close_matches(typed, family or [*VERBS, *{name.split()[0] for name in VERBS}], n=1, cutoff=0.5)
    hint = (
        f"Did you mean: python cli.py {near[0]}" if near else f"Choose one of: {', '.join(family or VERBS)}"
    )
    raise BadInput(f"no verb {typed!r}\n{hint}")


def call(name: str, target: Callable[..., None], args: list[str]) -> int:
    """Parse the arguments of a plain function from its signature, and call it."""
    from jsonargparse import ArgumentParser

    from nanochat_pl.system.parsing import Suggesting

    class Parser(Suggesting, ArgumentParser):
        """A plain verb's parser."""

        def error(self, message: str, ex: Exception | None = None) -> None:
            if not VERBS[name].positional:
                message = re.sub(r"(?<=required: ).+", _as_options, message)
            super().error(message, ex)

    parser = Parser(prog=f"cli.py {name}", description=VERBS[name].summary)
    parser.add_function_arguments(target, as_positional=VERBS[name].positional)
    for action in parser._actions:
        _drop_trailing_underscore(parser, action)
    target(**parser.parse_args(gathered(target, spelled_out(args, VERBS[name].first_word, target))).as_dict())
    return 0


def _as_options(names: re.Match[str]) -> str:
    """Return names of parameters, separated by commas, as they are typed."""
    return ", ".join(f"--{name.strip().rstrip('_')}" for name in names[0].split(","))


def gathered(target: Callable[..., None], args: list[str]) -> list[str]:
    """Give `--for A B --for C` as the one list that the parser expects, where a parameter is a list."""
    lists = {
        f"--{name.rstrip('_')}"
        for name, parameter in signature(target).parameters.items()
        if str(parameter.annotation).startswith("list[")
    }
    values: dict[str, list[str]] = {}
    rest: list[str] = []
    taking: list[str] = rest
    for word in args:
        name, has_value, value = word.partition("=")
        if name in lists:
            taking = values.setdefault(name, [])
            taking += [value] if has_value else []
        else:
            taking = rest if word.startswith("--") else taking  # an option's values end at the next option
            taking.append(word)
    return [*(f"{name}={json.dumps(words)}" for name, words in values.items()), *rest]


def spelled_out(args: list[str], first_word: str, target: Callable[..., None]) -> list[str]:
    """Return the arguments as the parser knows them: `RUN` as `--run RUN`, a bare `--json` as `--json true`."""
    if first_word and args and not args[0].startswith("-"):
        args = [first_word, *args]
    parameters = signature(target).parameters.values()
    flags = {f"--{one.name}" for one in parameters if one.default is False}
    spelled = []
    for arg, following in zip_longest(args, args[1:], fillvalue=""):
        spelled += [arg, "true"] if arg in flags and following not in ("true", "false") else [arg]
    return spelled


def _drop_trailing_underscore(parser: Any, action: Any) -> None:
    """Offer a parameter such as `for_`, which Python would not let be called `for`, under its proper name."""
    for option in [
        option for option in action.option_strings if option.endswith("_+")
    ]:  # a list's way to append
        action.option_strings.remove(option)
        del parser._option_string_actions[option]
    for option in [option for option in action.option_strings if option.endswith("_")]:
        action.option_strings[action.option_strings.index(option)] = option.rstrip("_")
        parser._option_string_actions[option.rstrip("_")] = parser._option_string_actions.pop(option)
        action.metavar = option.strip("-_").upper()


def overview() -> str:
    """Return the list of verbs."""
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "usage: python cli.py VERB [options]      (python cli.py VERB --help explains one)",
            "",
            *lines,
            "",
            "--debug after any verb shows the traceback of an error.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
