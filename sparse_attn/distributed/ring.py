"""Exact attention across ranks: keys and values go round a ring, or to everybody.

Forward only: messages have no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_attn.checks import check_finite, check_qkv
from sparse_attn.distributed.layout import Spans, count, spans_of
from sparse_attn.distributed.local import Partial
from sparse_attn.distributed.wire import all_gather, all_lengths, exchange, place


@torch.no_grad()
def ring_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    layout: str = "contiguous",
    scale: float | None = None,
    group=None,
) -> Tensor:
    """Attention over a sequence that no rank holds whole; each gets its own rows.

    q (B, H, T_r, D); k, v (B, Hkv, T_r, D): the tokens that `layout` gives this rank,
    in that order; T_r may differ between ranks. In each of N steps the block of keys
    and values at hand goes on to the next rank while the queries meet it; results are
    joined by their log-sum-exp. Causal blocks that are all future are passed on, not
    computed. Forward only. Returns (B, H, T_r, D).
    Memory: two blocks, whatever N. Sends T - T_next tokens per rank, see
    `cost.ring_bytes`. Raises ValueError for arguments that do not fit, RuntimeError
    when a neighbor is lost.
    Source: Liu et al. 2023, Ring Attention with Blockwise Transformers, algorithm 1.
    """
    spans = _held(q, k, v, layout, scale, group)
    rank, N = place(group)
    mine = Partial(q, spans[rank], causal=causal, scale=scale)
    block, after, before = torch.stack((k, v)), (rank + 1) % N, (rank - 1) % N
    for step in range(N):
        owner = (rank - step) % N
        if step < N - 1:
            coming = _empty(block, count(spans[owner - 1]))
            wait = exchange("blocks", {after: block}, {before: coming}, group)
        mine.absorb(*block, spans[owner])
        if step < N - 1:
            wait()
            block = coming
    return mine.result


@torch.no_grad()
def gathered_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    layout: str = "contiguous",
    scale: float | None = None,
    group=None,
) -> Tensor:
    """`ring_attention` by its simple rival: first all get all keys, then they compute.

    The same arguments, result and errors, and on average as many bytes; but nothing is
    computed while they travel, and each rank holds the keys of the whole sequence.
    """
    spans = _held(q, k, v, layout, scale, group)
    mine = Partial(q, spans[place(group)[0]], causal=causal, scale=scale)
    block = torch.stack((k, v))
    shapes = [_empty(block, count(held)).shape for held in spans]
    blocks = all_gather("blocks", block, shapes, group)
    for theirs, held in zip(blocks, spans, strict=True):
        mine.absorb(*theirs, held)
    return mine.result


def _held(q, k, v, layout: str, scale, group) -> list[Spans]:
    """Arguments checked, and what each rank holds."""
    check_qkv(q, k, v)
    if q.shape[2] != k.shape[2]:
        raise ValueError(
            f"k has {k.shape[2]} tokens but q {q.shape[2]}: a rank holds both of each"
        )
    if scale is not None:
        check_finite("scale", scale)
    return spans_of(all_lengths(q.shape[2], q.device, group), layout)


def _empty(block: Tensor, tokens: int) -> Tensor:
    """Room for a block (2, B, Hkv, tokens, D) like this one."""
    return block.new_empty(*block.shape[:3], tokens, block.shape[-1])
