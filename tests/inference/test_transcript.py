"""Text comes in whole characters, whatever the cuts, and the pieces are the parts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_pl.inference.transcript import Transcript

FAMILY = "👩‍👩‍👧 naïve 汉"


def pieces_of(data: bytes, cuts: list[int]) -> tuple[list[str], Transcript]:
    transcript, found = Transcript(), []
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        found += transcript.add(data[start:end])
    found += transcript.finish()
    assert {piece.kind for piece in found} <= {"text"}
    return [piece.text for piece in found], transcript


@pytest.mark.parametrize("cut", range(len(FAMILY.encode()) + 1))
def test_an_emoji_cut_anywhere_is_never_shown_in_halves(cut):
    pieces, transcript = pieces_of(FAMILY.encode(), [cut])
    assert "".join(pieces) == transcript.text == FAMILY
    assert "�" not in "".join(pieces)
    assert all(pieces)


@given(st.text(max_size=20), st.data())
@settings(max_examples=200, deadline=None)
def test_any_text_cut_into_any_ids_comes_whole(text, data):
    encoded = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(encoded)), max_size=8)))
    pieces, transcript = pieces_of(encoded, cuts)
    assert "".join(pieces) == transcript.text == text
    assert all(pieces)


@given(st.binary(max_size=20), st.data())
@settings(max_examples=200, deadline=None)
def test_bytes_that_are_no_text_become_what_they_become_at_once(encoded, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(encoded)), max_size=8)))
    pieces, transcript = pieces_of(encoded, cuts)
    assert "".join(pieces) == transcript.text == encoded.decode(errors="replace")


def test_a_character_is_given_with_its_last_byte():
    transcript = Transcript()
    given_ = [transcript.add(bytes([byte])) for byte in "é😀".encode()]
    assert [[piece.text for piece in pieces] for pieces in given_] == [[], ["é"], [], [], [], ["😀"]]


def test_a_half_character_does_not_leak_into_the_next_part():
    transcript = Transcript()
    assert transcript.add(b"a\xf0\x9f") == [("text", "a")]
    assert transcript.begin("python") == [("text", "�")]
    assert transcript.add(b"\x98\x80b") == [("python", "��b")]
    assert transcript.parts == [{"type": "text", "text": "a�"}, {"type": "python", "text": "��b"}]


def test_stretches_of_text_are_one_part_and_calls_are_not():
    transcript = Transcript()
    for kind, data in [("text", b"a"), ("text", b"b"), ("python", b"c"), ("python", b"d"), ("text", b"")]:
        transcript.begin(kind)
        transcript.add(data)
    assert transcript.parts == [
        {"type": "text", "text": "ab"},
        {"type": "python", "text": "c"},
        {"type": "python", "text": "d"},
    ]
    assert transcript.text == "ab"
