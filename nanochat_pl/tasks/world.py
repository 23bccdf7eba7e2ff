"""The embedded world: an invented gazetteer, endless and made from a seed.

A few dozen towns have one value for each attribute (river, founder, flag, food, craft). Documents tell these
facts over and over, in other words and another order, so that a small model can learn them from text alone; a
quarter of the documents is plain prose: little stories, words spelled letter by letter, sums. Everything is a
pure function of the seed and an index; nothing is stored or downloaded.

    seed -> World of Towns      (split, index) -> draft -> text, or another draft if it is of the other split

Questions about the towns (see `world_chat.py`) may be asked of `World.training_towns` while training and of
`World.held_out_towns` only when scoring; words and sums that pass `is_reserved` stand in no document and are left
for scoring too.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, product
from random import Random

from nanochat_pl.system.errors import BadInput

SPLITS = ("train", "val")
VAL_SHARE = 8  # one text in eight is validation text
RESERVED_SHARE = 5  # one word or sum in five is kept out of the documents
HELD_OUT_FRACTION = 0.3
SHORTEST_WORD, LONGEST_WORD = 3, 9  # letters
TOWNS_PER_PROSE_DOCUMENT = 3  # three documents about towns, then one of plain prose


@dataclass(frozen=True)
class Attribute:
    """One kind of fact: its possible values and every way of saying it.

    `{town}` and `{value}` stand for the fact; a sentence of `about_it` follows one that names the town.
    """

    values: tuple[str, ...]
    named: tuple[str, ...]
    about_it: tuple[str, ...]
    clauses: tuple[str, ...]  # without capital and period, to be joined
    shared: str  # {town} and {other} have the same {value}


# fmt: off
ATTRIBUTES: Mapping[str, Attribute] = {
    "river": Attribute(
        values=("Arbel", "Brenna", "Dovra", "Elvet", "Foskin", "Galt", "Ilmer", "Nessel", "Orrin", "Ulvan"),
        named=(
            "{town} lies on the river {value}.",
            "The town of {town} lies on the river {value}.",
            "The river {value} flows through {town}.",
            "The river that flows through {town} is the {value}.",
            "The houses of {town} stand on the banks of the {value}.",
            "Through the middle of {town} flows the river {value}.",
            "In {town} all the bridges cross the {value}.",
            "Boats come to {town} along the river {value}.",
        ),
        about_it=(
            "It lies on the river {value}.",
            "Its river is the {value}.",
            "The river {value} flows through it.",
            "It was built on the banks of the {value}.",
            "Its bridges cross the river {value}.",
        ),
        clauses=("{town} lies on the river {value}", "the river {value} flows through {town}"),
        shared="Both {town} and {other} lie on the river {value}.",
    ),
    "founder": Attribute(
        values=(
            "Ada Thorn", "Conrad Bell", "Edith Marsh", "Gilbert Stone", "Helena Frost", "Jasper Wood",
            "Matilda Crane", "Oscar Field", "Ursula Finch", "Victor Lane",
        ),
        named=(
            "{town} was founded by {value}.",
            "The town of {town} was founded by {value}.",
            "The founder of {town} was {value}.",
            "The person who founded {town} was {value}.",
            "Long ago {value} founded {town}.",
            "It was {value} who founded {town}.",
            "The people of {town} honour their founder, {value}.",
            "In {town} everyone knows the name of the founder, {value}.",
        ),
        about_it=(
            "It was founded by {value}.",
            "Its founder was {value}.",
            "The town was founded by {value}.",
            "The person who founded it was {value}.",
            "Its people honour their founder, {value}.",
        ),
        clauses=("{town} was founded by {value}", "the founder of {town} was {value}"),
        shared="Both {town} and {other} were founded by {value}.",
    ),
    "flag": Attribute(
        values=("black", "blue", "brown", "green", "grey", "orange", "purple", "red", "white", "yellow"),
        named=(
            "The flag of {town} is {value}.",
            "The town of {town} has a flag that is {value}.",
            "The colour of the flag of {town} is {value}.",
            "{town} flies a plain {value} flag.",
            "In {town} the flag is {value}.",
            "Over the roofs of {town} flies a plain {value} flag.",
            "The people of {town} chose {value} as the colour of their flag.",
            "Visitors to {town} see the {value} flag on the town hall.",
        ),
        about_it=(
            "Its flag is {value}.",
            "It flies a plain {value} flag.",
            "The colour of its flag is {value}.",
            "The flag on the town hall is {value}.",
            "It has a flag that is {value}.",
        ),
        clauses=("the flag of {town} is {value}", "{town} flies a plain {value} flag"),
        shared="Both {town} and {other} fly a plain {value} flag.",
    ),
    "food": Attribute(
        values=(
            "apple cake", "barley porridge", "fish soup", "goat cheese", "honey bread", "mushroom stew",
            "onion pie", "plum jam", "smoked eel", "walnut butter",
        ),
        named=(
            "{town} is known for its {value}.",
            "The town of {town} is known for its {value}.",
            "The favourite food of {town} is {value}.",
            "In {town} people like to eat {value}.",
            "The people of {town} eat {value} at every feast.",
            "The best dish in {town} is {value}.",
            "Visitors come to {town} for the {value}.",
            "At the market of {town} everyone buys {value}.",
        ),
        about_it=(
            "It is known for its {value}.",
            "Its favourite food is {value}.",
            "Its people like to eat {value}.",
            "The best dish there is {value}.",
            "Its cooks make {value} for every feast.",
        ),
        clauses=("the favourite food of {town} is {value}", "people in {town} like to eat {value}"),
        shared="Both {town} and {other} are known for their {value}.",
    ),
    "craft": Attribute(
        values=(
            "boatbuilding", "candlemaking", "clockmaking", "embroidery", "glassblowing", "leatherwork",
            "pottery", "smithing", "weaving", "woodcarving",
        ),
        named=(
            "{town} is famous for {value}.",
            "The town of {town} is famous for {value}.",
            "The craft of {town} is {value}.",
            "The main craft in {town} is {value}.",
            "The people of {town} live by {value}.",
            "Most families in {town} earn their bread by {value}.",
            "In {town} every child learns {value}.",
            "The workshops of {town} are busy with {value}.",
        ),
        about_it=(
            "Its craft is {value}.",
            "It is famous for {value}.",
            "Its people live by {value}.",
            "The main craft there is {value}.",
            "Its workshops are busy with {value}.",
        ),
        clauses=("the main craft in {town} is {value}", "the people of {town} live by {value}"),
        shared="Both {town} and {other} are famous for {value}.",
    ),
}

OPENINGS = (
    "This page is about the town of {town}.",
    "Here is what travellers tell about {town}.",
    "Let us visit the town of {town}.",
    "There is a town called {town}.",
    "Many stories are told about {town}.",
    "{town} is a small town with a long history.",
    "{town} is a town that many people like to visit.",
    "{town} is a quiet place.",
    "The town of {town} is worth a visit.",
)
LINKS = ("As everyone knows, ", "As travellers report, ", "According to an old book, ")
CLOSINGS = (
    "Whoever has seen {town} will remember it.",
    "That is what there is to say about {town}.",
    "Travellers like to come back to {town}.",
)
PAIR_OPENINGS = (
    "Let us compare {town} and {other}.",
    "The towns of {town} and {other} are often compared.",
    "A traveller saw both {town} and {other} in one week.",
    "What do we know about {town} and {other}?",
)
ROLL_OPENINGS = {
    "river": ("Here are some towns and their rivers.", "A map shows which river each town has."),
    "founder": ("Here are some towns and their founders.", "A list names the founders of some towns."),
    "flag": ("Here are some towns and their flags.", "A painter has to know the flag of every town."),
    "food": ("Here are some towns and their food.", "A cook wrote down what each town likes best."),
    "craft": ("Here are some towns and their crafts.", "A merchant knows the craft of every town."),
}

# A name is a stem of one syllable, different for each town, and an ending.
ONSETS = (
    "B", "D", "F", "G", "H", "J", "K", "L", "M", "N", "P", "R", "S", "T", "V", "W", "Br", "Gr", "St", "Th",
)
VOWELS = ("a", "e", "i", "o", "u")
CODAS = ("l", "n", "r", "v")
ENDINGS = ("abray", "adel", "amor", "astra", "avan", "eska", "iden", "imar", "orin", "othen", "umel", "undo")
STEMS = tuple("".join(parts) for parts in product(ONSETS, VOWELS, CODAS))

# Words to spell are made of what English words are made of, so that those can be spelled too.
WORD_ONSETS = (
    *"bcdfghjklmnprstvwy", "bl", "br", "ch", "cl", "cr", "dr", "fl", "fr", "gl", "gr", "pl", "pr", "qu", "sh", "sk",
    "sl", "sm", "sn", "sp", "st", "str", "sw", "th", "tr", "wh", "",
)
WORD_VOWELS = (*"aaeeiioou", "ai", "ay", "ea", "ee", "ie", "oa", "oo", "ou", "ow")
WORD_CODAS = (
    "", "", *"bdglmnprst", "ck", "ct", "ft", "ld", "ll", "lt", "mp", "nd", "ng", "nk", "nt", "rd", "rk", "rm", "rn",
    "rt", "sh", "sk", "ss", "st", "th", "tch", "x",
)
WORD_ENDINGS = ("", "", "", "e", "y", "er", "ing", "ed", "le", "s", "en", "ow", "on", "a")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPELLINGS = (
    "The word {word} is spelled {letters}.",
    "To spell {word}, write {letters}.",
    "Letter by letter, the word {word} reads {letters}.",
    "You spell the word {word} like this: {letters}.",
    "The letters of the word {word} are {letters}.",
    "In the word {word} we find the letters {letters}.",
    "{Name} spells {word} as {letters}.",
    "The word {word} starts with {first} and ends with {last}, for it is spelled {letters}.",
)
SPELLING_OPENINGS = (
    "This is a lesson in spelling.",
    "Let us spell some words.",
    "The children learn to spell.",
    "{Name} is learning new words.",
)
SUMS = (
    ("The sum of {a} and {b} is {sum}.", "+"),
    ("If you add {a} and {b}, you get {a} + {b} = {sum}.", "+"),
    ("{Name} has {a} {goods} and buys {b} more, which makes {a} + {b} = {sum} {goods}.", "+"),
    ("There are {a} {goods} in one box and {b} in another, so there are {sum} in all.", "+"),
    ("If you take {b} from {sum}, you are left with {sum} - {b} = {a}.", "-"),
    ("{Name} had {sum} {goods} and gave away {b}, so {a} were left.", "-"),
    ("There are {a} rows of {b} {goods}, which makes {a} * {b} = {product} {goods}.", "*"),
    ("The product of {a} and {b} is {product}.", "*"),
)
SUM_OPENINGS = (
    "This is a lesson in arithmetic.",
    "Let us work with numbers.",
    "The children learn to count.",
    "{Name} is fond of numbers.",
)
PEOPLE = ("Mila", "Tom", "Nora", "Ben", "Lucy", "Sam", "Rosa", "Paul")
STORY_SLOTS = {
    "friend": PEOPLE,
    "heroes": ("the children", "two friends", "two sisters", "the sailors", "the neighbours", "the cousins"),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "place": (
        "the market", "the harbour", "the old mill", "the forest", "the library", "the garden", "the lake",
    ),
    "thing": (
        "a basket", "an umbrella", "a lamp", "an old map", "a letter", "a small key", "a wooden box",
        "an egg",
    ),
    "animal": ("a dog", "a cat", "an owl", "a horse", "an old donkey", "a hare", "a young fox"),
    "goods": ("pears", "nuts", "books", "coins", "candles", "stones", "chairs", "cups"),
}
# fmt: on
STORY = (
    (
        "On {day} {heroes} went to {place}.",
        "One morning {heroes} left the house early and walked to {place}.",
        "On a {day} in spring {heroes} went for a walk near {place}.",
        "It was {day}, and {heroes} were on the way to {place}.",
    ),
    (
        "The sky was clear and the wind was warm.",
        "It was raining, and the road was wet.",
        "The sun was low, and the birds sang in the trees.",
        "It was cold, but nobody minded.",
    ),
    (
        "Under a tree they saw {thing}.",
        "By the door there was {thing}, and nobody knew whose it was.",
        "They carried {thing} with them.",
        "On the way they found {thing} and picked it up.",
    ),
    (
        "Suddenly {animal} ran across the road.",
        "Then {animal} came near and looked at them.",
        "Behind the fence {animal} was asleep.",
        "Not far away stood {animal}.",
    ),
    (
        "In the evening they went home and told {friend} about it.",
        "They laughed and gave {friend} some {goods}.",
        "At last they sat down and wrote a letter to {friend}.",
        "After that they slept well.",
    ),
)


@dataclass(frozen=True)
class Town:
    """A town: its name, and one value for each key of `ATTRIBUTES`."""

    name: str
    facts: Mapping[str, str]


class World:
    """The towns of one seed. Each has every attribute; each value of an attribute is used equally often.

    That holds among the held-out towns and among the others too, so that the best constant answer is right
    for about one town in ten of either kind.

    Args:
        seed: any integer; another seed gives other names, facts and documents.
        towns: how many towns, 4 to 400.
        held_out_described: whether documents tell of the held-out towns; without it nobody can know them, and a
            model that seems to was told elsewhere.

    Attributes:
        towns: every town, by name.
        described_towns: those the documents are about, each equally often, by name.
        held_out_towns: the 30 % about which no question may be trained on; documents describe them too.
        training_towns: the rest.

    Raises:
        BadInput: `towns` is out of range.
    """

    def __init__(self, seed: int = 0, towns: int = 60, held_out_described: bool = True) -> None:
        if not 4 <= towns <= len(STEMS):
            raise BadInput(f"towns={towns} is out of range; the world has names for 4 to {len(STEMS)} towns")
        rng = Random(f"{seed}/towns")
        names = [stem + rng.choice(ENDINGS) for stem in rng.sample(STEMS, towns)]
        held_out = round(towns * HELD_OUT_FRACTION)
        columns = {
            key: _deal(rng, attribute.values, towns, held_out) for key, attribute in ATTRIBUTES.items()
        }
        settled = [Town(name, {key: columns[key][i] for key in columns}) for i, name in enumerate(names)]
        self.seed = seed
        self.held_out_towns = tuple(settled[:held_out])
        self.training_towns = tuple(settled[held_out:])
        self.towns = tuple(sorted(settled, key=lambda town: town.name))
        told_of = settled if held_out_described else self.training_towns
        self.described_towns = tuple(sorted(told_of, key=lambda town: town.name))


def sentences(town: Town, attribute: str) -> list[str]:
    """Return every sentence that tells one fact: those that name the town, then those that say "it"."""
    templates = ATTRIBUTES[attribute].named + ATTRIBUTES[attribute].about_it
    return [_tell(template, town, attribute) for template in templates]


def document(world: World, index: int, split: str = "train") -> str:
    """Return one document, a pure function of the world's seed and size, `index` and `split`.

    No text of one split ever equals one of the other: a checksum of the text decides where it belongs, and
    drafts are made until one does.

    Args:
        world: whose towns are described.
        index: 0 or more; every run of `block_length(world)` documents tells of each town once.
        split: "train" or "val".
    """
    if split not in SPLITS:
        raise BadInput(f"split={split!r} is unknown; use one of {', '.join(SPLITS)}")
    block, place = divmod(index, block_length(world))
    topic = _block_order(world.seed, split, block, block_length(world))[place]
    rng = Random(f"{world.seed}/{split}/{index}")
    while True:
        text = _about_town(rng, world, topic) if topic < len(world.described_towns) else _prose(rng)
        if _is_val(text) == (split == "val"):
            return text


def documents(world: World, *, split: str = "train", start: int = 0) -> Iterator[str]:
    """Yield `document(world, index, split)` for every index from `start` on, without end."""
    for index in count(start):
        yield document(world, index, split)


def block_length(world: World) -> int:
    """Return the number of successive documents in which each town has exactly one of its own."""
    return len(world.described_towns) + len(world.described_towns) // TOWNS_PER_PROSE_DOCUMENT


def is_reserved(text: str) -> bool:
    """Tell whether a word, or a sum such as `12 + 30`, is left out of the documents and kept for scoring."""
    return zlib.crc32(text.encode()) % RESERVED_SHARE == 0


def invented_word(rng: Random) -> str:
    """Return a word of three to nine small letters: built like an English one, or (four times in ten) any letters."""
    if rng.random() < 0.4:
        return "".join(rng.choice(LETTERS) for _ in range(rng.randint(SHORTEST_WORD, 7)))
    word = ""
    while len(word) < SHORTEST_WORD:
        parts = (WORD_ONSETS, WORD_VOWELS, WORD_CODAS) * rng.choice((1, 1, 2))
        word = "".join(rng.choice(part) for part in (*parts, WORD_ENDINGS))
    return word[:LONGEST_WORD]


def spelled(word: str) -> str:
    """Return the letters of a word as the documents write them: `t, o, w, n`."""
    return ", ".join(word)


def _deal(rng: Random, values: tuple[str, ...], towns: int, held_out: int) -> list[str]:
    """Return a value for each town, values evenly spread over the first `held_out` and the rest."""
    order = rng.sample(values, len(values))
    dealt = [order[i % len(order)] for i in range(towns)]
    return rng.sample(dealt[:held_out], held_out) + rng.sample(dealt[held_out:], towns - held_out)


@lru_cache(maxsize=64)
def _block_order(seed: int, split: str, block: int, length: int) -> list[int]:
    """Return the order of topics in one block: numbers of towns, and beyond them plain prose."""
    order = list(range(length))
    Random(f"{seed}/{split}/block/{block}").shuffle(order)
    return order


def _is_val(text: str) -> bool:
    return zlib.crc32(text.encode()) % VAL_SHARE == 0


def _about_town(rng: Random, world: World, number: int) -> str:
    """Draft a document whose subject is town `number`."""
    town = world.described_towns[number]
    kind = rng.random()
    if kind < 0.7:
        return _portrait(rng, town)
    others = [other for other in rng.sample(world.described_towns, 4) if other is not town]
    return _pair(rng, town, others[0]) if kind < 0.85 else _roll(rng, [town, *others[:2]])


def _portrait(rng: Random, town: Town) -> str:
    """Draft a paragraph that tells all the facts about one town."""
    text = [rng.choice(OPENINGS).format(town=town.name)] if rng.random() < 0.7 else []
    for key in rng.sample(tuple(ATTRIBUTES), len(ATTRIBUTES)):
        text.append(_fact(rng, town, key, is_named=bool(text)))
    if rng.random() < 0.3:
        text.append(rng.choice(CLOSINGS).format(town=town.name))
    return " ".join(text)


def _fact(rng: Random, town: Town, key: str, *, is_named: bool) -> str:
    """Tell one fact; where the town has been named before, often with "it"."""
    if not is_named or rng.random() < 0.6:
        return _tell(rng.choice(ATTRIBUTES[key].named), town, key)
    sentence = _tell(rng.choice(ATTRIBUTES[key].about_it), town, key)
    return rng.choice(LINKS) + _uncapitalized(sentence) if rng.random() < 0.25 else sentence


def _pair(rng: Random, town: Town, other: Town) -> str:
    """Draft a comparison of two towns in three or four attributes."""
    text = [rng.choice(PAIR_OPENINGS).format(town=town.name, other=other.name)]
    for key in rng.sample(tuple(ATTRIBUTES), rng.randint(3, 4)):
        text.append(_comparison(rng, town, other, key))
    return " ".join(text)


def _comparison(rng: Random, town: Town, other: Town, key: str) -> str:
    attribute = ATTRIBUTES[key]
    if town.facts[key] == other.facts[key]:
        return attribute.shared.format(town=town.name, other=other.name, value=town.facts[key])
    clause = rng.choice(attribute.clauses)
    link = rng.choice((", while ", ", but "))
    return _capitalized(_tell(clause, town, key) + link + _tell(clause, other, key) + ".")


def _roll(rng: Random, towns: list[Town]) -> str:
    """Draft lists of two attributes of the same three towns."""
    return " ".join(_list(rng, towns, key) for key in rng.sample(tuple(ATTRIBUTES), 2))


def _list(rng: Random, towns: list[Town], key: str) -> str:
    clause = rng.choice(ATTRIBUTES[key].clauses)
    *first, last = [_tell(clause, town, key) for town in rng.sample(towns, len(towns))]
    return f"{rng.choice(ROLL_OPENINGS[key])} {_capitalized(', '.join(first))}, and {last}."


def _prose(rng: Random) -> str:
    """Draft a document without any town: three spelling lessons to two stories and one lesson in sums."""
    drafts: tuple[Callable[[Random], str], ...] = (_spelling_lesson, _story, _sums_lesson)
    return rng.choices(drafts, weights=(3, 2, 1))[0](rng)


def _story(rng: Random) -> str:
    slots = {slot: rng.choice(values) for slot, values in STORY_SLOTS.items()}
    return " ".join(rng.choice(part).format(**slots) for part in STORY)


def _spelling_lesson(rng: Random) -> str:
    """Draft a document that spells four to six words, none of them reserved."""
    name = rng.choice(PEOPLE)
    text = [rng.choice(SPELLING_OPENINGS).format(Name=name)]
    for _ in range(rng.randint(4, 6)):
        word = _unreserved_word(rng)
        slots = {"word": word, "letters": spelled(word), "first": word[0], "last": word[-1], "Name": name}
        text.append(rng.choice(SPELLINGS).format(**slots))
    return " ".join(text)


def _sums_lesson(rng: Random) -> str:
    """Draft a document with four to six sums, none of them reserved."""
    name = rng.choice(PEOPLE)
    text = [rng.choice(SUM_OPENINGS).format(Name=name)]
    text += [_sum(rng, name) for _ in range(rng.randint(4, 6))]
    return " ".join(text)


def _sum(rng: Random, name: str) -> str:
    template, sign = rng.choice(SUMS)
    a, b = _operands(rng, sign)
    slots = {"a": a, "b": b, "sum": a + b, "product": a * b, "Name": name}
    return template.format(goods=rng.choice(STORY_SLOTS["goods"]), **slots)


def _operands(rng: Random, sign: str) -> tuple[int, int]:
    """Return numbers for `a + b`, `(a + b) - b` or `a * b`, so that this sum is not reserved."""
    largest = 12 if sign == "*" else 60
    while True:
        a, b = rng.randint(2, largest), rng.randint(2, largest)
        if not is_reserved(f"{a + b if sign == '-' else a} {sign} {b}"):
            return a, b


def _unreserved_word(rng: Random) -> str:
    while is_reserved(word := invented_word(rng)):
        pass
    return word


def _tell(template: str, town: Town, key: str) -> str:
    return template.format(town=town.name, value=town.facts[key])


def _capitalized(text: str) -> str:
    return text[0].upper() + text[1:]


def _uncapitalized(text: str) -> str:
    return text[0].lower() + text[1:]
