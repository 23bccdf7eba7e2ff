"""Spelling: right counts, words and chances that training and testing do not share, the same on every machine."""

from __future__ import annotations

import re
from collections import Counter
from random import Random

import pytest
from task_files import write_lines

from nanochat_pl.system.errors import Failure
from nanochat_pl.tasks import SimpleSpelling, SpellingBee
from nanochat_pl.tasks.spelling_questions import QUESTIONS
from nanochat_pl.tasks.spellingbee import ask, count_letter, is_for_testing, read_words, spell

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> str:
    """A list of 3,000 invented words of one to nine letters."""
    rng = Random(0)
    made = sorted({"".join(rng.choices(ALPHABET, k=rng.randint(1, 9))) for _ in range(3_000)})
    return str(write_lines(tmp_path_factory.mktemp("spelling") / "words_alpha.txt", made))


def question_and_call(conversation) -> tuple[str, str]:
    user, assistant = conversation["messages"]
    return user["content"], assistant["content"][1]["text"]


def word_and_letter(conversation) -> tuple[str, str]:
    match = re.fullmatch(r"'(\w+)'\.count\('(\w)'\)", question_and_call(conversation)[1])
    return match[1], match[2]


@pytest.mark.parametrize("name", ["words_alpha.txt", "words_alpha.txt.gz"])
def test_words_are_read_with_any_line_ends_plain_or_gzipped(base_dir, name):
    file = write_lines(base_dir / "tasks" / "spelling" / name, ["ant\r", "bee\r", "", "cow"])
    assert read_words(file) == ["ant", "bee", "cow"]
    assert len(SpellingBee("train", size=5)) == 5


def test_a_line_that_is_no_word_is_named(tmp_path):
    path = write_lines(tmp_path / "words_alpha.txt", ["ant", "don't"])
    with pytest.raises(Failure, match=r'words_alpha\.txt: line 2 is not one word of letters: "don\'t"'):
        len(SpellingBee("train", path=str(path)))


def test_a_list_without_words_for_a_split_is_a_failure(tmp_path):
    word = next(word for word in ALPHABET if not is_for_testing(word))
    path = str(write_lines(tmp_path / "words_alpha.txt", [word]))
    with pytest.raises(Failure, match="has no word for split test"):
        len(SpellingBee("test", path=path))


def test_sizes_are_those_of_nanochat_unless_given(words):
    assert len(SpellingBee("train", path=words)) == 80_000
    assert len(SpellingBee("test", path=words)) == 256
    assert len(SimpleSpelling("train", path=words)) == 200_000
    assert len(SimpleSpelling("train", size=300, path=words)) == 300


def test_the_answer_counts_right_by_hand_and_by_python(words):
    for conversation in SpellingBee("train", size=500, path=words):
        word, letter = word_and_letter(conversation)
        count = word.count(letter)
        by_hand, call, output, end = conversation["messages"][1]["content"]
        assert [part["type"] for part in (by_hand, call, output, end)] == [
            "text",
            "python",
            "python_output",
            "text",
        ]
        assert spell(word) in by_hand["text"].splitlines()
        assert re.findall(r"^(\d+):(\w)", by_hand["text"], re.MULTILINE) == [
            (str(place), each) for place, each in enumerate(word, 1)
        ]
        assert re.findall(r"hit! count=(\d+)$", by_hand["text"], re.MULTILINE) == [
            str(n + 1) for n in range(count)
        ]
        assert output["text"] == str(count)
        assert end["text"].endswith(f"#### {count}")


def test_the_question_asks_about_the_word_and_the_letter(words):
    for conversation in SpellingBee("train", size=500, path=words):
        word, letter = word_and_letter(conversation)
        question, _ = question_and_call(conversation)
        shown = {
            template.format(letter=a + letter + a, word=b + word + b)
            for original in QUESTIONS
            for template in (original, original.lower())
            for a in ("", "'", '"')
            for b in ("", "'", '"')
        }
        assert question in shown or question.removesuffix("?") in shown


def test_only_the_right_number_is_right(words):
    task = SpellingBee("test", path=words)
    for conversation in task:
        word, letter = word_and_letter(conversation)
        assert task.evaluate(conversation, f"I find #### {word.count(letter)}.")
        assert not task.evaluate(conversation, f"#### {word.count(letter) + 1}")
        assert not task.evaluate(conversation, str(word.count(letter)))


def test_questions_vary_as_people_do():
    rng = Random(1)
    asked = [ask(rng, "\N{BLACK STAR}", "\N{WHITE STAR}") for _ in range(20_000)]
    assert sum(question.endswith("?") for question in asked) / len(asked) == pytest.approx(0.5, abs=0.02)
    for star in ("\N{BLACK STAR}", "\N{WHITE STAR}"):
        quotes = Counter(re.search(rf"(['\"]?){star}\1", question)[1] for question in asked)
        assert all(quotes[quote] / len(asked) == pytest.approx(1 / 3, abs=0.02) for quote in ("", "'", '"'))
    beginnings = Counter(
        question[0].isupper() for question in asked if question[0].isascii() and question[0].isalpha()
    )
    assert beginnings[False] / sum(beginnings.values()) == pytest.approx(0.3, abs=0.02)
    plain = {re.sub("['\"]?\N{BLACK STAR}['\"]?", "{word}", question) for question in asked}
    plain = {
        re.sub("['\"]?\N{WHITE STAR}['\"]?", "{letter}", question).removesuffix("?") for question in plain
    }
    assert plain == set(QUESTIONS) | {question.lower() for question in QUESTIONS}


def test_templates_are_of_seven_languages_and_complete():
    assert len(QUESTIONS) == len(set(QUESTIONS)) >= 40
    assert all(re.findall(r"\{(\w+)\}", question).count("word") == 1 for question in QUESTIONS)
    assert all(sorted(re.findall(r"\{(\w+)\}", question)) == ["letter", "word"] for question in QUESTIONS)
    assert not any(question.endswith("?") for question in QUESTIONS)
    scripts = {
        "Chinese or Japanese": r"[\u4e00-\u9fff]",
        "Japanese": r"[\u3040-\u30ff]",
        "Korean": r"[\uac00-\ud7af]",
    }
    for pattern in (*scripts.values(), "¿", "Combien", "Wie"):
        assert any(re.search(pattern, question) for question in QUESTIONS)


def test_nine_letters_in_ten_are_of_the_word_and_a_few_are_not(words):
    task = SpellingBee("train", size=5_000, path=words)
    absent = sum(letter not in word for word, letter in map(word_and_letter, task)) / len(task)
    assert 0.05 < absent < 0.1  # a tenth is any letter, and may be in the word all the same


def test_training_and_testing_share_no_word(words):
    train = {word_and_letter(item)[0] for item in SpellingBee("train", size=20_000, path=words)}
    train |= {
        item["messages"][1]["content"].split(":")[0]
        for item in SimpleSpelling("train", path=words, size=9_000)
    }
    test = {word_and_letter(item)[0] for item in SpellingBee("test", size=5_000, path=words)}
    test |= {
        item["messages"][1]["content"].split(":")[0]
        for item in SimpleSpelling("test", path=words, size=2_000)
    }
    assert len(train) > 1_000
    assert len(test) > 100
    assert not train & test


def test_no_two_items_share_their_chance():
    tasks = [SpellingBee("train"), SpellingBee("test"), SimpleSpelling("train"), SimpleSpelling("test")]
    draws = [task._chance(number).random() for task in tasks for number in range(5_000)]
    assert len(set(draws)) == len(draws)


def test_the_side_of_a_word_is_fixed_and_one_in_ten_is_for_testing():
    assert [word for word in ("moon", "sun", "star", "river", "town") if is_for_testing(word)] == ["star"]
    sides = Counter(is_for_testing(a + b + c) for a in ALPHABET for b in ALPHABET for c in ALPHABET)
    assert sides[True] / sum(sides.values()) == pytest.approx(0.1, abs=0.01)


def test_spelling_repeats_no_word_before_all_have_come(words):
    task = SimpleSpelling("train", path=words)
    number = len(task._words)
    spelled = [
        item["messages"][1]["content"] for item in SimpleSpelling("train", size=2 * number, path=words)
    ]
    assert len(set(spelled[:number])) == number
    assert spelled[:number] == spelled[number:]
    assert spelled[:50] != sorted(spelled[:50])


def test_a_letter_that_is_not_there_is_counted_zero_times():
    parts = count_letter("moon", "x")
    assert "hit!" not in parts[0]["text"]
    assert parts[2]["text"] == "0"
    assert parts[3]["text"].endswith("#### 0")
