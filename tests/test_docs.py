"""Every command of the README and the documentation runs, or says why it is not run here.

Above a block of commands stands `<!-- test: group -->` or `<!-- not run: reason -->`; blocks of one group run one after
another in one folder. A block without a word above it runs by itself.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest
from tiny_stage import ROOT
from typed import type_commands

from nanochat_pl.tasks.world import World, document

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "rustbpe" / "README.md"]
FENCE = re.compile(r"(?:<!-- ([^\n]*) -->\n)?```(?:bash|sh|console|shell)\n(.*?)```", re.S)
LINK = re.compile(r"\[[^\]]*\]\(([^)#:]+)(?:#[^)]*)?\)")


class Block(NamedTuple):
    """Commands of one page that belong together."""

    page: Path
    group: str
    script: str

    def __str__(self) -> str:
        return f"{self.page.name}-{self.group}"


def blocks() -> list[Block]:
    """Return what is to be run, the blocks of a group joined."""
    found: dict[tuple[Path, str], str] = {}
    for page in PAGES:
        for number, (note, script) in enumerate(FENCE.findall(page.read_text())):
            if note.startswith("not run") or script.lstrip().startswith("make "):
                continue
            group = note.removeprefix("test: ") if note else f"alone-{number}"
            found[page, group] = found.get((page, group), "") + script
    return [Block(page, group, script) for (page, group), script in found.items()]


def is_quick(block: Block) -> bool:
    return block.group.startswith("alone")


@pytest.fixture
def workplace(tmp_path):
    """A folder that looks like the checkout, with some texts of its user's."""
    for name in ("cli.py", "configs", "rustbpe"):
        (tmp_path / name).symlink_to(ROOT / name)
    texts = tmp_path / "my_texts"
    texts.mkdir()
    world = World(seed=5, towns=20)
    for number in range(3):
        documents = (document(world, index) for index in range(number * 2000, number * 2000 + 2000))
        (texts / f"part{number}.txt").write_text("\n\n".join(documents))
    return tmp_path


@pytest.mark.parametrize(
    "block",
    [pytest.param(block, marks=() if is_quick(block) else pytest.mark.slow) for block in blocks()],
    ids=str,
)
@pytest.mark.timeout(1000)  # minutes of computing on a machine that is busy otherwise
def test_commands_of_the_documentation_run(block, workplace):
    done = type_commands(block.script, workplace, 900, NANOCHAT_BASE_DIR=str(workplace / "base"))
    assert "Traceback" not in done.stderr


def test_blocks_are_found_in_readme_and_tutorial():
    pages = {block.page.name for block in blocks()}
    assert {"README.md", "first-run.md", "own-text.md"} <= pages


def test_every_link_leads_somewhere():
    for page in PAGES:
        for target in LINK.findall(page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_changelog_and_licence_are_there():
    assert "[Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
