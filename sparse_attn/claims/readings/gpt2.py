"""The chart of GPT-2's bottlenecks: what was added to what, and divided by what.

Knows its batch, its model and its table of results; leaves costs to `cost`, and what
training runs reached to `results`.
"""

from __future__ import annotations

from collections.abc import Mapping

from sparse_attn import cost
from sparse_attn.gpt import GPTConfig

B, T = 4, 512  # sequences, and tokens of each
MODEL = GPTConfig.gpt2(attend="formula")
FUSED = MODEL.but(attend="fused")
LAYER = MODEL.but(layers=1)
SHARED = LAYER.but(kv_heads=4)
C, H = MODEL.width, MODEL.heads

PROJECTIONS = ("query", "key", "value", "out")
ATTENTION = (*PROJECTIONS, "scores")
BLOCK = (*ATTENTION, "mlp up", "mlp down")

REPORTED = {  # before and after the three remedies
    "tokens per second": (5000, 7700),
    "milliseconds per step": (51, 33),
    "GB at the peak": (8.5, 6.0),
    "validation loss": (3.50, 3.48),
}


def added_up() -> tuple[float, float, float]:
    """The column's sums for a head, a layer and the model, in multiply-adds.

    It adds the projections of one token, all heads, to one head's scores of the whole
    batch, and multiplies by twelve heads and twelve layers.
    """
    head = (cost.projections(1, C).flops + cost.scores(T, C // H, 1, B=B).flops) / 2
    return head, H * head, MODEL.layers * H * head


def attention() -> tuple[float, float, float]:
    """FLOPs of attention for a head, a layer and twelve layers, whole batch."""
    work = cost.flops_by_part(LAYER, T, B=B)
    layer = sum(work[part] for part in ATTENTION)
    return layer / H, layer, MODEL.layers * layer


def doubled(length: int) -> tuple[float, float, float]:
    """Times the FLOPs of twice the length: scores, attention layer, block."""
    short, long = (cost.flops_by_part(LAYER, n) for n in (length, 2 * length))
    return tuple(_ratio(long, short, ps) for ps in (("scores",), ATTENTION, BLOCK))


def left() -> tuple[float, float, float]:
    """% of FLOPs left with 4 key-value heads: projections, attention layer, block."""
    old, new = cost.flops_by_part(LAYER, T), cost.flops_by_part(SHARED, T)
    return tuple(100 * _ratio(new, old, ps) for ps in (PROJECTIONS, ATTENTION, BLOCK))


def faster() -> tuple[float, float, float]:
    """The same as % by which each gets faster, if time followed FLOPs."""
    return tuple(100 * (100 / share - 1) for share in left())


def _ratio(a: Mapping, b: Mapping, parts: tuple[str, ...]) -> float:
    return sum(a[part] for part in parts) / sum(b[part] for part in parts)


def mlp_weights() -> tuple[float, float, float]:
    """Weights of an MLP of 4x and of 3x the width, both matrices, and % saved."""
    wide, narrow = (
        cost.parameters(LAYER.but(hidden=n * C, bias=False))["mlp"] for n in (4, 3)
    )
    return wide, narrow, 100 * (1 - narrow / wide)


def training(config: GPTConfig) -> tuple[int, int, int, int, int]:
    """Bytes of a training step in the chart's order.

    Parameters, AdamW's moments, activations, gradients, and their sum.
    """
    held = cost.training_bytes(config, T, B=B)
    order = ("parameters", "AdamW", "activations", "gradients")
    return *(held[name] for name in order), sum(held.values())


def fused() -> tuple[float, float, float]:
    """Bytes of activations and in all with a fused kernel, and % saved in all."""
    *_, before = training(MODEL)
    _, _, activations, _, after = training(FUSED)
    return activations, after, 100 * (1 - after / before)


def kept_by_layer() -> tuple[int, int, int]:
    """Bytes that one layer keeps for backward: attention's squares with q, k and v,
    the MLP, and the residual stream as its two norms keep it."""
    one, two = (cost.saved_activations(MODEL.but(layers=n), T, B=B) for n in (1, 2))
    layer = {part: two[part] - one[part] for part in one}
    mlp = sum(layer[part] for part in ("mlp up", "mlp activation", "mlp down"))
    return layer["scores"], mlp, layer["norm"]


def improvements() -> tuple[float, ...]:
    """By how many % each row of `REPORTED` changed, up or down."""
    return tuple(100 * abs(after / old - 1) for old, after in REPORTED.values())


def rates() -> tuple[float, float]:
    """Tokens per second that follow from the reported times of a step."""
    return tuple(1000 * B * T / ms for ms in REPORTED["milliseconds per step"])
