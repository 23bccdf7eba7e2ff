"""Prompts are encoded once, and a cache that fails costs nothing but time."""

from __future__ import annotations

import numpy as np
import pytest

from nanochat_pl.evaluation.prompt_ids import encode_once

TEXTS = ["once upon a time", "once upon a hill", "once", "", "zwölf", "once upon"]


class Encoder:
    """Counts what it is asked; its ids are characters."""

    def __init__(self, fingerprint="a", offset=0):
        self.fingerprint, self.offset, self.asked = fingerprint, offset, 0

    def encode(self, texts):
        self.asked += len(texts)
        return [np.array([1, *(ord(letter) + self.offset for letter in text)], np.uint32) for text in texts]


def listed(rows):
    return [row.tolist() for row in rows]


@pytest.mark.parametrize("offset", [0, 100_000])
def test_equal_texts_are_encoded_once(tmp_path, offset):
    first, second = Encoder(offset=offset), Encoder(offset=offset)
    rows = encode_once(first, TEXTS, tmp_path)
    again = encode_once(second, TEXTS, tmp_path)
    assert (first.asked, second.asked) == (len(TEXTS), 0)
    assert listed(rows) == listed(again) == listed(Encoder(offset=offset).encode(TEXTS))
    assert {row.dtype for row in again} == {np.dtype(np.uint32)}


def test_other_texts_and_other_tokenizers_have_files_of_their_own(tmp_path):
    encode_once(Encoder(), TEXTS, tmp_path)
    for texts, fingerprint in (([*TEXTS, ""], "a"), (TEXTS[::-1], "a"), (["onc", "e"], "a"), (TEXTS, "b")):
        encoder = Encoder(fingerprint)
        encode_once(encoder, texts, tmp_path)
        assert encoder.asked == len(texts)


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b[:-2], lambda b: b"", lambda b: b"x" * 99]
)
def test_a_damaged_file_is_made_anew(tmp_path, damage):
    encode_once(Encoder(), TEXTS, tmp_path)
    (path,) = tmp_path.rglob("*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    encoder = Encoder()
    assert listed(encode_once(encoder, TEXTS, tmp_path)) == listed(Encoder().encode(TEXTS))
    assert encoder.asked == len(TEXTS)
    assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert listed(encode_once(Encoder(), TEXTS, tmp_path / "file")) == listed(Encoder().encode(TEXTS))


def test_what_prompts_have_in_common_is_kept_once(tmp_path):
    opening = "x" * 10_000
    encode_once(Encoder(), [opening + letter for letter in "abcd"], tmp_path)
    (path,) = tmp_path.rglob("*.safetensors")
    assert path.stat().st_size < 2.2 * len(opening)
