"""Attention over selected blocks of keys, of which only those travel between ranks.

Forward only. Leaves the choice to `kernels.blocks_from_means` and the work on one rank
to `kernels.block_attention`; `fetch` brings the blocks.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_attn.checks import check_choice, check_finite, check_qkv
from sparse_attn.distributed.fetch import fetch, relabel
from sparse_attn.distributed.layout import block_starts, spans_of
from sparse_attn.distributed.local import Partial
from sparse_attn.distributed.wire import all_gather, all_lengths, place
from sparse_attn.kernels import blocked
from sparse_attn.kernels.selection import (
    BLOCK_K,
    BLOCK_Q,
    EMPTY,
    GROUP,
    block_means,
    blocks_from_means,
    check_blocks,
)
from sparse_attn.kernels.sparse import RESTS, block_attention


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
    sinks: int = 1,
    local: int = 1,
    maps: tuple[Tensor, Tensor] | None = None,
    scale: float | None = None,
    group=None,
) -> Tensor:
    """`kernels.block_attention` over the blocks that `kernels.select_blocks` picks, for
    a sequence that no rank holds whole.

    q (B, H, T_r, D); k, v (B, Hkv, T_r, D): contiguous stretches in the order of the
    ranks; all but the last have a multiple of block_q tokens, see `block_layout`.
    keep: blocks per block of queries. All ranks send the means of their key blocks to
    all (and of values for rest="pooled"), each selects for its own queries what one
    process would, up to ties, and asks the owners for the blocks it lacks. Own blocks,
    fetched ones and pooled means are joined by their log-sum-exp. Forward only.
    Returns (B, H, T_r, D). Memory: the blocks that one rank's queries list, not T.
    Sends what `cost.selected_bytes` says. Raises ValueError for arguments that do not
    fit, RuntimeError when a neighbor is lost.
    """
    check_qkv(q, k, v)
    check_choice("rest", rest, RESTS)
    check_blocks(q, k, True, block_q, block_k)
    check_finite("scale", scale if scale is not None else 1.0)
    rank, N = place(group)
    lengths = all_lengths(q.shape[2], q.device, group)
    starts = block_starts(lengths, block_q, block_k)
    first, end = starts[rank], starts[rank + 1]

    sent = torch.stack((k, v)) if rest == "pooled" else k[None]
    means = block_means(sent.flatten(0, 1), block_k).unflatten(0, sent.shape[:2])
    shapes = [(*means.shape[:3], b - a, k.shape[-1]) for a, b in pairwise(starts)]
    means = torch.cat(all_gather("means", means, shapes, group), dim=3)

    how = dict(block_q=block_q, block_k=block_k)
    blocks = blocks_from_means(
        block_means(q, min(GROUP, block_q)),
        means[0],
        keep,
        causal=causal,
        sinks=sinks,
        local=local,
        maps=maps,
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
        bias = _bias(blocks, lengths, first, causal, block_q, block_k)
        mine.join(
            slice(None), *_pooled(q, k, v, bias, means, mine.scale, block_q, block_k)
        )
    return mine.result


def _bias(blocks, lengths, first: int, causal, block_q: int, block_k: int) -> Tensor:
    """(B, H, n_q, n): what is added to the score of each pooled mean that may be seen.

    The log of its block's size, or -inf where that is listed or not wholly past.
    """
    T, per = sum(lengths), block_q // block_k
    row = torch.arange(blocks.shape[2], device=blocks.device)
    own = first + row[:, None] * per  # first block of each row
    last = -(-T // block_k)
    columns = torch.arange(last, device=blocks.device)
    sizes = (T - columns * block_k).clamp(max=block_k).float().log()
    bias = sizes.expand(len(row), last)
    if causal:
        bias = bias.masked_fill(columns >= own, -torch.inf)
    bias = F.pad(bias, (0, 1))  # a column for those that are empty
    bias = bias.expand(*blocks.shape[:2], -1, -1)
    bias = bias.scatter(-1, blocks.where(blocks >= 0, last), -torch.inf)
    return bias[..., : int(own[-1]) if causal else last]


def _pooled(q, k, v, bias, means, scale: float, block_q: int, block_k: int):
    """(out, lse) over the pooled entries alone; means (2, B, Hkv, n_k, D)."""
    none = torch.full((*bias.shape[:3], 1), EMPTY, device=q.device)
    mean_k, mean_v = means[:, :, :, : bias.shape[-1]]
    return blocked.forward(
        q, k, v, none, bias, mean_k, mean_v, False, scale, block_q, block_k
    )
