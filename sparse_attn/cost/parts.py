"""FLOPs of a whole GPT by part, for any setting of its switches.

Parts are named as in `profiling`, so that predicted and measured shares can be laid
side by side; `counting` counts the same sum in a real model.
"""

from sparse_attn.checks import check_counts
from sparse_attn.cost.flops import pairs
from sparse_attn.cost.memory import key_width


def flops_by_part(config, T: int, *, B: int = 1) -> dict[str, int]:
    """FLOPs of one forward pass over (B, T) tokens, all layers together.

    Scores as the program computes them, see `computed_pairs`. Backward costs about
    twice as much, recomputation apart.
    """
    check_counts(T=T, B=B)
    C, L, hidden = config.width, config.layers, config.hidden or 4 * config.width
    tokens, shared = B * T, key_width(config)
    return {
        "query": L * 2 * tokens * C * C,
        "key": L * 2 * tokens * C * shared,
        "value": L * 2 * tokens * C * shared,
        "scores": L * 4 * B * C * computed_pairs(config, T),
        "out": L * 2 * tokens * C * C,
        "mlp up": L * 2 * tokens * C * hidden * (2 if config.mlp == "swiglu" else 1),
        "mlp down": L * 2 * tokens * hidden * C,
        "head": 2 * tokens * C * config.vocab,
    }


def computed_pairs(config, T: int) -> int:
    """Query-key pairs that one head computes, needed or not.

    The formula forms the whole square. The fused kernel skips what is causally hidden
    and computes a window in blocks, the first one causal, the others window x
    2·window; sinks reach it as a mask over the square.
    """
    check_counts(T=T)
    window = config.window
    if config.attend == "formula":
        return pairs(T)
    if window is None or window >= T:
        return pairs(T, causal=True)
    if config.sinks:
        return pairs(T)
    later = -(-T // window) - 1  # blocks after the first, the last one filled up
    return pairs(window, causal=True) + later * 2 * window * window
