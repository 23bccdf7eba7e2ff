"""What a GPT costs, as functions of its shape: parameters, FLOPs, bytes.

Pure arithmetic without torch, so that a plan for eight GPUs can be made on a machine that has none. How fast
a device is belongs to `system/hardware.py`; how costs add up to a run belongs to `training/plan.py`.

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
    """Return the number of weights of the token embedding, the output matrix and all matrices of all blocks."""
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

    Six per weight that is multiplied (the embedding is only looked up) plus 12 L H D T for attention, which
    counts the whole square of scores although half of them are masked.

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
    """Return the bytes of the fp32 moments: two for the embeddings (AdamW), one for the matrices (Muon)."""
    part = parameters_by_part(config)
    return FP32_BYTES * (2 * (part["embedding"] + part["unembedding"]) + part["matrices"])


def kv_bytes_per_token(config: GPTConfig, bytes_per_value: int = 2) -> int:
    """Return the bytes of keys and values that decoding keeps per token of context."""
    return 2 * config.n_layer * _kv_width(config) * bytes_per_value


def activation_bytes(config: GPTConfig, rows: int, sequence_len: int, bytes_per_value: int = 2) -> int:
    """Return the bytes autograd keeps between forward and backward; the loss's own are `logits_bytes`.

    Per token and block, in values of `bytes_per_value`:

        2 x 2C      input and output of the two norms
        C + KD      rotated q and k
        C + 2KD     normalised q and k, and v
        C           output of attention
        2 x 4C      relu(x) and relu(x)^2

    that is 15C + 3KD, and 4 bytes for each of 2 + 2H + K statistics: the norms' of the stream and of every head
    of q and k, attention's log-sum-exp per query head. Besides the blocks, the inputs of the first and the last
    norm. Below fp32 autocast also keeps copies of all matrices of the blocks.

    It holds for compiled steps and for eager ones in fp32. Eager bf16 on the CPU takes more: there the norms keep
    their inputs in fp32.

    Args:
        config: the shape.
        rows: rows of a micro-batch.
        sequence_len: tokens of a row.
        bytes_per_value: 2 under bf16 autocast, 4 in fp32.
    """
    values = 15 * config.n_embd + 3 * _kv_width(config)
    statistics = FP32_BYTES * (2 + 2 * config.n_head + config.n_kv_head)
    per_token = config.n_layer * (values * bytes_per_value + statistics) + _ends_bytes(
        config, bytes_per_value
    )
    copies = bytes_per_value * parameters_by_part(config)["matrices"] if bytes_per_value < FP32_BYTES else 0
    return rows * sequence_len * per_token + copies


def _ends_bytes(config: GPTConfig, bytes_per_value: int) -> int:
    """Return the bytes per token that the first and the last norm keep."""
    return 2 * (config.n_embd * bytes_per_value + FP32_BYTES)


def chunk_tokens(tokens: int, vocab_size: int) -> int:
    """Return how many tokens' logits the loss holds at a time.

    As many as fit in 64 MiB of fp32, but at least a 32nd of all: every chunk adds a (V, C) product to the
    gradient of the output matrix, and a compiled step contains every chunk.
    """
    fitting = max(1, CHUNK_LOGITS_BYTES // (FP32_BYTES * vocab_size))
    chunks = min(MAX_CHUNKS, -(-tokens // fitting))
    return -(-tokens // max(1, chunks))


def logits_bytes(config: GPTConfig, rows: int, sequence_len: int, bytes_per_value: int = 2) -> int:
    """Return the bytes the loss needs at its peak.

    Two fp32 (n, V) for the logits of a chunk of n tokens and their exponentials; below fp32 the product or slope
    and a copy of the output matrix; the gradients, which wait for the backward pass.

    Args:
        config: the shape.
        rows: rows of a micro-batch.
        sequence_len: tokens of a row.
        bytes_per_value: 2 under bf16 autocast, 4 in fp32.
    """
    tokens, matrix = rows * sequence_len, config.vocab_size * config.n_embd
    chunk = chunk_tokens(tokens, config.vocab_size) * config.vocab_size
    low_precision = bytes_per_value * (chunk + matrix) if bytes_per_value < FP32_BYTES else 0
    gradients = FP32_BYTES * matrix + bytes_per_value * tokens * config.n_embd
    return 2 * FP32_BYTES * chunk + low_precision + gradients
