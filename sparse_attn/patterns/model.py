"""A GPT whose attention follows a pattern, for as long as a `with` block lasts.

Knows where a model keeps its scores; leaves what is computed to the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from sparse_attn.gpt import GPT
from sparse_attn.patterns.catalog import Causal
from sparse_attn.patterns.engine import sparse_attention
from sparse_attn.patterns.pattern import Pattern, check_pattern


class PatternScores(nn.Module):
    """softmax(q kᵀ) v over the pairs of a pattern, in place of `layers.Scores`."""

    def __init__(self, pattern: Pattern | Sequence[Pattern]):
        super().__init__()
        self.pattern = pattern

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None):
        if mask is not None or q.shape[-2] != k.shape[-2]:
            T, S = q.shape[-2], k.shape[-2]
            raise ValueError(
                f"cache holds {S - T} of {S} keys: a pattern needs the whole text at "
                "once, and no cache"
            )
        return sparse_attention(q, k, v, self.pattern)


@contextmanager
def imposed(model: GPT, pattern: Pattern | Sequence[Pattern]):
    """`with imposed(model, pattern):` all its layers follow the pattern, and no longer.

    pattern: one for all heads, or one for each head; its causal part is what is used.
    Works for evaluation and for training; not with a cache.
    """
    if isinstance(pattern, Sequence):
        causal = tuple(check_pattern("pattern", one) & Causal() for one in pattern)
    else:
        causal = check_pattern("pattern", pattern) & Causal()
    before = [block.attention.scores for block in model.blocks]
    for block in model.blocks:
        block.attention.scores = PatternScores(causal)
    try:
        yield model
    finally:
        for block, scores in zip(model.blocks, before, strict=True):
            block.attention.scores = scores
