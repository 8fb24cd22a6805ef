"""FLOPs of a whole GPT by part, for any setting of its switches.

Parts are named as in `profiling`, so that predicted and measured shares can be laid
side by side; `counting` counts the same sum in a real model.
"""

from sparse_attn.checks import check_counts
from sparse_attn.cost.flops import pairs
from sparse_attn.cost.memory import key_width


def flops_by_part(config, T: int, *, B: int = 1) -> dict[str, int]:
    """FLOPs of one forward pass over (B, T) tokens, all layers together.

    Scores as the program computes them: the formula forms the whole square, and so
    does the fused kernel when a window reaches it as a mask; only plainly causal
    attention skips half. Backward costs about twice as much, recomputation apart.
    """
    check_counts(T=T, B=B)
    C, L, hidden = config.width, config.layers, config.hidden or 4 * config.width
    masked = config.window is not None and config.window < T
    skips = config.attend == "fused" and not masked
    tokens, shared = B * T, key_width(config)
    return {
        "query": L * 2 * tokens * C * C,
        "key": L * 2 * tokens * C * shared,
        "value": L * 2 * tokens * C * shared,
        "scores": L * 4 * B * C * pairs(T, causal=skips),
        "out": L * 2 * tokens * C * C,
        "mlp up": L * 2 * tokens * C * hidden * (2 if config.mlp == "swiglu" else 1),
        "mlp down": L * 2 * tokens * hidden * C,
        "head": 2 * tokens * C * config.vocab,
    }
