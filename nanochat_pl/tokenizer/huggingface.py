"""What transformers reads beside `tokenizer.json`: its settings, and the conversation's form as a template.

`chat_template.jinja` is the renderer of `conversation.py` once more, in the language other programs speak. It can only
write text, in which a spelled control token is a control token; so it refuses such texts, where the renderer needs not.
"""

from __future__ import annotations

from pathlib import Path

from nanochat_pl.system.files import write_json, write_text
from nanochat_pl.tokenizer.encoding import SPECIAL_TOKENS, TOKENIZER_JSON, Tokenizer

TOKENIZER_CONFIG, CHAT_TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
FILES = (TOKENIZER_JSON, TOKENIZER_CONFIG, CHAT_TEMPLATE)


def write_tokenizer(folder: Path, tokenizer: Tokenizer, max_tokens: int) -> None:
    """Write the files from which `AutoTokenizer` makes the same tokenizer.

    Args:
        folder: must exist.
        tokenizer: what is written.
        max_tokens: the context of its model.
    """
    write_text(folder / TOKENIZER_JSON, tokenizer.to_json(begin_with_bos=True))
    write_json(folder / TOKENIZER_CONFIG, tokenizer_config(max_tokens))
    write_text(folder / CHAT_TEMPLATE, chat_template())


def tokenizer_config(max_tokens: int) -> dict[str, object]:
    """Return the content of `tokenizer_config.json`.

    Rows are padded with BOS, as in training; no mask of padding must ever be guessed from the ids.
    """
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|assistant_end|>",
        "pad_token": "<|bos|>",
        "additional_special_tokens": [
            name for name in SPECIAL_TOKENS if name not in ("<|bos|>", "<|assistant_end|>")
        ],
        "model_max_length": max_tokens,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }


def chat_template() -> str:
    """Return the template of a conversation."""
    return Path(__file__).with_name(CHAT_TEMPLATE).read_text(encoding="utf-8")
