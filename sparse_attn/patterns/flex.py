"""The same patterns through PyTorch's FlexAttention, where it can be compiled.

Knows how to say a list of blocks in FlexAttention's terms. Source: Dong et al. 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import flex_attention as flex

from sparse_attn.patterns.blocks import Blocks, blocks
from sparse_attn.patterns.engine import by_head
from sparse_attn.patterns.pattern import Pattern

BLOCK = 128  # queries and keys of its blocks


def flex_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern | Sequence[Pattern],
    *,
    kernel=None,
) -> Tensor:
    """`sparse_attention` by FlexAttention: the same arguments, the same result.

    kernel: FlexAttention compiled for these shapes, as `compiled_flex` gives it;
    None runs it uncompiled, which forms the whole square and is good for tests only.
    On a CPU it has no backward pass.
    """
    kernel = kernel or flex.flex_attention

    def attend(q, k, v, one: Pattern) -> Tensor:
        T = q.shape[2]
        mask = block_mask(one, T, q.device)
        return kernel(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])

    return by_head(attend, q, k, v, pattern)


@lru_cache(maxsize=32)
def block_mask(pattern: Pattern, T: int, device) -> flex.BlockMask:
    """The blocks of `pattern` as FlexAttention's BlockMask: built without T x T."""
    listed = blocks(pattern, T, BLOCK, BLOCK)
    rule, last = pattern.rule(T), T - 1

    def allowed(b, h, q, k):
        return rule(q.clamp(max=last), k.clamp(max=last)) & (k <= last)

    partial, whole = _table(listed, ~listed.full), _table(listed, listed.full)
    return flex.BlockMask.from_kv_blocks(
        *(x.to(device) for x in (*partial, *whole)),
        BLOCK_SIZE=BLOCK,
        mask_mod=allowed,
        seq_lengths=(T, T),
    )


def listed_mask(blocks: Tensor, T: int) -> flex.BlockMask:
    """Lists of `kernels.select_blocks`, causal, in squares of `BLOCK`, as a BlockMask.

    blocks (B, H, ⌈T/BLOCK⌉, n), -1 for none. The square on the diagonal is masked key
    by key; earlier ones are whole.
    """
    own = torch.arange(blocks.shape[2], device=blocks.device)[:, None]
    columns = -(-T // BLOCK)

    def table(which: Tensor) -> tuple[Tensor, Tensor]:
        ids = torch.where(which, blocks, columns).sort(dim=-1).values
        ids = F.pad(ids, (0, columns - ids.shape[-1])).clamp(max=columns - 1)
        return which.sum(dim=-1, dtype=torch.int32), ids.to(torch.int32)

    return flex.BlockMask.from_kv_blocks(
        *table(blocks == own),
        *table((blocks >= 0) & (blocks < own)),
        BLOCK_SIZE=BLOCK,
        mask_mod=lambda b, h, q, k: k <= q,
        seq_lengths=(T, T),
    )


def _table(listed: Blocks, which: Tensor) -> tuple[Tensor, Tensor]:
    """How many of these blocks each row has, (1, 1, rows), and their columns."""
    rows, columns = listed.row[which], listed.column[which]
    n = len(listed.counts)
    counts = torch.bincount(rows, minlength=n)
    table = torch.zeros(n, -(-listed.T // listed.block_k), dtype=torch.int32)
    at = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
    table[rows, at] = columns.to(torch.int32)
    return counts.to(torch.int32)[None, None], table[None, None]
