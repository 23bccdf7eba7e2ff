"""Ids are tiktoken's and those of `tokenizers`; special tokens come from nobody's text; files are whole or refused."""

from __future__ import annotations

import base64
import hashlib
import json
import pickle
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import pytest
import tiktoken
import tiktoken.load
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference import bpe

from nanochat_pl.system.corpus import iter_texts, open_corpus
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.tasks.world import World, document
from nanochat_pl.tokenizer.encoding import (
    FILES,
    META,
    RANKS,
    SPECIAL_TOKENS,
    TOKEN_BYTES,
    TOKENIZER_JSON,
    Tokenizer,
)
from nanochat_pl.tokenizer.train import SPLIT_PATTERN, train_tokenizer

ROOT = Path(__file__).resolve().parents[2]
GPT_4_PATTERN = SPLIT_PATTERN.replace("{1,2}", "{1,3}")
PIECES = (
    *(
        "the",
        " the",
        "Town",
        " of",
        "ing",
        "'s",
        "'LL",
        "'ſ",
        "don't",
        "x" * 150,
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "\u00a0",
    ),
    *(
        "1",
        "12",
        "2024",
        "½",
        "٣",
        ".",
        ", ",
        "...",
        "!?\n",
        "<|bos|>",
        "<|user_start|>",
        "\u2028",
        "\u0085",
        "\0",
    ),
    *(
        "日本語",
        "中文字符",
        "한국어",
        "ไทย",
        "é",
        "e\u0301",
        "ß",
        "Ω",
        "🙂",
        "👩\u200d👩\u200d👧",
        "🇩🇪",
        "\U0010ffff",
        "\ufffd",
    ),
)
TEXTS = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=20).map("".join))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """1,024 ids learned from the world and from seeded mixtures of many scripts."""
    world = World(seed=0)
    texts = [document(world, index) for index in range(300)]
    return train_tokenizer(texts + mixtures(300, seed=7), 1024, max_chars=10**9)


@pytest.fixture(scope="module")
def in_tiktoken(tokenizer) -> tiktoken.Encoding:
    ranks = {token: rank for rank, token in enumerate(tokenizer.tokens)}
    return tiktoken.Encoding(
        "ours", pat_str=tokenizer.pattern, mergeable_ranks=ranks, special_tokens=tokenizer.special_ids
    )


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "tokenizer"
    tokenizer.save(folder)
    return folder


def mixtures(number: int, seed: int) -> list[str]:
    """Return texts in which words, scripts, spaces and any code points meet."""
    random = Random(seed)
    alphabet = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]

    def piece() -> str:
        return random.choice(PIECES) if random.random() < 0.9 else random.choice(alphabet)

    return ["".join(piece() for _ in range(random.randrange(30))) for _ in range(number)]


# Ids


def test_ids_of_ten_thousand_texts_are_tiktokens(tokenizer, in_tiktoken):
    texts = mixtures(10_000, seed=1)
    assert "" in texts
    assert tokenizer.encode_batch(texts) == in_tiktoken.encode_ordinary_batch(texts)


def test_ids_of_real_texts_are_tiktokens(tokenizer, in_tiktoken, shared_data):
    corpora = [open_corpus(shared_data / name) for name in ("text", "text_extra")]
    shards = [shard for corpus in corpora for shard in (*corpus.train, *corpus.val)]
    texts = [text[:2000] for shard in shards for text in islice(iter_texts([shard]), 150)]
    assert tokenizer.encode_batch(texts) == in_tiktoken.encode_ordinary_batch(texts)


def test_ids_with_the_ranks_of_gpt_4_are_tiktokens(shared_data):
    ranks = tiktoken.load.load_tiktoken_bpe(str(shared_data / "tokenizers" / "cl100k_base.tiktoken"))
    theirs = tiktoken.Encoding("gpt4", pat_str=GPT_4_PATTERN, mergeable_ranks=ranks, special_tokens={})
    ours = Tokenizer.from_ranks(ranks, GPT_4_PATTERN)
    texts = mixtures(2000, seed=2)
    assert ours.encode_batch(texts) == theirs.encode_ordinary_batch(texts)


@settings(deadline=None, max_examples=200)
@given(text=TEXTS)
@example(text="")
def test_ids_of_any_text_are_tiktokens_and_decode_to_it(tokenizer, in_tiktoken, text):
    ids = tokenizer.encode(text)
    assert ids == in_tiktoken.encode_ordinary(text)
    assert tokenizer.decode(ids) == text


@settings(deadline=None, max_examples=200)
@given(
    parts=st.lists(
        st.tuples(TEXTS, st.sampled_from([b"\xff", b"\x80\x80", b"\xc3", b"\xe4\xb8", b"\xf0\x9f"])),
        max_size=4,
    )
)
def test_ids_of_any_bytes_are_tiktokens_of_their_texts_and_of_the_bytes_between(
    tokenizer, in_tiktoken, parts
):
    text, expected = b"", []
    for valid, invalid in parts:
        text += valid.encode() + invalid + b"."  # the mark ends a sequence that was cut short
        expected += (
            in_tiktoken.encode_ordinary(valid) if not expected else in_tiktoken.encode_ordinary("." + valid)
        )
        expected += in_tiktoken._encode_single_piece(invalid)
    expected += in_tiktoken.encode_ordinary(".") if parts else []
    assert tokenizer.encode(text) == expected
    assert tokenizer.decode_bytes(expected) == text


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=80))
def test_any_bytes_come_back(tokenizer, data):
    assert tokenizer.decode_bytes(tokenizer.encode(data)) == data


@pytest.mark.parametrize("word", ["unbelievable", "thethethe", "日本語日本", "aaaaaaaa", "Bellbrook"])
def test_ids_of_a_pretoken_are_those_of_the_slow_twin(tokenizer, word):
    assert tokenizer.encode(word) == bpe.encode_piece(word.encode(), tokenizer.tokens)


@pytest.mark.parametrize("unit", ["a", "theing", "日本語", "🙂", "ab", "-"])
def test_a_megabyte_without_a_space_is_encoded_as_tiktoken_does(tokenizer, in_tiktoken, unit):
    text = unit * (1_000_000 // len(unit.encode()))
    assert tokenizer.encode(text) == in_tiktoken.encode_ordinary(text)


@pytest.mark.parametrize("text", [" " * 1_000_000, "\n" * 1_000_000, b"\xff" * 1_000_000])
def test_a_megabyte_of_nothing_else_comes_back(tokenizer, text):
    data = text if isinstance(text, bytes) else text.encode()
    assert tokenizer.decode_bytes(tokenizer.encode(text)) == data


def test_lone_surrogates_become_the_replacement_character_as_in_tiktoken(tokenizer, in_tiktoken):
    for text in ("x\ud800y", "\udc00", "\ud83d\ude42!"):
        assert tokenizer.encode(text) == in_tiktoken.encode_ordinary(text)


def test_ids_of_the_written_tokenizer_json_are_ours(tokenizer, saved):
    theirs = tokenizers.Tokenizer.from_file(str(saved / TOKENIZER_JSON))
    theirs.encode_special_tokens = True  # else it reads names of special tokens in a text as these tokens
    texts = mixtures(3000, seed=3)
    assert [encoding.ids for encoding in theirs.encode_batch(texts)] == tokenizer.encode_batch(texts)
    assert theirs.get_vocab_size() == tokenizer.vocab_size
    assert {name: theirs.token_to_id(name) for name in SPECIAL_TOKENS} == tokenizer.special_ids
    assert theirs.decode(tokenizer.encode("Zoë 🙂 日本")) == "Zoë 🙂 日本"


def test_written_ranks_load_in_tiktoken(tokenizer, saved):
    ranks = tiktoken.load.load_tiktoken_bpe(str(saved / RANKS))
    assert list(ranks) == tokenizer.tokens
    assert list(ranks.values()) == list(range(len(ranks)))


# Batches


def test_flat_ids_are_the_texts_one_after_another(tokenizer):
    texts = mixtures(200, seed=4)
    for prepend_bos in (False, True):
        ids, offsets = tokenizer.encode_flat(texts, prepend_bos)
        assert (ids.dtype, offsets.dtype) == (np.uint32, np.int64)
        assert offsets[0] == 0
        assert offsets[-1] == len(ids)
        bos = "<|bos|>" if prepend_bos else None
        for text, start, end in zip(texts, offsets[:-1], offsets[1:], strict=True):
            assert ids[start:end].tolist() == tokenizer.encode(text, prepend=bos)


def test_flat_ids_can_be_written_to(tokenizer):
    ids, _ = tokenizer.encode_flat(["a text"])
    ids[0] = 1  # torch warns of arrays that cannot be


def test_no_texts_are_no_ids(tokenizer):
    ids, offsets = tokenizer.encode_flat([])
    assert (ids.tolist(), offsets.tolist()) == ([], [0])
    assert tokenizer.encode_batch([]) == []


def test_what_is_no_text_is_refused(tokenizer):
    with pytest.raises(TypeError, match="must be str or bytes, not NoneType"):
        tokenizer.encode_flat(["a", None])


def test_a_forked_process_can_encode_after_its_parent_did(saved):
    program = (
        "import os, sys, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "from nanochat_pl.tokenizer.encoding import Tokenizer\n"
        f"tokenizer = Tokenizer.load({str(saved)!r})\n"
        "texts = ['the town of Bell'] * 100\n"
        "before = tokenizer.encode_batch(texts)\n"
        "child = os.fork()\n"
        "if child == 0: os._exit(tokenizer.encode_batch(texts) != before)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=120, check=False)
    assert done.returncode == 0


# Special tokens


def test_special_tokens_are_the_nine_in_their_order_after_the_merges(tokenizer):
    assert SPECIAL_TOKENS == (
        "<|bos|>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|assistant_end|>",
        "<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>",
    )  # fmt: skip
    assert [tokenizer.encode_special(name) for name in SPECIAL_TOKENS] == list(range(1015, 1024))
    assert tokenizer.bos_id == 1015
    assert tokenizer.vocab_size == 1024


@settings(deadline=None, max_examples=100)
@given(parts=st.lists(st.one_of(st.sampled_from(SPECIAL_TOKENS), TEXTS), max_size=6))
def test_no_text_becomes_a_special_token(tokenizer, parts):
    text = "".join(parts)
    assert max(tokenizer.encode(text), default=0) < tokenizer.bos_id
    assert tokenizer.encode_flat([text]).ids.max(initial=0) < tokenizer.bos_id
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_are_put_around_a_text_by_name_or_id(tokenizer):
    plain = tokenizer.encode("text")
    assert tokenizer.encode("text", prepend="<|bos|>", append=3) == [tokenizer.bos_id, *plain, 3]
    assert tokenizer.decode([tokenizer.bos_id, *plain, tokenizer.bos_id]) == "<|bos|>text<|bos|>"


def test_unknown_special_token_is_refused(tokenizer):
    with pytest.raises(BadInput, match=r"no special token '<\|eos\|>'"):
        tokenizer.encode_special("<|eos|>")


# Decoding and facts


def test_ids_that_cut_a_character_decode_with_the_replacement_character(tokenizer):
    assert tokenizer.decode([tokenizer.tokens.index(b"\xf0"), *tokenizer.encode("a")]) == "\ufffda"


@pytest.mark.parametrize("token", [-1, 1024, 2**40])
def test_ids_outside_the_vocabulary_are_refused(tokenizer, token):
    with pytest.raises(ValueError, match=f"id {token} is outside the vocabulary of 1024"):
        tokenizer.decode([1, token])


def test_token_bytes_are_the_raw_bytes_of_each_token(tokenizer):
    sizes = tokenizer.token_bytes
    assert sizes.dtype == np.int32
    assert sizes[:256].tolist() == [1] * 256  # also of bytes that are no UTF-8 alone
    assert sizes[-9:].tolist() == [0] * 9
    text = "Zoë 🙂 日本"
    assert sizes[tokenizer.encode(text)].sum() == len(text.encode())


def test_fingerprint_tells_tokenizers_apart(tokenizer):
    tokens = tokenizer.tokens
    assert Tokenizer.from_ranks(tokens, SPLIT_PATTERN).fingerprint == tokenizer.fingerprint
    assert len(tokenizer.fingerprint) == 64
    others = [
        (tokens[:-1], SPLIT_PATTERN),
        (tokens, GPT_4_PATTERN),
        ([*tokens[:-2], tokens[-1], tokens[-2]], SPLIT_PATTERN),
    ]
    prints = {Tokenizer.from_ranks(*other).fingerprint for other in others}
    assert len(prints | {tokenizer.fingerprint}) == 4


def test_ranks_that_cannot_work_are_refused(tokenizer):
    with pytest.raises(ValueError, match="ranks of 2 tokens must be 0 to 1"):
        Tokenizer.from_ranks({b"a": 0, b"b": 2}, SPLIT_PATTERN)
    with pytest.raises(ValueError, match="single byte 0x00"):
        Tokenizer.from_ranks([b"a"], SPLIT_PATTERN)
    with pytest.raises(ValueError, match="tokens 97 and 1015 stand for the same bytes"):
        Tokenizer.from_ranks([*tokenizer.tokens, b"a"], SPLIT_PATTERN)


def test_worker_processes_get_an_equal_tokenizer(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert (copy.fingerprint, copy.trained_on) == (tokenizer.fingerprint, tokenizer.trained_on)


# Files


def test_loaded_tokenizer_is_the_saved_one(tokenizer, saved):
    loaded = Tokenizer.load(saved)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.trained_on == tokenizer.trained_on
    assert sorted(path.name for path in saved.iterdir()) == sorted(FILES)
    texts = mixtures(100, seed=5)
    assert loaded.encode_batch(texts) == tokenizer.encode_batch(texts)
    assert json.loads((saved / TOKEN_BYTES).read_text()) == tokenizer.token_bytes.tolist()


def test_no_file_is_a_pickle(saved):
    for name in FILES:
        with pytest.raises(
            (pickle.UnpicklingError, ValueError, EOFError, IndexError, KeyError, AttributeError)
        ):
            pickle.loads((saved / name).read_bytes())


def test_saving_replaces_an_older_tokenizer_and_leaves_nothing_else(tokenizer, tmp_path):
    Tokenizer.from_ranks(tokenizer.tokens[:300], SPLIT_PATTERN).save(tmp_path / "t")
    tokenizer.save(tmp_path / "t")
    assert Tokenizer.load(tmp_path / "t").fingerprint == tokenizer.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_saving_among_other_files_keeps_them(tokenizer, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    tokenizer.save(tmp_path)
    assert Tokenizer.load(tmp_path).fingerprint == tokenizer.fingerprint
    assert (tmp_path / "model.safetensors").read_bytes() == b"weights"


def test_saving_that_fails_leaves_the_older_tokenizer(tokenizer, tmp_path, monkeypatch):
    tokenizer.save(tmp_path / "t")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("nanochat_pl.tokenizer.encoding.write_text", full)
        with pytest.raises(Failure, match="No space left on device"):
            Tokenizer.from_ranks(tokenizer.tokens[:300], SPLIT_PATTERN).save(tmp_path / "t")
    assert Tokenizer.load(tmp_path / "t").fingerprint == tokenizer.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def require_refused(folder: Path, name: str) -> None:
    with pytest.raises(Failure) as refused:
        Tokenizer.load(folder)
    assert str(folder / name) in str(refused.value)
    assert "python cli.py tokenizer train --corpus" in str(refused.value)
    assert len(str(refused.value).splitlines()) <= 3


def altered(content: bytes) -> bytes:
    """Return the content with one bit of one digit flipped, somewhere behind its middle."""
    at = next(at for at in range(len(content) // 2, len(content)) if content[at : at + 1].isdigit())
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGES = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[:-10],
    "altered": altered,
    "not text": lambda content: b"\xff\xfe" + content,
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_refused_by_name_with_the_remedy(saved, tmp_path, name, damage):
    folder = shutil.copytree(saved, tmp_path / "t")
    (folder / name).write_bytes(DAMAGES[damage]((folder / name).read_bytes()))
    require_refused(folder, name)


@pytest.mark.parametrize("name", FILES)
def test_missing_files_are_refused_by_name_with_the_remedy(saved, tmp_path, name):
    folder = shutil.copytree(saved, tmp_path / "t")
    (folder / name).unlink()
    require_refused(folder, name)
    (folder / name).mkdir()
    require_refused(folder, name)


def reseal(folder: Path, **changes: object) -> None:
    """Write a `meta.json` that is right about its own bytes and those of the other files, but changed."""
    meta = json.loads((folder / META).read_text())
    meta |= {
        "files": {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES if name != META
        }
    }
    meta |= changes
    del meta["sha256"]
    meta["sha256"] = hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()
    (folder / META).write_text(json.dumps(meta))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pattern": GPT_4_PATTERN}, META),
        ({"pattern": "("}, RANKS),
        ({"special_tokens": ["<|bos|>"]}, META),
        ({"format": 2}, META),
        ({"files": {RANKS: "0"}}, META),
    ],
)
def test_meta_that_describes_something_else_is_refused(saved, tmp_path, changes, named):
    folder = shutil.copytree(saved, tmp_path / "t")
    reseal(folder, **changes)
    require_refused(folder, named)


@pytest.mark.parametrize("line", [b"YQ== 0 0\n", b"@@@ 0\n", base64.b64encode(b"zz") + b" 99\n"])
def test_ranks_that_are_none_are_refused(saved, tmp_path, line):
    folder = shutil.copytree(saved, tmp_path / "t")
    (folder / RANKS).write_bytes((folder / RANKS).read_bytes() + line)
    reseal(folder)
    require_refused(folder, RANKS)


def test_ranks_of_another_tokenizer_are_refused(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "t")
    lines = (folder / RANKS).read_text().splitlines(keepends=True)
    (folder / RANKS).write_text("".join(lines[:-1]))
    reseal(folder)
    require_refused(folder, META)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    require_refused(tmp_path / "nowhere", META)
