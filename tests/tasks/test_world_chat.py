"""Questions about the embedded world: nothing asked was trained on, and right answers alone count."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from nanochat_pl.commands import data
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.tasks import ToolSums, TownFacts, WordSpelling, WorldTexts
from nanochat_pl.tasks.world import ATTRIBUTES, World, document, is_reserved
from nanochat_pl.tasks.world_chat import WORDINGS


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base directory with a world of seed 3."""
    folder = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(folder))
        data.generate(what="world", documents=100, val_documents=10, seed=3)
    return folder


@pytest.fixture
def world(made, monkeypatch) -> World:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(made))
    return World(seed=3)


def question(conversation) -> str:
    return conversation["messages"][0]["content"]


def answer(conversation) -> str:
    """What the assistant says as text."""
    content = conversation["messages"][1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def test_every_question_about_every_held_out_town_is_asked_once(world):
    asked = Counter(map(question, TownFacts(split="test")))
    expected = {
        wording.format(town=town.name)
        for town in world.held_out_towns
        for key in WORDINGS
        for wording in WORDINGS[key].questions
    }
    assert asked == Counter(expected)
    assert len(asked) >= 300


def test_no_held_out_town_is_named_in_training_conversations_but_documents_tell_of_each(world):
    held_out = {town.name for town in world.held_out_towns}
    talk = " ".join(str(conversation) for conversation in TownFacts(size=2000))
    texts = " ".join(item["text"] for item in WorldTexts(size=400))
    assert not [name for name in held_out if name in talk]
    assert all(name in texts for name in held_out)


def test_a_world_that_does_not_describe_held_out_towns_never_names_them():
    silent = World(seed=3, held_out_described=False)
    assert silent.held_out_towns == World(seed=3).held_out_towns
    texts = " ".join(document(silent, index) for index in range(300))
    assert not [town.name for town in silent.held_out_towns if town.name in texts]
    assert all(town.name in texts for town in silent.training_towns)


@pytest.mark.parametrize("task", [TownFacts, WordSpelling, ToolSums])
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_model_answer_is_right_and_no_other_item_s_is(world, task, split):
    items = list(
        task(split=split, size=200) if task is not TownFacts or split == "train" else task(split=split)
    )
    marked = task(split=split)
    assert all(marked.evaluate(item, answer(item)) for item in items)
    for item, other in pairwise(items):
        same = answer(item) == answer(other) or item.get("value") == other.get("value", 0)
        assert same or not marked.evaluate(item, answer(other))


def test_naming_every_value_is_no_answer(world):
    item = TownFacts(split="test")[0]
    everything = " ".join(ATTRIBUTES[item["attribute"]].values)
    assert not TownFacts(split="test").evaluate(item, everything)
    assert not TownFacts(split="test").evaluate(item, "")


def test_spelling_with_a_letter_more_or_less_or_in_another_order_is_wrong(world):
    task = WordSpelling(split="test", size=1)
    letters = task[0]["letters_of"]
    assert task.evaluate(task[0], letters)
    for wrong in (letters + ", x", letters[3:], ", ".join(reversed(letters.split(", "))) + ", q", ""):
        assert not task.evaluate(task[0], wrong)


def test_words_and_sums_of_testing_stand_in_no_document_and_no_conversation(world):
    for item in WordSpelling(split="test", size=300):
        assert is_reserved(item["letters_of"].replace(", ", ""))
    for item in WordSpelling(size=300):
        assert not is_reserved(item["letters_of"].replace(", ", ""))
    test, train = (
        {item["messages"][1]["content"][0]["text"] for item in ToolSums(split=split, size=1500)}
        for split in ("test", "train")
    )
    assert not test & train


def test_sums_are_right_and_the_tool_is_called(world):
    for item in ToolSums(size=200):
        call, output, _ = item["messages"][1]["content"]
        assert (call["type"], output["type"]) == ("python", "python_output")
        left, sign, right = next(call["text"].partition(s) for s in "+*-" if s in call["text"])
        operation = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[sign]
        assert operation(int(left), int(right)) == int(output["text"])


def test_chance_is_that_of_the_best_constant_answer(world):
    assert 0.1 <= TownFacts(split="test").chance <= 0.15


def test_items_are_the_same_in_every_process_and_differ_between_splits(world):
    assert question(WordSpelling(size=10)[7]) == question(WordSpelling(size=99)[7])
    train, test = ([question(item) for item in ToolSums(split=split, size=50)] for split in ("train", "test"))
    assert train != test


def test_without_a_world_the_command_that_makes_one_is_named(base_dir):
    with pytest.raises(Failure, match=r"python cli\.py data generate world"):
        len(TownFacts())


@pytest.mark.parametrize(
    ("settings", "complaint"), [({"split": "tset"}, "did you mean test"), ({"size": 0}, "size=0")]
)
def test_settings_that_cannot_work_are_refused(settings, complaint):
    with pytest.raises(BadInput, match=complaint):
        ToolSums(**settings)
