"""The embedded world: the same everywhere, fair to all towns, free of contradictions, in good English."""

from __future__ import annotations

import re
import subprocess
import sys
import zlib
from collections import Counter
from hashlib import sha256
from itertools import islice
from random import Random

import pytest

from nanochat_pl.system.errors import BadInput
from nanochat_pl.tasks.world import (
    ATTRIBUTES,
    ENDINGS,
    STEMS,
    VAL_SHARE,
    World,
    block_length,
    document,
    documents,
    invented_word,
    is_reserved,
    sentences,
    spelled,
)

DOCUMENTS = 4_000


@pytest.fixture(scope="module")
def world() -> World:
    return World(seed=0)


@pytest.fixture(scope="module")
def texts(world: World) -> list[str]:
    return list(islice(documents(world), DOCUMENTS))


@pytest.fixture(scope="module")
def val_texts(world: World) -> list[str]:
    return list(islice(documents(world, split="val"), 500))


def values_in(text: str, attribute: str) -> set[str]:
    """The values of one attribute that stand in a text as whole words."""
    return set(re.findall(rf"\b({'|'.join(ATTRIBUTES[attribute].values)})\b", text))


def towns_in(text: str, world: World) -> list:
    words = set(re.findall(r"\w+", text))
    return [town for town in world.towns if town.name in words]


def digest(texts: list[str]) -> str:
    return sha256("\n".join(texts).encode()).hexdigest()


def test_documents_of_seed_0_never_change(texts: list[str], val_texts: list[str]):
    assert digest(texts[:1000]) == "d4c27ef4f5a201b8af19ce63977021a0e91ec3f78ff87b857abd6a160fc95953"
    assert digest(val_texts[:100]) == "82e2907342d273611249937efbdd2f7f9efb4bdd47f1ba9d376f88605da8c424"


def test_documents_do_not_depend_on_the_hash_seed_of_the_process(texts: list[str]):
    program = "from nanochat_pl.tasks.world import *; print(document(World(), 7) + document(World(), 90))"
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONHASHSEED": "12345", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == texts[7] + texts[90]


def test_any_start_continues_the_same_stream(world: World, texts: list[str]):
    assert list(islice(documents(world, start=123), 200)) == texts[123:323]
    assert [document(World(0), index) for index in (900, 5, 433)] == [texts[900], texts[5], texts[433]]


def test_another_seed_is_another_world(world: World):
    other = World(seed=1)
    assert [town.name for town in other.towns] != [town.name for town in world.towns]
    assert document(other, 0) != document(world, 0)


def test_every_block_gives_each_town_one_portrait_pair_or_roll(world: World, texts: list[str]):
    length = block_length(world)
    assert length == 80
    for start in range(0, DOCUMENTS, length):
        without_town = sum(not towns_in(text, world) for text in texts[start : start + length])
        assert without_town == 20
    names = Counter(town.name for text in texts for town in towns_in(text, world))
    assert min(names.values()) >= DOCUMENTS // length
    assert max(names.values()) < 1.6 * min(names.values())


def test_every_fact_of_every_town_is_told_many_times(world: World, texts: list[str]):
    told = Counter(
        (town.name, key)
        for text in texts
        if len(towns := towns_in(text, world)) == 1
        for town in towns
        for key in ATTRIBUTES
        if town.facts[key] in text
    )
    assert len(told) == len(world.towns) * len(ATTRIBUTES)
    assert min(told.values()) >= 20


def test_every_wording_stands_in_the_documents(world: World, texts: list[str]):
    together = " ".join(texts)
    for key, attribute in ATTRIBUTES.items():
        assert len(attribute.named) >= 6
        for place in range(len(attribute.named)):
            assert any(sentences(town, key)[place] in together for town in world.towns)


def test_no_document_about_one_town_tells_another_value(world: World, texts: list[str]):
    for text in texts:
        if len(towns := towns_in(text, world)) == 1:
            for key in ATTRIBUTES:
                assert values_in(text, key) == {towns[0].facts[key]}, text


def test_clauses_about_several_towns_tell_the_truth(world: World, texts: list[str]):
    checked = 0
    for text in texts:
        if len(towns_in(text, world)) < 2:
            continue
        for clause in re.split(r"[.?] |, while |, but |, and |, (?=[a-zA-Z])", text):
            for key in ATTRIBUTES:
                for town in towns_in(clause, world):
                    assert values_in(clause, key) <= {town.facts[key]}, clause
                    checked += bool(values_in(clause, key))
    assert checked > 5_000


def test_plain_prose_tells_no_value_of_any_attribute(world: World, texts: list[str]):
    for text in texts:
        if not towns_in(text, world):
            assert not any(values_in(text, key) for key in ATTRIBUTES), text


@pytest.mark.parametrize("key", ATTRIBUTES)
def test_every_sentence_holds_its_value_and_only_that(world: World, key: str):
    for town in world.towns:
        for sentence in sentences(town, key):
            assert town.facts[key] in sentence
            assert all(values_in(sentence, other) == set() for other in ATTRIBUTES if other != key)
        named = sentences(town, key)[: len(ATTRIBUTES[key].named)]
        assert all(town.name in sentence for sentence in named)
        assert sum(not sentence.startswith(town.name) for sentence in named) >= 6


def test_values_are_dealt_so_that_no_constant_answer_scores_more_than_chance(world: World):
    for towns in (world.towns, world.held_out_towns, world.training_towns):
        for key, attribute in ATTRIBUTES.items():
            counts = Counter(town.facts[key] for town in towns)
            assert set(counts) == set(attribute.values)
            assert max(counts.values()) - min(counts.values()) <= 1
            assert max(counts.values()) / len(towns) <= 0.14


def test_three_towns_in_ten_are_held_out(world: World):
    held_out = {town.name for town in world.held_out_towns}
    assert len(held_out) == 18
    assert held_out.isdisjoint(town.name for town in world.training_towns)
    assert len(world.held_out_towns) + len(world.training_towns) == len(world.towns) == 60


def test_no_two_towns_share_a_name_or_a_name_with_a_value():
    names = [town.name for town in World(seed=3, towns=len(STEMS)).towns]
    assert len(set(names)) == len(STEMS) == len(set(STEMS))
    words = {
        word for attribute in ATTRIBUTES.values() for value in attribute.values for word in value.split()
    }
    assert words.isdisjoint(stem + ending for stem in STEMS for ending in ENDINGS)


@pytest.mark.parametrize("towns", [3, 401, -1])
def test_a_world_of_impossible_size_is_refused(towns: int):
    with pytest.raises(BadInput, match=f"towns={towns} .* 4 to 400"):
        World(towns=towns)


def test_an_unknown_split_is_refused(world: World):
    with pytest.raises(BadInput, match="'test'"):
        document(world, 0, split="test")


@pytest.mark.parametrize("towns", [4, 9, 400])
def test_worlds_of_other_sizes_have_documents(towns: int):
    small = World(towns=towns)
    assert all(document(small, index) for index in range(50))


def test_no_text_stands_in_both_splits(texts: list[str], val_texts: list[str]):
    assert set(texts).isdisjoint(val_texts)
    assert len(set(texts)) == len(texts)
    assert len(set(val_texts)) == len(val_texts)
    assert {zlib.crc32(text.encode()) % VAL_SHARE for text in val_texts} == {0}
    assert {zlib.crc32(text.encode()) % VAL_SHARE for text in texts} == set(range(1, VAL_SHARE))


def test_documents_are_plain_english_text(texts: list[str], val_texts: list[str]):
    for text in texts + val_texts:
        assert text.isascii()
        assert text.isprintable()
        assert "  " not in text
        assert "{" not in text
        assert text == text.strip()
        assert text[-1] in ".?"
        assert not re.search(r"\b[Aa] [aeiou][a-z]*\b|\b[Aa]n [^aeiou\W]", mended(text)), text
        for sentence in re.split(r"(?<=[.?]) ", text):
            assert sentence[0].isupper(), text
            assert sentence[-1] in ".?", text
            assert sentence.count(".") <= 1, text


def mended(text: str) -> str:
    """Leave out spelled letters, where an "a" is a letter and no article."""
    return re.sub(r"\b[a-z](, [a-z]\b)+|(with|and) [a-z]\b", "", text)


def test_spelled_words_are_right_and_none_is_reserved(texts: list[str]):
    checked = 0
    for sentence in " ".join(texts).split("."):
        if letters := re.search(r"\b(?:[a-z], ){2,}[a-z]\b", sentence):
            word = letters[0].replace(", ", "")
            assert re.search(rf"\b{word}\b", sentence), sentence
            assert not is_reserved(word)
            checked += 1
    assert checked > 2_000


def test_sums_are_right_and_none_is_reserved(texts: list[str]):
    sums = re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)", " ".join(texts))
    sums += [(a, "+", b, c) for a, b, c in re.findall(r"sum of (\d+) and (\d+) is (\d+)", " ".join(texts))]
    assert {sign for _, sign, _, _ in sums} == set("+-*")
    operations = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
    for a, sign, b, result in sums:
        assert operations[sign](int(a), int(b)) == int(result)
        assert not is_reserved(f"{a} {sign} {b}")


def test_words_have_three_to_nine_small_letters():
    rng = Random(5)
    words = [invented_word(rng) for _ in range(2_000)]
    assert all(re.fullmatch("[a-z]{3,9}", word) for word in words)
    assert len(set(words)) > 1_500
    assert 0.15 < sum(map(is_reserved, words)) / len(words) < 0.25
    assert spelled("town") == "t, o, w, n"
