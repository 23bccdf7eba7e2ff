"""CORE asks the words of nanochat, in its order and with its shots.

Prompts are written out by hand from its templates: shots end in a blank line, language modeling trims contexts and its
opening, nothing else is touched. Orders and draws are those of Python's own generator, seeded 1337 and 1234 + item.
"""

from __future__ import annotations

import random

import pytest

from nanochat_pl.evaluation.core_bundle import CoreItem
from nanochat_pl.evaluation.core_prompts import draw_shots, item_order, render_prompts

ORDER = [6, 0, 1, 4, 10, 7, 3, 11, 2, 5, 8, 9]
DRAWS = [  # item, three of twelve, ten of seven thousand
    (0, [8, 2, 1], [6375, 3611, 958, 62, 743, 6611, 4770, 287, 5502, 5678]),
    (5, [1, 4, 8], [612, 2281, 3736, 202, 394, 837, 3909, 3946, 5626, 5251]),
    (11, [8, 10, 2], [4409, 4314, 1293, 306, 5096, 1043, 2811, 2870, 5158, 3797]),
]


def test_multiple_choice():
    shots = [CoreItem((" Is ice cold? ",), ("no", "yes "), 1), CoreItem(("Is tar white?",), ("no", "yes"), 0)]
    item = CoreItem(("Do fish swim?\n",), ("yes", " no"), 0)
    shown = " Is ice cold? \nAnswer: yes \n\nIs tar white?\nAnswer: no\n\n"
    assert render_prompts("multiple_choice", "\nAnswer: ", item, shots) == [
        shown + "Do fish swim?\n\nAnswer: yes",
        shown + "Do fish swim?\n\nAnswer:  no",
    ]


def test_schema():
    shots = [
        CoreItem(("The ant bit the cow, so the ant", "The ant bit the cow, so the cow "), ("cried.",), 1)
    ]
    item = CoreItem(("Tim saw Bob, for Tim", "Tim saw Bob, for Bob"), (" looked.",), 0)
    assert render_prompts("schema", " ", item, shots) == [
        "The ant bit the cow, so the cow  cried.\n\nTim saw Bob, for Tim  looked.",
        "The ant bit the cow, so the cow  cried.\n\nTim saw Bob, for Bob  looked.",
    ]


def test_language_modeling():
    shots = [CoreItem(("\n2 + 2 =  ",), ("4 ",)), CoreItem(("The sky is",), ("blue",))]
    item = CoreItem((" Grass is \n",), (" green ",))
    shown = "2 + 2 = 4 \n\nThe sky is blue\n\n"
    assert render_prompts("language_modeling", " ", item, shots) == [
        shown + "Grass is",
        shown + "Grass is  green ",
    ]
    assert render_prompts("language_modeling", "\nAnswer: ", item, []) == [
        "Grass is\nAnswer:",
        "Grass is\nAnswer:  green ",
    ]


def test_values_are_not_templates():
    item = CoreItem(("{{ 1 + 1 }} {% if %} <b> & {# c #}",), ("{{ item.gold }}\n", "b"), 0)
    assert (
        render_prompts("multiple_choice", " ", item, [])[0]
        == "{{ 1 + 1 }} {% if %} <b> & {# c #} {{ item.gold }}\n"
    )


def test_the_order_of_asking():
    assert item_order(12) == ORDER


@pytest.mark.parametrize(("index", "few", "many"), DRAWS)
def test_the_draw_of_shots(index, few, many):
    assert draw_shots(index, 12, 3) == few
    assert draw_shots(index, 7000, 10) == many


def test_draws_are_those_from_a_list_without_the_item_itself():
    for pool in (2, 11, 30, 90, 2000):
        for index in {0, 1, pool // 2, pool - 1}:
            for count in {1, min(10, pool - 1), pool - 1}:
                others = [place for place in range(pool) if place != index]
                assert draw_shots(index, pool, count) == random.Random(1234 + index).sample(others, count)
