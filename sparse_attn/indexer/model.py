"""A GPT that attends to selected keys, for as long as a `with` block lasts.

Knows how to listen in; leaves what is selected to the selectors, what stands for the
others to `rest`, and putting it in its place to `attending`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparse_attn.attending import check_whole, swapped
from sparse_attn.checks import check_choice, check_count
from sparse_attn.gpt import GPT
from sparse_attn.indexer.rest import BLOCK, RESTS, Correction, selected_attention
from sparse_attn.indexer.selector import Mass, Selector


class QKV(NamedTuple):
    """Of one layer: q (B, H, T, D), turned by their positions, and k, v alike."""

    q: Tensor
    k: Tensor
    v: Tensor


class SelectedScores(nn.Module):
    """Attention over selected keys in place of `layers.Scores`; counts what it keeps.

    kept: mean number of keys per query and head at the last call. heads: those that
    are replaced, None for all; the others keep to `before`.
    """

    def __init__(self, before, selector, K, rest, block, correction, heads):
        super().__init__()
        self.before = before
        self.selector, self.correction = selector, correction
        self.K, self.rest, self.block = K, rest, block
        self.heads, self.kept = heads, float("nan")

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None):
        check_whole(q, k, mask)
        chosen = self.selector.select(q, k, self.K, causal=True)
        self.kept = float((chosen >= 0).sum() / chosen[..., 0].numel())
        out = selected_attention(
            q,
            k,
            v,
            chosen,
            causal=True,
            rest=self.rest,
            block=self.block,
            correction=self.correction,
        )
        if self.heads is None:
            return out
        replaced = torch.zeros(q.shape[1], dtype=torch.bool, device=q.device)
        replaced[list(self.heads)] = True
        return out.where(replaced[:, None, None], self.before(q, k, v))


def selecting(
    model: GPT,
    selectors: Selector | Sequence[Selector],
    K: int | Mass,
    *,
    rest: str = "none",
    block: int = BLOCK,
    corrections: Sequence[Correction] | None = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
):
    """`with selecting(model, indexers, K=64, rest="pooled"):` and no longer.

    selectors: one for all layers, or one for each. rest: as in `selected_attention`;
    corrections: one for each layer where it asks for them.
    layers, heads: those that are replaced, None for all. Works for evaluation and for
    training, not with a cache.
    """
    L, H = len(model.blocks), model.config.heads
    check_choice("rest", rest, RESTS)
    at_all = [selectors] * L if isinstance(selectors, Selector) else list(selectors)
    mends = [None] * L if corrections is None else list(corrections)
    for name, given in (("selectors", at_all), ("corrections", mends)):
        if len(given) != L:
            raise ValueError(f"{name} has {len(given)}: one for each of {L} layers")
    for name, given, most in (("layers", layers, L), ("heads", heads, H)):
        for i in given or ():
            check_count(name, i, least=0, most=most - 1)
    if not isinstance(K, Mass):
        check_count("K", K)
    made = {}
    for i in range(L) if layers is None else layers:
        before = model.blocks[i].attention.scores
        made[i] = SelectedScores(before, at_all[i], K, rest, block, mends[i], heads)
    return swapped(model, made)


def keys_kept(model: GPT) -> float:
    """Inside `selecting`: mean keys per query, over heads and layers, last call."""
    scores = (block.attention.scores for block in model.blocks)
    kept = [s.kept for s in scores if isinstance(s, SelectedScores)]
    if not kept:
        raise ValueError("model selects nothing: ask inside `with selecting(...)`")
    return sum(kept) / len(kept)


@torch.no_grad()
def signals(model: GPT, tokens: Tensor) -> list[QKV]:
    """Queries, keys and values of every layer while the model reads (B, T) tokens."""
    heard: list[QKV] = []
    hooks = [
        block.attention.scores.register_forward_pre_hook(
            lambda _, qkv: heard.append(QKV(*qkv[:3]))
        )
        for block in model.blocks
    ]
    try:
        model(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return heard
