"""Merges are those of the slow twin and of the peer; what cannot be trained is refused with a remedy."""

from __future__ import annotations

import os
import signal
import threading
from itertools import repeat
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import bpe

import rustbpe as peer
from nanochat_pl._rustbpe import Bpe, train_from_iterator
from nanochat_pl.system.corpus import iter_texts, open_corpus
from nanochat_pl.system.errors import BadInput
from nanochat_pl.tasks.world import World, document
from nanochat_pl.tokenizer.encoding import SPECIAL_TOKENS
from nanochat_pl.tokenizer.train import SPLIT_PATTERN, train_tokenizer

TIES = ["zy zy ba ba ca ca"]
WORDS = st.lists(
    st.sampled_from(["the", "then", "aaa", "abab", "'s", "12", "日本", "é", "🙂", " ", "\n", "."]),
    max_size=30,
)


@pytest.fixture(scope="module")
def world_texts() -> list[str]:
    world = World(seed=0)
    return [document(world, index) for index in range(60)]


def learned(texts: list[str], merges: int, **options: int) -> list[bpe.Pair]:
    return train_from_iterator(texts, 256 + merges, SPLIT_PATTERN, **options).merges()


def merges_of_peer(texts: list[str], merges: int) -> list[bpe.Pair]:
    tokenizer = peer.Tokenizer()
    tokenizer.train_from_iterator(iter(texts), 256 + merges, pattern=SPLIT_PATTERN)
    return Bpe([bytes(token) for token, _ in tokenizer.get_mergeable_ranks()], SPLIT_PATTERN).merges()


def require_greedy(texts: list[str], merges: list[bpe.Pair]) -> None:
    """Every merge must be of a pair than which none was more frequent at its time."""
    words = bpe.words_of(texts, SPLIT_PATTERN)
    for number, pair in enumerate(merges):
        counts = bpe.pair_counts(words)
        assert counts[pair] == max(counts.values()), f"merge {number} of {pair} was not a most frequent one"
        words = bpe.merged(words, pair, 256 + number)


def test_pattern_is_gpt_4s_with_at_most_two_digits():
    assert SPLIT_PATTERN == (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
        r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
    )


@settings(deadline=None, max_examples=60)
@given(texts=st.lists(WORDS.map("".join), max_size=6), merges=st.integers(0, 60))
def test_merges_are_those_of_the_slow_twin(texts, merges):
    assert learned(texts, merges) == bpe.learn_merges(bpe.words_of(texts, SPLIT_PATTERN), merges)


def test_merges_of_prose_are_those_of_the_slow_twin(world_texts):
    assert learned(world_texts, 150) == bpe.learn_merges(bpe.words_of(world_texts, SPLIT_PATTERN), 150)


def test_merges_differ_from_the_peers_only_between_equally_frequent_pairs(world_texts):
    # Both sequences take a most frequent pair at every step, so where they part the counts are equal.
    ours, theirs = learned(world_texts, 250), merges_of_peer(world_texts, 250)
    assert len(ours) == len(theirs)
    require_greedy(world_texts, ours)
    require_greedy(world_texts, theirs)


def test_merges_of_real_text_are_the_peers(shared_data):
    texts = [
        text[:10_000]
        for text, _ in zip(iter_texts(open_corpus(shared_data / "text").train), range(1500), strict=False)
    ]
    ours, theirs = learned(texts, 4000), merges_of_peer(texts, 4000)
    if ours == theirs:
        return
    at = next(place for place, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    words = bpe.words_of(texts, SPLIT_PATTERN)
    for number, pair in enumerate(ours[:at]):
        words = bpe.merged(words, pair, 256 + number)
    counts = bpe.pair_counts(words)
    assert counts[ours[at]] == counts[theirs[at]], (
        f"merge {at}: {ours[at]} and {theirs[at]} are not equally frequent"
    )


def test_of_equally_frequent_pairs_the_smaller_is_merged_first():
    words = bpe.words_of(TIES, SPLIT_PATTERN)
    expected = [tuple(b" b"), tuple(b" c"), tuple(b"zy")]
    assert learned(TIES, 3) == expected == bpe.learn_merges(words, 3, among_equals=min)
    # Any other rule for equals would be seen here:
    for rule in (
        max,
        lambda pairs: pairs[0],
        lambda pairs: pairs[-1],
        lambda pairs: min(pairs, key=lambda pair: pair[::-1]),
    ):
        assert bpe.learn_merges(words, 3, among_equals=rule) != expected


def test_merges_depend_neither_on_the_order_of_the_texts_nor_on_the_buffer(world_texts):
    expected = learned(world_texts, 200)
    shuffled = Random(1).sample(world_texts, len(world_texts))
    assert learned(shuffled, 200) == expected
    assert learned(world_texts, 200, buffer_size=1) == learned(world_texts, 200, buffer_size=7) == expected


def test_lone_surrogates_are_read_as_the_replacement_character():
    assert learned(["x\ud800y" * 9], 9) == learned(["x\ufffdy" * 9], 9)
    assert learned(["\ud83d\ude42" * 9], 9) == learned(["🙂" * 9], 9)


def test_training_is_interrupted_while_it_counts():
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))

    def train_until_interrupted():
        timer.start()
        train_from_iterator(repeat("no bytecode of Python runs between these texts"), 300, SPLIT_PATTERN)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            train_until_interrupted()
    finally:
        signal.signal(signal.SIGINT, before)
    timer.join()


def test_an_error_while_reading_ends_the_training():
    def texts():
        yield "one"
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        train_from_iterator(texts(), 300, SPLIT_PATTERN)
    with pytest.raises(TypeError, match="must be str or bytes, not int"):
        train_from_iterator([1], 300, SPLIT_PATTERN)


def test_pattern_that_is_no_expression_is_a_value_error():
    with pytest.raises(ValueError, match="split pattern is not valid"):
        train_from_iterator(["a"], 300, "(")


def test_trained_tokenizer_has_the_size_asked_for_and_says_what_was_read(world_texts):
    tokenizer = train_tokenizer(iter(world_texts), 400, max_chars=10**9)
    assert tokenizer.vocab_size == 400
    assert list(tokenizer.special_ids.values()) == list(range(391, 400))
    assert tokenizer.trained_on["documents"] == len(world_texts)
    assert tokenizer.trained_on["characters"] == sum(map(len, world_texts))


def test_documents_are_cropped(world_texts):
    cropped = train_tokenizer([text[:50] for text in world_texts], 300, max_chars=10**9)
    capped = train_tokenizer(world_texts, 300, max_chars=10**9, doc_cap=50)
    assert capped.tokens == cropped.tokens
    assert capped.trained_on["characters"] == cropped.trained_on["characters"] <= 50 * len(world_texts)


def test_reading_stops_after_the_document_that_exceeds_the_limit():
    rest = iter(["abcde" * 4] * 10)
    tokenizer = train_tokenizer(rest, 267, max_chars=40)
    assert tokenizer.trained_on["documents"] == 3
    assert len(list(rest)) == 7


@pytest.mark.parametrize("vocab_size", [-1, 0, 256, 256 + len(SPECIAL_TOKENS) - 1])
def test_vocabulary_without_room_for_bytes_and_special_tokens_is_refused(vocab_size):
    with pytest.raises(BadInput, match=f"vocab_size={vocab_size} is too small; it must be at least 265"):
        train_tokenizer(["text"], vocab_size, max_chars=100)


def test_smallest_vocabulary_has_no_merges():
    assert train_tokenizer(["text"], 265, max_chars=100).tokens == [bytes([byte]) for byte in range(256)]


@pytest.mark.parametrize("option", [{"max_chars": 0}, {"max_chars": 10, "doc_cap": 0}])
def test_limits_that_let_nothing_through_are_refused(option):
    with pytest.raises(BadInput, match="=0 is too small"):
        train_tokenizer(["text"], 300, **option)


def test_text_that_supports_fewer_merges_is_refused_with_a_size_that_works(world_texts):
    with pytest.raises(BadInput, match=r"support only \d+ ids\nUse --vocab_size (\d+)") as refused:
        train_tokenizer(world_texts, 60_000, max_chars=10**9)
    suggested = int(str(refused.value).split("--vocab_size ")[1].split(",")[0])
    assert 265 < suggested < 60_000
    assert train_tokenizer(world_texts, suggested, max_chars=10**9).vocab_size == suggested


def test_no_text_at_all_is_refused():
    with pytest.raises(BadInput, match="support only 265 ids"):
        train_tokenizer([], 300, max_chars=100)
