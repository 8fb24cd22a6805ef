"""Another attention in a GPT, for as long as a `with` block lasts.

Knows where a model keeps its scores; leaves what is computed to who is put there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from sparse_attn.gpt import GPT

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@contextmanager
def swapped(model: GPT, scores: Mapping[int, nn.Module]):
    """`with swapped(model, {layer: module}):` these in place of `layers.Scores`.

    Restored afterwards, whatever happens. Works for evaluation and for training.
    """
    before = {i: model.blocks[i].attention.scores for i in scores}
    for i, module in scores.items():
        model.blocks[i].attention.scores = module
    try:
        yield model
    finally:
        for i, module in before.items():
            model.blocks[i].attention.scores = module


def attending(model: GPT, attend: Attend):
    """`with attending(model, lambda layer, q, k, v: ...):` and no longer.

    attend: causal attention of one layer, q (B, H, T, D) and k, v (B, Hkv, T, D), such
    as `kernels.sparse_attention`. Works for evaluation and for training, not with a
    cache.
    """
    layers = range(len(model.blocks))
    return swapped(model, {layer: AttendingScores(layer, attend) for layer in layers})


class AttendingScores(nn.Module):
    """attend(layer, q, k, v) in place of `layers.Scores`."""

    def __init__(self, layer: int, attend: Attend):
        super().__init__()
        self.layer, self.attend = layer, attend

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None):
        check_whole(q, k, mask)
        return self.attend(self.layer, q, k, v)


def check_whole(q: Tensor, k: Tensor, mask: Tensor | None):
    """All keys are those of the queries' own text; or raises ValueError."""
    T, S = q.shape[2], k.shape[2]
    if mask is not None or T != S:
        raise ValueError(
            f"cache holds {S - T} of {S} keys: this attention reads the whole text at "
            "once, and no cache"
        )
