"""The folder of Hugging Face's `NanoChatForCausalLM`: the same network, described and named by transformers.

    model.safetensors       fp32 weights under transformers' names
    config.json             shape and constants; it loads with `AutoModelForCausalLM`, without remote code
    generation_config.json  defaults for sampling
    tokenizer files         as `tokenizer/huggingface.py` writes them
    README.md               the model card
    provenance.json         where this came from; sha256 of the weights

transformers is not needed, neither to write nor to read. What is read may have been written here or by transformers;
then there is no provenance, and large weights may lie in several files. Constants the network has no dial for must be
its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import Any

import torch
from safetensors.torch import save_file

from nanochat_pl.artifacts.contents import (
    CONFIG,
    PROVENANCE,
    WEIGHTS,
    WEIGHTS_SHA256,
    read_object,
    read_tensors,
    require_digest,
)
from nanochat_pl.artifacts.native import GENERATION_DEFAULTS
from nanochat_pl.model import accounting
from nanochat_pl.model.config import GPTConfig
from nanochat_pl.model.gpt import GPT, ROTARY_BASE, SOFTCAP
from nanochat_pl.system.errors import BadInput, Failure
from nanochat_pl.system.files import sha256_of, write_json, write_text
from nanochat_pl.tokenizer import huggingface as tokenizer_files
from nanochat_pl.tokenizer.encoding import TOKENIZER_JSON, Tokenizer

ARCHITECTURE = "NanoChatForCausalLM"
GENERATION, CARD, INDEX = "generation_config.json", "README.md", "model.safetensors.index.json"
REMEDY = (
    f"If another program saved new weights there on purpose, remove {PROVENANCE}.\n"
    "Else remove the folder, and copy or write it again: python cli.py export --from RUN --out DIR"
)
FILES = (WEIGHTS, CONFIG, GENERATION, PROVENANCE, CARD, *tokenizer_files.FILES)
NORM_EPS = torch.finfo(torch.float32).eps
LARGEST_NORM_EPS = (
    1e-6  # transformers' default: where a root mean square is above 0.03, less than 0.06 % of it
)
NAMES = {
    "wte": "model.embed_tokens",
    "lm_head": "lm_head",
    "attn.c_q": "self_attn.q_proj",
    "attn.c_k": "self_attn.k_proj",
    "attn.c_v": "self_attn.v_proj",
    "attn.c_proj": "self_attn.o_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
# What the network has no dial for: transformers' key, our value, and what an absent key means to transformers.
CONSTANTS: dict[str, tuple[Any, Any]] = {
    "hidden_act": ("relu2", "relu2"),
    "attention_bias": (False, False),
    "final_logit_softcapping": (SOFTCAP, 15.0),
    "tie_word_embeddings": (False, False),
}
SHAPE = {
    "max_position_embeddings": "sequence_len",
    "vocab_size": "vocab_size",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "num_key_value_heads": "n_kv_head",
    "hidden_size": "n_embd",
}


def their_name(name: str) -> str:
    """Return transformers' name of a weight of `GPT.state_dict`."""
    layer = re.fullmatch(r"blocks\.(\d+)\.(.+)\.weight", name)
    if layer:
        return f"model.layers.{layer[1]}.{NAMES[layer[2]]}.weight"
    return f"{NAMES[name.removesuffix('.weight')]}.weight"


def to_config(config: GPTConfig, bos_id: int, stop_ids: Iterable[int]) -> dict[str, Any]:
    """Return the content of `config.json`."""
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "nanochat",
        "dtype": "float32",
        **{theirs: getattr(config, ours) for theirs, ours in SHAPE.items()},
        "intermediate_size": 4 * config.n_embd,
        **{key: value for key, (value, _) in CONSTANTS.items()},
        "rms_norm_eps": NORM_EPS,
        "rope_parameters": {"rope_type": "default", "rope_theta": float(ROTARY_BASE)},
        "attention_dropout": 0.0,
        "use_cache": True,
        "bos_token_id": bos_id,
        "eos_token_id": sorted(stop_ids),
        "pad_token_id": None,  # transformers would not train the embedding of such an id
    }


def is_here(folder: Path) -> bool:
    """Tell whether a folder is of transformers, of whatever class."""
    try:
        values = read_object(folder / CONFIG)
    except Failure:
        return False
    return "model_type" in values or "architectures" in values


def is_former_export(folder: Path) -> bool:
    """Tell whether a folder holds nothing but what `write` put there, its weights unchanged."""
    if any(path.name not in FILES for path in folder.iterdir()):
        return False
    try:
        digest = read_object(folder / PROVENANCE).get(WEIGHTS_SHA256)
        return sha256_of(folder / WEIGHTS) == digest
    except (Failure, OSError):
        return False


def write(
    folder: Path,
    config: GPTConfig,
    weights: Mapping[str, torch.Tensor],
    tokenizer: Tokenizer,
    provenance: Mapping[str, Any],
) -> None:
    """Fill an empty folder; `weights` are fp32 on the CPU under the names of `GPT.state_dict`."""
    renamed = {their_name(name): value for name, value in weights.items()}
    save_file(renamed, folder / WEIGHTS, metadata={"format": "pt"})
    facts = dict(provenance) | {WEIGHTS_SHA256: sha256_of(folder / WEIGHTS)}
    if isinstance(start := facts.get("init_from"), str):
        facts["init_from"] = Path(
            start
        ).name  # the folder may be published, and this be a path of one machine
    tokenizer_files.write_tokenizer(folder, tokenizer, config.sequence_len)
    write_json(folder / CONFIG, to_config(config, tokenizer.bos_id, tokenizer.stop_ids))
    write_json(folder / GENERATION, _generation(tokenizer))
    write_json(folder / PROVENANCE, facts)
    write_text(folder / CARD, _card(config, tokenizer, facts))


def _generation(tokenizer: Tokenizer) -> dict[str, Any]:
    ids = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": sorted(tokenizer.stop_ids),
        "pad_token_id": tokenizer.bos_id,
    }
    return {"do_sample": True, **GENERATION_DEFAULTS, **ids}


def _card(config: GPTConfig, tokenizer: Tokenizer, facts: Mapping[str, Any]) -> str:
    """Return the model card."""
    told = {"run": "Run", "step": "Steps", "tokens": "Training tokens"}
    rows = [f"| {told[key]} | {_printed(facts[key])} |" for key in told if facts.get(key) is not None]
    stage = {
        True: "It was trained on conversations.",
        False: "It was trained on documents only: it continues texts. The template is for those who train it further.",
    }.get(facts.get("is_chat"), "")
    text = Path(__file__).with_name("model_card.md").read_text(encoding="utf-8")
    return Template(text).substitute(
        config.to_dict(),
        parameters=f"{accounting.parameters(config):,}",
        origin="\n".join(rows),
        stage=stage,
        sha256=facts[WEIGHTS_SHA256],
        vocab_size=f"{tokenizer.vocab_size:,}",
    )


def _printed(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def read_config(folder: Path) -> GPTConfig:
    """Return the model's shape.

    Raises:
        BadInput: the model is of another class, has other constants, another dtype or no tokenizer.
        Failure: the file is missing or damaged.
    """
    path = folder / CONFIG
    values = read_object(path)
    _require_class(path, values)
    for found, wanted, key in _constants(values):
        if found != wanted:
            raise BadInput(f"{path}: {key} is {found!r}, but this network's is {wanted!r} and cannot be set")
    if (dtype := values.get("dtype", values.get("torch_dtype", "float32"))) != "float32":
        raise _other_dtype(path, dtype)
    if not (folder / TOKENIZER_JSON).is_file():
        raise BadInput(
            f"{folder}: has no {TOKENIZER_JSON}, and without its tokenizer a model's ids mean nothing\n"
            "Save it there: AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    try:
        return _shape(values)
    except BadInput as error:
        raise Failure(f"{path}: {error}") from None


def _require_class(path: Path, values: Mapping[str, Any]) -> None:
    named = values.get("architectures") or []
    if named != [ARCHITECTURE] or values.get("model_type", "nanochat") != "nanochat":
        what = ", ".join(map(str, named)) if isinstance(named, list) and named else values.get("model_type")
        raise BadInput(
            f"{path}: a model of the class {what}; of Hugging Face's only {ARCHITECTURE} can be read"
        )


def _constants(values: Mapping[str, Any]) -> list[tuple[Any, Any, str]]:
    """Return what a configuration says of each thing the network has no dial for: found, wanted, key."""
    width, heads = values.get("hidden_size"), values.get("num_attention_heads")
    are_numbers = isinstance(width, int) and isinstance(heads, int) and heads > 0
    eps = values.get("rms_norm_eps", LARGEST_NORM_EPS)
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    rope = dict(rope) if isinstance(rope, dict) else {"rope_type": rope}
    theta = rope.pop("rope_theta", values.get("rope_theta", ROTARY_BASE))
    kind = rope.pop("rope_type", rope.pop("type", "default"))
    checks = [(values.get(key, absent), ours, key) for key, (ours, absent) in CONSTANTS.items()]
    checks += [(theta, ROTARY_BASE, "rope_theta"), (kind, "default", "rope_type")]
    checks += [(value, 1.0, key) for key, value in rope.items() if value is not None]
    if not (isinstance(eps, float) and 0 <= eps <= LARGEST_NORM_EPS):
        checks.append((eps, NORM_EPS, "rms_norm_eps"))
    if are_numbers:
        checks.append((values.get("intermediate_size"), 4 * width, "intermediate_size"))
        checks.append((values.get("head_dim") or width // heads, width // heads, "head_dim"))
    return checks


def _shape(values: Mapping[str, Any]) -> GPTConfig:
    shape = {ours: values.get(theirs) for theirs, ours in SHAPE.items()}
    if shape["n_kv_head"] is None:
        shape["n_kv_head"] = shape["n_head"]
    return GPTConfig(**shape)


def _other_dtype(path: Path, dtype: Any) -> BadInput:
    return BadInput(
        f"{path}: weights of {dtype}; only float32 is read, so that nothing is rounded unasked\n"
        "Convert them: AutoModelForCausalLM.from_pretrained(DIR, dtype='float32').save_pretrained(DIR)"
    )


def read_weights(folder: Path, device: str | torch.device) -> dict[str, torch.Tensor]:
    """Return the weights under the names of `GPT.state_dict`.

    Raises:
        BadInput: they are not fp32.
        Failure: a file or a tensor is missing, damaged or not of this model.
    """
    paths = _weight_files(folder)
    if (folder / PROVENANCE).is_file() and paths == [folder / WEIGHTS]:
        require_digest(paths[0], read_object(folder / PROVENANCE).get(WEIGHTS_SHA256), REMEDY)
    tensors: dict[str, torch.Tensor] = {}
    for path in paths:
        tensors |= read_tensors(path, device)
    wanted = {their_name(name): name for name in GPT.on_meta(read_config(folder)).state_dict()}
    for verb, names in (("lacks", wanted.keys() - tensors), ("should not have", tensors.keys() - wanted)):
        if names:
            raise Failure(f"{paths[0]}: the weights do not fit {CONFIG}: {verb} {min(names)}")
    for tensor in tensors.values():
        if tensor.dtype != torch.float32:
            raise _other_dtype(paths[0], str(tensor.dtype).removeprefix("torch."))
    return {wanted[name]: tensor for name, tensor in tensors.items()}


def _weight_files(folder: Path) -> list[Path]:
    """Return the files of the weights: one, or those an index names."""
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        return [folder / WEIGHTS]
    names = read_object(folder / INDEX).get("weight_map")
    if (
        not isinstance(names, dict)
        or not names
        or any(Path(str(name)).name != name for name in names.values())
    ):
        raise Failure(f"{folder / INDEX}: damaged, names no files of this folder")
    return [folder / name for name in sorted(set(names.values()))]


def read_provenance(folder: Path) -> dict[str, Any]:
    """Return where the model came from; of a folder that does not say, the sha256 of its weights."""
    if (folder / PROVENANCE).is_file():
        return read_object(folder / PROVENANCE)
    digests = [sha256_of(path) for path in _weight_files(folder) if path.is_file()]
    return {WEIGHTS_SHA256: digests[0] if len(digests) == 1 else _digest_of(digests)}


def _digest_of(digests: list[str]) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def read_generation(folder: Path) -> dict[str, Any]:
    """Return how the model is sampled unless told otherwise, as far as its folder says."""
    told = read_object(folder / GENERATION) if (folder / GENERATION).is_file() else {}
    return GENERATION_DEFAULTS | {key: told[key] for key in GENERATION_DEFAULTS if told.get(key) is not None}
