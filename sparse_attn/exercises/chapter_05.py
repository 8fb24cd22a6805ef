"""Answers and likely mistakes for chapter 5, computed, not typed."""

import math

import torch

from sparse_attn.exercises import Function, Number

_MERGED = 2 * math.exp(-2) + 4
_SHARE = 1 / (1 + math.exp(-1))  # of the device with LSE 5 against 4


def _updates(update) -> str | None:
    """(m, l, o, scores, values) -> state, over blocks whose maximum rises and falls."""
    for order in ("rising", "falling"):
        scores = torch.linspace(-2.0, 2.0, 6)
        scores = scores if order == "rising" else scores.flip(0)
        values = torch.arange(12.0).view(6, 2)
        state = torch.tensor(-torch.inf), torch.tensor(0.0), torch.zeros(2)
        for x, v in zip(scores.split(2), values.split(2), strict=True):
            state = update(*state, x, v)
            if not isinstance(state, tuple) or len(state) != 3:
                return f"It gives {state!r}; a new (m, l, o) is needed."
        m, l, o = state
        if not torch.allclose(m, scores.max()):
            return f"With {order} scores m is {float(m):.4g}, not the maximum."
        if not torch.allclose(l, (scores - m).exp().sum()):
            return f"With {order} scores l is {float(l):.4g}, not the sum."
        if not torch.allclose(o / l, scores.softmax(-1) @ values):
            return (
                f"With {order} scores the output is wrong: o holds terms with an "
                "older maximum in them."
            )
    return None


EXERCISES = {
    "5.1": Number(
        _MERGED,
        "Only the block with the lower maximum is rescaled.",
        {
            6: "The two sums are relative to different maxima.",
            2 + 4 * math.exp(2): "That is relative to m = 1; the maximum is 3.",
            2 * math.exp(2) + 4: "Rescaled to a higher maximum, a sum shrinks.",
        },
        tolerance=1e-3,
    ),
    "5.2": Number(
        2.5 + math.log(4096),
        "Equal scores: the maximum, plus the logarithm of their number.",
        {
            2.5: "That is the maximum; there are 4,096 of them.",
            math.log(4096): "That is ln l; add m.",
            4096 * math.exp(2.5): "That is the sum of exponentials: its logarithm.",
        },
        tolerance=1e-3,
    ),
    "5.3": Function(
        _updates,
        "Everything accumulated is relative to one maximum, and moves with it.",
    ),
    "5.4": Number(
        8192 // 64 - 1,
        "Rising scores are the worst case: every block but the first rescales.",
        {
            8192 // 64: "The first block has nothing before it to rescale.",
            8191: "A block asks for its maximum once.",
        },
        tolerance=1e-3,
    ),
    "5.5": Number(
        0.2 * _SHARE + 0.8 * (1 - _SHARE),
        "The larger log-sum-exp has the larger say.",
        {
            0.5: "They saw different shares of the total weight.",
            0.2 * (1 - _SHARE) + 0.8 * _SHARE: "The other way around.",
            (5 * 0.2 + 4 * 0.8) / 9: "Weigh with e to the LSE, not with the LSE.",
        },
        tolerance=1e-3,
    ),
}
