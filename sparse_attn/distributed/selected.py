"""Attention over selected blocks of keys, of which only those travel between ranks.

Forward only. Leaves the choice to `kernels.blocks_from_means` and the work on one rank
to `kernels.block_attention`; `fetch` brings the blocks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_attn.checks import check_choice, check_finite, check_qkv
from sparse_attn.distributed.fetch import fetch, relabel
from sparse_attn.distributed.layout import block_starts, spans_of
from sparse_attn.distributed.local import Partial
from sparse_attn.distributed.wire import all_gather, all_lengths, place
from sparse_attn.kernels.attend import attend
from sparse_attn.kernels.selection import (
    BLOCK_K,
    BLOCK_Q,
    GROUP,
    POOL,
    block_means,
    blocks_from_means,
    check_blocks,
    check_pool,
)
from sparse_attn.kernels.sparse import RESTS, block_attention, pooled_bias


@torch.no_grad()
def selected_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keep: int,
    *,
    causal: bool = False,
    rest: str = "none",
    block_q: int = BLOCK_Q,
    block_k: int = BLOCK_K,
    pool: int = POOL,
    sinks: int = 1,
    local: int = 4,
    scale: float | None = None,
    group=None,
) -> Tensor:
    """`kernels.block_attention` over the blocks that `kernels.select_blocks` picks, for
    a sequence that no rank holds whole.

    q (B, H, T_r, D); k, v (B, Hkv, T_r, D): contiguous stretches in the order of the
    ranks; all but the last have a multiple of block_q tokens, see `block_layout`.
    keep: blocks per block of queries. All ranks send the means of their key blocks to
    all (for rest="pooled" also those of every `pool` values), each selects for its own
    queries what one process would, up to ties, and asks the owners for the blocks it
    lacks. Own blocks, fetched ones and pooled means are joined by their log-sum-exp.
    Forward only.
    Returns (B, H, T_r, D). Memory: the blocks that one rank's queries list, not T.
    Sends what `cost.selected_bytes` says. Raises ValueError for arguments that do not
    fit, RuntimeError when a neighbor is lost.
    """
    check_qkv(q, k, v)
    check_choice("rest", rest, RESTS)
    check_blocks(q, k, True, block_q, block_k)
    check_finite("scale", scale if scale is not None else 1.0)
    rank, N = place(group)
    if rest == "pooled":
        check_pool(pool, block_k)
    lengths = all_lengths(q.shape[2], q.device, group)
    starts = block_starts(lengths, block_q, block_k)
    first, end = starts[rank], starts[rank + 1]

    sent = [(k, block_k), (v, pool)] if rest == "pooled" else [(k, block_k)]
    means = _gathered_means(sent, lengths, group)
    how = dict(block_q=block_q, block_k=block_k)
    blocks = blocks_from_means(
        block_means(q, min(GROUP, block_q)),
        means[0],
        keep,
        causal=causal,
        sinks=sinks,
        local=local,
        first=first * block_k,
        **how,
    )
    here = (blocks >= first) & (blocks < end)
    mine = Partial(q, spans_of(lengths)[rank], causal=causal, scale=scale)
    q, how = mine.q, how | dict(scale=mine.scale, return_lse=True)
    own = relabel(blocks - first, here)
    mine.join(slice(None), *block_attention(q, k, v, own, causal=causal, **how))
    if N > 1:
        store, listed = fetch(k, v, blocks, ~here, lengths, starts, block_k, group)
        mine.join(slice(None), *block_attention(q, *store, listed, **how))
    if rest == "pooled":
        T, at = sum(lengths), dict(causal=causal, pool=pool, first=first * block_k)
        bias = pooled_bias(blocks, T, block_q=block_q, block_k=block_k, **at)
        entries = _coarser(means[0], T, block_k, pool), means[1]
        _pooled(mine, *entries, bias, block_q)
    return mine.result


def _gathered_means(sent, lengths, group) -> list[Tensor]:
    """Of each pair (tensor (B, Hkv, T_r, D), size) the means of every `size` tokens of
    all ranks, (B, Hkv, ⌈T/size⌉, D). They travel in one message."""
    mine = torch.cat([block_means(x, size) for x, size in sent], dim=2)
    counts = [[-(-length // size) for _, size in sent] for length in lengths]
    shapes = [(*mine.shape[:2], sum(n), mine.shape[-1]) for n in counts]
    parts = all_gather("means", mine, shapes, group)
    parts = [x.split(n, dim=2) for x, n in zip(parts, counts, strict=True)]
    return [torch.cat(x, dim=2) for x in zip(*parts, strict=True)]


def _coarser(means: Tensor, T: int, size: int, pool: int) -> Tensor:
    """Means of every `size` of T tokens, (B, Hkv, n, D) -> those of every `pool`."""
    per, wide = pool // size, torch.promote_types(means.dtype, torch.float32)
    counts = (T - torch.arange(0, T, size, device=means.device)).clamp(max=size)
    fill = -len(counts) % per
    weights = F.pad(counts.to(wide), (0, fill)).view(-1, per)  # the last block is short
    weights = weights / weights.sum(dim=-1, keepdim=True)
    means = F.pad(means, (0, 0, 0, fill)).unflatten(2, (-1, per))
    return (means * weights[..., None]).sum(dim=3).to(means.dtype)


HELD = 2**24  # scores of pooled entries that are held at a time


def _pooled(mine: Partial, mean_k, mean_v, bias: Tensor, block_q: int):
    """Joins what the queries get from pooled entries (B, Hkv, n, D), which are so few
    that every device computes them as dense attention. bias: (B, H, n_q, n)."""
    seen = (bias > -torch.inf).flatten(0, 2).any(dim=0).nonzero()
    n, (B, H, T, _) = int(seen[-1]) + 1 if len(seen) else 0, mine.q.shape
    near, far = (
        x[:, :, :n].repeat_interleave(H // x.shape[1], dim=1) for x in (mean_k, mean_v)
    )
    most = max(1, HELD // (B * H * block_q * max(1, n)))
    for i in range(0, bias.shape[2], most):
        rows = slice(i * block_q, min(T, (i + most) * block_q))
        add = bias[:, :, i : i + most, :n].repeat_interleave(block_q, dim=2)
        add = add[:, :, : rows.stop - rows.start]  # (B, H, rows, n)
        found = attend(mine.q[:, :, rows], near, far, add, mine.scale)
        mine.join(rows, *found)
