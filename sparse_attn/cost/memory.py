"""Bytes of a GPT in closed form: weights, training state, activations, KV cache.

Takes a `gpt.GPTConfig`. What a real model holds is counted by `GPT.parameter_count`,
`profiling.saved_bytes` and `decoding.Cache.bytes`; tests demand equality.
"""

from sparse_attn.checks import check_counts


def parameters(config) -> dict[str, int]:
    """Parameters by part, all layers together; a tied head counts once, as tokens."""
    C, L, hidden = config.width, config.layers, config.hidden or 4 * config.width
    shared = key_width(config)
    matrices = 3 if config.mlp == "swiglu" else 2
    attention = 2 * C * C + 2 * C * shared + config.bias * (2 * C + 2 * shared)
    mlp = matrices * C * hidden + config.bias * ((matrices - 1) * hidden + C)
    return {
        "tokens": config.vocab * C,
        "positions": config.context * C if config.positions == "learned" else 0,
        "attention": L * attention,
        "mlp": L * mlp,
        "norms": (2 * L + 1) * (2 * C if config.norm == "layer" else C),
        "head": 0 if config.tied else config.vocab * C,
    }


def kv_cache_bytes(config, T: int, *, B: int = 1, bytes_per_value: float = 2) -> int:
    """Keys and values of T tokens in every layer: 2·L·Hkv·D·T per sequence.

    With a window, at most sinks + window - 1 tokens are kept between steps.
    bytes_per_value: 2 for fp16, 1 for int8 without its scales, 0.5 for int4.
    """
    check_counts(T=T, B=B)
    if not bytes_per_value > 0:
        raise ValueError(f"bytes_per_value={bytes_per_value}: more than 0 is needed")
    if config.window is not None:
        T = min(T, config.sinks + config.window - 1)
    return round(2 * config.layers * key_width(config) * T * B * bytes_per_value)


def saved_activations(config, T, *, B=1, bytes_per_value=4) -> dict[str, int]:
    """Bytes that a training step keeps for backward, by part, all layers together.

    Each tensor once: query, key and value share their input. On a CPU, without
    dropout; the formula forms its scores in fp32 whatever the dtype.
    Raises ValueError for dropout, sinks, and a window with the formula or rotary turns.
    """
    check_counts(T=T, B=B, bytes_per_value=bytes_per_value)
    windowed = config.window is not None and config.window < T
    if config.dropout or (
        windowed
        and (config.sinks or config.attend != "fused" or config.positions == "rotary")
    ):
        raise ValueError(
            f"dropout={config.dropout}, window={config.window}, sinks={config.sinks}, "
            f"attend={config.attend!r}, positions={config.positions!r}: not covered"
        )
    C, L, H, b = config.width, config.layers, config.heads, bytes_per_value
    x = B * T * C * b  # one activation of the model's width
    wide = B * T * (config.hidden or 4 * C) * b
    fused, rotary = config.attend == "fused", config.positions == "rotary"
    if windowed:
        scores = _saved_window(config, T, B, b)
    elif fused:  # q, k, v, the output, and a log-sum-exp in fp32
        scores = 2 * x + 2 * x * key_width(config) // C + 4 * B * H * T
    else:  # q and k in fp32, v; the softmax in fp32, the weights; two bool masks
        values, square = B * T * C, B * H * T * T
        scores = (8 + b) * values + (4 + b) * square + 2 * T * T
    # The kernel's output serves the next product; turned queries make it a copy.
    its_own = fused and not windowed and (not rotary or T == 1)
    gated = config.mlp == "swiglu"
    norm = x + 2 * B * T * b if config.norm == "layer" else 2 * x + B * T * b
    return {
        "embedding": 0 if rotary else 8 * T,  # positions are int64
        "norm": (2 * L + 1) * norm,
        "query": L * x,
        "scores": L * scores,
        "out": 0 if its_own else L * x,
        "mlp up": L * x,
        "mlp activation": L * wide * (3 if gated else 1),
        "mlp down": L * wide,
        "head": x,
        "loss": (B * T * config.vocab + 1) * b,
        "additions": L * 2 * T * (C // H) * b if rotary else 0,  # cosines and sines
    }


def _saved_window(config, T: int, B: int, b: int) -> int:
    """What `layers.windowed_attention` keeps in one layer."""
    C, W, shared = config.width, config.window, key_width(config)
    blocks = -(-T // W)
    whole = B * blocks * W  # tokens, the last block filled up
    vectors = whole * (C + 2 * shared) + whole * C  # q, k and v, the output
    if B > 1 and blocks > 2:  # the later blocks are copies, not views
        vectors += B * (blocks - 1) * (W * C + 4 * W * shared)
    mask = 2 * W * W * b + W  # added to the scores, and its empty rows
    return vectors * b + 4 * config.heads * whole + mask


def training_bytes(config, T, *, B=1, bytes_per_value=4) -> dict[str, int]:
    """Weights, gradients, AdamW's two moments, and what `saved_activations` sums to."""
    weights = sum(parameters(config).values()) * bytes_per_value
    saved = saved_activations(config, T, B=B, bytes_per_value=bytes_per_value)
    return {
        "parameters": weights,
        "gradients": weights,
        "AdamW": 2 * weights,
        "activations": sum(saved.values()),
    }


def key_width(config) -> int:
    """Width of all keys of one token: Hkv·D."""
    return config.width // config.heads * (config.kv_heads or config.heads)
