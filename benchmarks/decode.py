"""Decoding against nanochat's Engine: one prompt, and 32 prompts of different lengths; the same weights in both.

    python benchmarks/decode.py --peer-path NANOCHAT_CLONE [--depth 12] [--vocab_size 65536] [--new_tokens 8]
                                [--prompts 32] [--rows 32] [--pairs 3] [--dtype float32]

nanochat is asked one prompt after another, for that is what its Engine can do; of the version whose network is this
one (rotary tables to the context's end, no value embeddings). The sides take turns A B B A …; decoding is greedy,
and the ids of both are compared. Prints one line of JSON: tokens per second of each, the median of the ratios and
their spread. Without a clone the peer is reported missing and only this engine is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import logging
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from nanochat_pl.inference.engine import Engine
from nanochat_pl.inference.sampling import SamplingSettings
from nanochat_pl.model.config import GPTConfig
from nanochat_pl.model.gpt import GPT
from nanochat_pl.tokenizer.encoding import SPECIAL_TOKENS

Ids = list[list[int]]


class SilentTokenizer:
    """Ids without text; the last nine are the special tokens."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.special_ids = {name: vocab_size - 9 + place for place, name in enumerate(SPECIAL_TOKENS)}
        self.bos_id = self.special_ids["<|bos|>"]

    def encode_special(self, name: str) -> int:
        return self.special_ids[name]

    def get_bos_token_id(self) -> int:
        return self.bos_id

    def encode(self, text: str) -> list[int]:
        return []

    def decode(self, ids: Sequence[int]) -> str:
        return ""

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return b""


class Timed(NamedTuple):
    """One run: seconds, and the new ids of every prompt."""

    seconds: float
    ids: Ids


def random_gpt(config: GPTConfig) -> GPT:
    """Return a model none of whose weights is zero and which never says a special token."""
    gpt, generator = GPT.on_meta(config).to_empty(device="cpu"), torch.Generator().manual_seed(1)
    gpt.init_buffers()
    with torch.no_grad():
        for name, weight in gpt.named_parameters():
            std = 1.0 if name == "wte.weight" else 2 * weight.size(1) ** -0.5
            weight.normal_(0, std, generator=generator)
        gpt.lm_head.weight[-9:] = 0
        # nanochat rounds its rotary tables to bf16; with the same tables both must say the same
        gpt.cos.copy_(gpt.cos.bfloat16())
        gpt.sin.copy_(gpt.sin.bfloat16())
    return gpt.requires_grad_(False)


def random_prompts(count: int, longest: int, vocab_size: int) -> Ids:
    """Return prompts of 4 to `longest` ids."""
    rng = random.Random(0)
    lengths = [rng.randint(4, longest) for _ in range(count)]
    return [[rng.randrange(vocab_size - 9) for _ in range(length)] for length in lengths]


def load_peer(path: Path | None, gpt: GPT, tokenizer: SilentTokenizer) -> Any:
    """Return nanochat's engine around the same weights, or None where it is not to be had."""
    if path is None or not (path / "nanochat" / "engine.py").is_file():
        return None
    sys.path.insert(0, str(path))
    # the engine imports the loader of checkpoints, which wants packages that decoding does not
    sys.modules["nanochat.checkpoint_manager"] = SimpleNamespace(load_model=None)  # type: ignore[assignment]
    with contextlib.redirect_stdout(io.StringIO()):
        peer, engine = (importlib.import_module(f"nanochat.{name}") for name in ("gpt", "engine"))
    logging.getLogger().setLevel(logging.WARNING)
    with torch.device("meta"):
        model = peer.GPT(peer.GPTConfig(**gpt.config.to_dict()))
    model.load_state_dict(
        {_peer_name(name): weight for name, weight in gpt.state_dict().items()}, assign=True
    )
    model.cos, model.sin = (table.bfloat16()[None] for table in (gpt.cos, gpt.sin))  # (1, T, 1, D/2)
    return engine.Engine(model.eval(), tokenizer)


def _peer_name(name: str) -> str:
    return name if name.startswith("lm_head") else "transformer." + name.replace("blocks.", "h.")


def by_peer(engine: Any, prompts: Ids, new_tokens: int) -> Ids:
    """Let nanochat continue one prompt after another."""
    done = []
    for prompt in prompts:
        columns = engine.generate(list(prompt), num_samples=1, max_tokens=new_tokens, temperature=0.0)
        done.append([column[0] for column, _ in columns])
    return done


def by_ours(engine: Engine, prompts: Ids, new_tokens: int) -> Ids:
    """Let this engine continue all of them."""
    settings = SamplingSettings(temperature=0.0, max_new_tokens=new_tokens)
    return [completion.ids for completion in engine.generate(prompts, settings)]


def timed(run: Callable[[], Ids]) -> Timed:
    begin = time.perf_counter()
    ids = run()
    return Timed(time.perf_counter() - begin, ids)


def compare(ours: Callable[[], Ids], theirs: Callable[[], Ids] | None, pairs: int) -> dict[str, Any]:
    """Run the sides in turns; return tokens per second and their ratios."""
    a, b = [], []
    for pair in range(pairs):
        for side in ("AB", "BA")[pair % 2]:
            if side == "A":
                a.append(timed(ours))
            elif theirs is not None:
                b.append(timed(theirs))
    tokens = sum(map(len, a[0].ids))
    result: dict[str, Any] = {"tokens_per_s": round(tokens / statistics.median(run.seconds for run in a), 2)}
    if theirs is None:
        return result
    ratios = [slow.seconds / fast.seconds for fast, slow in zip(a, b, strict=True)]
    return result | {
        "peer_tokens_per_s": round(tokens / statistics.median(run.seconds for run in b), 2),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "ids_equal": all(run.ids == a[0].ids for run in (*a, *b)),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-path", type=Path, default=None, help="a clone of nanochat")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of this engine")
    for name, default in (("depth", 12), ("vocab_size", 65536), ("sequence_len", 1024), ("longest", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("new_tokens", 8), ("prompts", 32), ("rows", 32), ("pairs", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()

    config = GPTConfig.from_depth(args.depth, vocab_size=args.vocab_size, sequence_len=args.sequence_len)
    gpt, tokenizer = random_gpt(config), SilentTokenizer(args.vocab_size)
    peer, engine = (
        load_peer(args.peer_path, gpt, tokenizer),
        Engine(gpt, tokenizer, rows=args.rows, dtype=getattr(torch, args.dtype)),
    )
    prompts = random_prompts(args.prompts, args.longest, args.vocab_size)
    by_ours(engine, prompts[:1], 2)  # warm up
    if peer is not None:
        by_peer(peer, prompts[:1], 2)
    load, wall, cpu = os.getloadavg()[0], time.perf_counter(), time.process_time()

    def measure(prompts: Ids, new_tokens: int) -> dict[str, Any]:
        theirs = None if peer is None else lambda: by_peer(peer, prompts, new_tokens)
        return compare(lambda: by_ours(engine, prompts, new_tokens), theirs, args.pairs)

    result = {
        "benchmark": "decode",
        "peer": "missing" if peer is None else "nanochat",
        "single": measure(prompts[:1], 4 * args.new_tokens),
        "mix": measure(prompts, args.new_tokens),
    }
    busy = (time.process_time() - cpu) / (time.perf_counter() - wall) / torch.get_num_threads()
    result |= {
        "contended": load / (os.cpu_count() or 1) > 1.2 or busy < 0.9,
        **{key: value for key, value in vars(args).items() if key != "peer_path"},
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
