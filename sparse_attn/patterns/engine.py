"""Attention that touches only the blocks a pattern lists.

Knows how to gather blocks and hand them to a fused kernel; leaves what is listed to
`blocks`, and FlexAttention's own kernel to `flex`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_attn.checks import check_qkv
from sparse_attn.layers import fused_attention
from sparse_attn.patterns.blocks import BLOCK_K, Blocks, blocks
from sparse_attn.patterns.pattern import Pattern

ROWS = 16  # rows of blocks that are gathered together: bounds the copies held
KEPT = 2**26  # bytes of masks that are kept for the next call, for each list of blocks
HEIGHTS = {64: 1.45, 128: 1.2, 256: 1.0}  # block_q: cost of a pair, measured on a CPU


def sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern | Sequence[Pattern],
    *,
    block_q: int | None = None,
    block_k: int = BLOCK_K,
) -> Tensor:
    """`attention` under a pattern; blocks that hold no allowed pair cost nothing.

    q: (B, H, T, D); k, v: (B, Hkv, T, D). pattern: one for all heads, or H of them.
    block_q: None for the height of blocks that promises the least time. Rows of
    blocks with equally many keys go through the fused kernel together.
    Returns (B, H, T, D), differentiable; a query that sees no key gets zeros.
    Raises ValueError for arguments that do not fit. The list of blocks is made at
    the first call for a pattern and a length, and kept.
    """

    def attend(q, k, v, one: Pattern) -> Tensor:
        T = q.shape[2]
        height = best_height(one, T, block_k) if block_q is None else block_q
        return _gathered(q, k, v, blocks(one, T, height, block_k))

    return by_head(attend, q, k, v, pattern)


@lru_cache(maxsize=256)
def best_height(pattern: Pattern, T: int, block_k: int = BLOCK_K) -> int:
    """Queries per block for the least time: tall blocks are fast, low ones skip more.

    Compares the pairs in listed blocks, each at the cost measured for its height.
    """

    def work(height: int) -> float:
        listed = blocks(pattern, T, height, block_k).listed
        return listed * height * HEIGHTS[height]

    return min(HEIGHTS, key=work)


def by_head(attend: Callable, q, k, v, pattern: Pattern | Sequence[Pattern]) -> Tensor:
    """`attend(q, k, v, one)` for all heads at once, or for heads of equal pattern."""
    check_qkv(q, k, v)
    H, T = q.shape[1:3]
    if k.shape[2] != T:
        raise ValueError(f"k has {k.shape[2]} keys: as many as the {T} queries needed")
    if isinstance(pattern, Pattern):
        return attend(q, k, v, pattern)
    several = isinstance(pattern, Sequence) and len(pattern) == H
    if not several or not all(isinstance(one, Pattern) for one in pattern):
        raise ValueError(
            f"pattern={pattern!r}: one pattern, or one for each of {H} heads"
        )
    groups = H // k.shape[1]
    out, order = [], []
    for one in dict.fromkeys(pattern):
        heads = [h for h in range(H) if pattern[h] == one]
        shared = [h // groups for h in heads]  # the key-value head of each
        out.append(attend(q[:, heads], k[:, shared], v[:, shared], one))
        order += heads
    return torch.cat(out, dim=1)[:, sorted(range(H), key=order.__getitem__)]


def _gathered(q: Tensor, k: Tensor, v: Tensor, listed: Blocks) -> Tensor:
    B, H, T, _ = q.shape
    if listed.is_full or listed.is_causal:
        return fused_attention(q, k, v, causal=not listed.is_full)
    if not listed.listed:  # zeros, that still depend on k and v: by gradients of zero
        nothing = torch.ones((), dtype=torch.bool, device=q.device)
        return (q + k[:, :1] + v[:, :1]).masked_fill(nothing, 0.0)
    shared = k.shape[1] != H
    q = _in_blocks(q, listed.block_q)  # (H, B, rows, block_q, D)
    k, v = (_in_blocks(x, listed.block_k) for x in (k, v))
    parts, order = [], []
    for rows, columns, mask in _plan(listed, max(1, ROWS // B), q.device, q.dtype)():
        if mask is not None and len(mask) > 1:
            mask = mask.expand(B, *mask.shape).flatten(
                0, 1
            )  # (B R, block_q, n block_k)
        out = F.scaled_dot_product_attention(
            _pick(q, rows[:, None]),
            _pick(k, columns),
            _pick(v, columns),
            None if mask is None else mask[:, None],
            enable_gqa=shared,
        )  # (B R, H, block_q, D)
        parts.append(out.unflatten(0, (B, -1)))
        order.append(rows)
    rows = (listed.counts == 0).nonzero().flatten()
    if len(rows):
        parts.append(_pick(q, rows[:, None]).unflatten(0, (B, -1)))  # to become zeros
        order.append(rows)
    out = torch.cat(parts, dim=1)[:, torch.cat(order).argsort().to(q.device)]
    out = out.transpose(1, 2).flatten(2, 3)[:, :, :T]  # (B, H, T, D)
    blind = listed.blind
    return out.masked_fill(blind.to(q.device)[:, None], 0.0) if blind.any() else out


def _in_blocks(x: Tensor, size: int) -> Tensor:
    """(B, H, T, D) -> (H, B, n, size, D), padded with zeros: a view where it can be."""
    x = F.pad(x, (0, 0, 0, -x.shape[2] % size)) if x.shape[2] % size else x
    return x.unflatten(2, (-1, size)).transpose(0, 1)


@lru_cache(maxsize=32)
def _plan(listed: Blocks, most: int, device, dtype) -> Callable[[], Iterable]:
    """`_batches`, kept for the next call unless their masks are large together."""
    again = partial(_batches, listed, most, device, dtype)
    kept, size = [], 0
    for batch in again():
        kept.append(batch)
        size += 0 if batch[2] is None else batch[2].nbytes
        if size > KEPT:
            return again
    return lambda: kept


def _batches(listed: Blocks, most: int, device, dtype) -> Iterator:
    """Rows (R,) with equally many blocks, at most `most`; columns (R, n); their mask.

    The mask is (R, block_q, n block_k), to be added to scores; (1, ...) if it is the
    same for all rows, as in a window; None if every block is full.
    """
    for n in listed.counts.unique().tolist():
        if n == 0:
            continue
        for rows in (listed.counts == n).nonzero().flatten().split(most):
            at = listed.first[rows, None] + torch.arange(n)
            full, mask = listed.full[at], None
            if not full.all():
                hidden = torch.zeros(
                    *at.shape, *listed.inside.shape[1:], dtype=torch.bool
                )
                hidden[~full] = ~listed.inside[listed.partial[at[~full]]]
                hidden = hidden.transpose(1, 2).flatten(2)  # (R, block_q, n block_k)
                if (hidden == hidden[:1]).all():
                    hidden = hidden[:1]
                mask = torch.zeros(hidden.shape, dtype=dtype)
                mask = mask.masked_fill_(hidden, -torch.inf).to(device)
            yield rows, listed.column[at], mask


def _pick(x: Tensor, ids: Tensor) -> Tensor:
    """Blocks ids (R, n) of x (H, B, ·, size, D), side by side -> (B R, H, n·size, D).

    Runs of neighbors at even distances, as of a window, are views and copy nothing.
    """
    H, B, total, size, D = x.shape
    R, n = ids.shape
    first = ids[:, 0]
    step = int(first[1] - first[0]) if R > 1 else 1
    runs = (ids == first[:, None] + torch.arange(n)).all()
    if runs and step > 0 and (first == first[0] + step * torch.arange(R)).all():
        x = x[:, :, int(first[0]) : int(first[-1]) + n].unfold(2, n, step)
        found = x.movedim(-1, 3).flatten(3, 4)  # (H, B, R, n size, D)
    else:
        ids = ids.flatten() + total * torch.arange(H * B)[:, None]  # (H B, R n)
        found = x.reshape(-1, size * D).index_select(0, ids.flatten().to(x.device))
        found = found.view(H, B, R, n * size, D)
    return found.flatten(1, 2).transpose(0, 1)
