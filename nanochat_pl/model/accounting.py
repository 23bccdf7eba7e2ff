"""What a GPT costs, as functions of its shape: parameters, FLOPs, bytes.

Pure arithmetic without torch, so that a plan for eight GPUs can be made on a machine that has none. How fast a
device is belongs to `system/hardware.py`; how costs add up to a run belongs to `training/plan.py`.

Letters: L layers, C width, H query heads, K key/value heads, D head width, V vocabulary, T context.
"""

from __future__ import annotations

from nanochat_pl.model.config import GPTConfig

FP32_BYTES = 4
CHUNK_LOGITS_BYTES = 64 * 2**20
MAX_CHUNKS = 32


def parameters(config: GPTConfig) -> int:
    """Return the number of weights."""
    return sum(parameters_by_part(config).values())


def parameters_by_part(config: GPTConfig) -> dict[str, int]:
    """Return the number of weights of the token embedding, the output matrix and all matrices of the blocks."""
    embedding = config.vocab_size * config.n_embd
    return {
        "embedding": embedding,
        "unembedding": embedding,
        "matrices": config.n_layer * _block_parameters(config),
    }


def _block_parameters(config: GPTConfig) -> int:
    """Return the weights of one block: q and output C x C, k and v C x KD, the MLP twice C x 4C."""
    width = config.n_embd
    return width * (2 * width + 2 * _kv_width(config) + 8 * width)


def _kv_width(config: GPTConfig) -> int:
    return config.n_kv_head * config.head_dim


def flops_per_token(config: GPTConfig, sequence_len: int | None = None) -> float:
    """Return the FLOPs of forward and backward for one token of a row of `sequence_len`.

    Six per weight that is multiplied (the embedding is only looked up) plus 12 L H D T for attention, which counts
    the whole square of scores although half of them are masked.

    Args:
        config: the shape.
        sequence_len: tokens of a row; None means the whole context.

    Source:
        Chowdhery et al. 2022, arXiv:2204.02311, appendix B.
    """
    length = config.sequence_len if sequence_len is None else sequence_len
    multiplied = parameters(config) - parameters_by_part(config)["embedding"]
    return 6.0 * multiplied + 12.0 * config.n_layer * config.n_embd * length


def weight_bytes(config: GPTConfig) -> int:
    """Return the bytes of the fp32 master weights."""
    return FP32_BYTES * parameters(config)


def gradient_bytes(config: GPTConfig) -> int:
    """Return the bytes of the fp32 gradients."""
    return FP32_BYTES * parameters(config)


def optimizer_bytes(config: GPTConfig) -> int:
    """Return the bytes of the fp32 optimizer state: two moments for embeddings (AdamW), one for matrices (Muon)."""
    part = parameters_by_part(config)
    return FP32_BYTES * (2 * (part["embedding"] + part["unembedding"]) + part["matrices"])


def kv_bytes_per_token(config: GPTConfig, bytes_per_value: int = 2) -> int:
    """Return the bytes of keys and values that decoding keeps per token of context."""
    return 2 * config.n_layer * _kv_width(config) * bytes_per_value


def chunk_tokens(tokens: int, vocab_size: int) -> int:
    """Return how many tokens' logits the loss holds at a time.

    As many as fit in 64 MiB of fp32, but at least a 32nd of all: every chunk adds a (V, C) product to the gradient
    of the output matrix, and a compiled step contains every chunk.
    """
    fitting = max(1, CHUNK_LOGITS_BYTES // (FP32_BYTES * vocab_size))
    chunks = min(MAX_CHUNKS, -(-tokens // fitting))
    return -(-tokens // max(1, chunks))


def logits_bytes(config: GPTConfig, rows: int, sequence_len: int) -> int:
    """Return the bytes of one chunk's logits with what the loss derives from them: four (n, V) in fp32."""
    return 4 * FP32_BYTES * chunk_tokens(rows * sequence_len, config.vocab_size) * config.vocab_size


def activation_bytes(config: GPTConfig, rows: int, sequence_len: int, bytes_per_value: int = 2) -> int:
    """Return the bytes autograd keeps for the backward pass (preliminary)."""
    width = config.n_embd
    return rows * sequence_len * config.n_layer * 20 * width * bytes_per_value
