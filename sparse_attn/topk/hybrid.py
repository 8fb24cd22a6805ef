"""Attention in which some heads are replaced and the others stay exact.

Knows where a GPT keeps its heads; leaves what stands in for one to `heads`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sparse_attn.checks import check_count
from sparse_attn.gpt import GPT
from sparse_attn.layers import GroupedQueryAttention, rotate
from sparse_attn.topk.heads import Chosen, TopKHead, check_length
from sparse_attn.topk.networks import HeadApproximator, KeySelector


class ReplacedHeads(nn.Module):
    """The teacher's attention, some heads of which are computed by a stand-in.

    stand_ins: head -> module of `heads`. The other heads are exact, and only they are
    computed exactly. Input and output (B, T, C), as of the attention it replaces, with
    whose weights it shares everything.
    Raises ValueError for a head that does not exist, and for a cache.
    """

    def __init__(
        self, attention: GroupedQueryAttention, stand_ins: Mapping[int, nn.Module]
    ):
        super().__init__()
        self.attention = attention
        self.heads = attention.query.out_features // attention.head_width
        for head in stand_ins:
            check_count("head", head, least=0, most=self.heads - 1)
        self.exact = [h for h in range(self.heads) if h not in stand_ins]
        self.stand_ins = nn.ModuleDict({str(h): m for h, m in stand_ins.items()})

    def forward(self, x: Tensor, cache=None) -> Tensor:
        if cache is not None:
            raise ValueError(
                "cache is given: replaced heads need the whole text at once"
            )
        q, k, v = projected(self.attention, x)  # 3 of (B, H, T, D)
        y = torch.empty_like(q)
        if self.exact:
            y[:, self.exact] = self.attention.scores(
                q[:, self.exact], k[:, self.exact], v[:, self.exact]
            )
        for head, stand_in in self.stand_ins.items():
            h = int(head)
            y[:, h] = stand_in(q[:, h], k[:, h], v[:, h])
        return self.attention.merge(y)


def projected(attention: GroupedQueryAttention, x: Tensor) -> tuple[Tensor, ...]:
    """q, k, v of every head, (B, H, T, D): turned if rotary, shared keys repeated."""
    q, k, v = attention.project(x)
    if attention.rotary:
        at = torch.arange(x.shape[1], device=x.device)
        q, k = rotate(q, at), rotate(k, at)
    shared = q.shape[1] // k.shape[1]
    return q, *(z.repeat_interleave(shared, dim=1) for z in (k, v))


class HybridCausalSelfAttention(ReplacedHeads):
    """The published hybrid: selector and approximator for some heads, the rest exact.

    selectors, approximators: head -> network, for the same heads; K: keys kept.
    Faithful by default, and each fault is a switch. causal=False: a query may pick
    keys of the future. slots="ranked": values stand in the order of the selector's
    logits, although the approximator learned them in the order of the teacher's
    weights; "position" and "weight" use one order in both places, see `lay_out`.
    Raises ValueError for networks that do not fit each other, the heads or K; in use,
    for a cache and for a text of any other length than the selectors were made for.
    Source: github.com/MikeyBeez/sparse-attention-mlp, run_mps_topk_mlp_fixed.py.
    """

    def __init__(
        self,
        attention: GroupedQueryAttention,
        selectors: Mapping[int, KeySelector],
        approximators: Mapping[int, HeadApproximator],
        K: int,
        *,
        causal: bool = False,
        slots: str = "ranked",
    ):
        D = attention.head_width
        if set(selectors) != set(approximators):
            raise ValueError(
                f"selectors are for heads {sorted(selectors)} but approximators for "
                f"{sorted(approximators)}: each head needs both"
            )
        for head, selector in selectors.items():
            check_count("K", K, most=selector.seq_len)
            _check_fit(head, selector, approximators[head], K, D)
        super().__init__(
            attention,
            {
                head: TopKHead(
                    Chosen(selector, causal=causal),
                    approximators[head],
                    K,
                    slots=slots,
                )
                for head, selector in selectors.items()
            },
        )

    def forward(self, x: Tensor, cache=None) -> Tensor:
        for stand_in in self.stand_ins.values():
            check_length(stand_in.choose.selector, x.shape[1])
        return super().forward(x, cache)


def _check_fit(head: int, selector, approximator, K: int, D: int):
    wanted = {"selector.d_in": D, "approximator.d_in": K * D, "approximator.d_out": D}
    got = (selector.d_in, approximator.d_in, approximator.d_out)
    for (name, fits), n in zip(wanted.items(), got, strict=True):
        if n != fits:
            raise ValueError(
                f"{name}={n} of head {head}: K={K} keys of width {D} need {fits}"
            )


@contextmanager
def replaced(model: GPT, stand_ins: Mapping[int, Mapping[int, nn.Module]]):
    """`with replaced(model, {layer: {head: stand_in}}):` and restored afterwards.

    A whole HybridCausalSelfAttention may be given in place of {head: stand_in}.
    Works for evaluation and for training; not with a cache.
    """
    for layer in stand_ins:
        check_count("layer", layer, least=0, most=len(model.blocks) - 1)
    made = {}
    for layer, heads in stand_ins.items():
        if not isinstance(heads, nn.Module):
            heads = ReplacedHeads(model.blocks[layer].attention, heads)
        made[layer] = heads
    before = {layer: model.blocks[layer].attention for layer in made}
    for layer, attention in made.items():
        model.blocks[layer].attention = attention
    try:
        yield model
    finally:
        for layer, attention in before.items():
            model.blocks[layer].attention = attention
