"""Attention in tiles, forward and backward, in plain PyTorch: never a T x S matrix.

The algorithm of FlashAttention without its speed, which only a kernel has; see
`kernels` for that, and `walk` for what it reads and writes.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparse_attn.checks import check_counts, check_finite, check_qkv
from sparse_attn.flash.online import Running, absorb, shift
from sparse_attn.flash.tiles import Tiles


def flash_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    block_q: int = 64,
    block_k: int = 64,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """`attention` in tiles of block_q queries and block_k keys, with its gradient.

    q: (B, H, T, D); k, v: (B, Hkv, S, D) with H a multiple of Hkv (grouped queries).
    causal: query t sees keys s <= t + S - T; tiles that nobody sees are skipped.
    scale: 1/√D unless given. Returns (B, H, T, D), zeros for a query that sees no
    key; with return_lse also log Σ exp(scores), (B, H, T), in fp32 (or the dtype of q
    if wider), -inf for such a query. Both have gradients, once.
    Raises ValueError for arguments that do not fit.
    Memory: O(T·D), and B·H tiles. Source: Dao et al. 2022; the order of the loops, and
    one log-sum-exp per row kept for backward, Dao 2023, algorithms 1 and 2.
    """
    check_qkv(q, k, v)
    check_counts(block_q=block_q, block_k=block_k)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    check_finite("scale", scale)
    tiles = Tiles(q.shape[-2], k.shape[-2], block_q, block_k, causal)
    forward, backward = (
        partial(fn, tiles=tiles, scale=scale) for fn in (_forward, _backward)
    )
    out, lse = Recomputed.apply(q, k, v, forward, backward)
    return (out, lse) if return_lse else out


class Recomputed(torch.autograd.Function):
    """Attention that keeps (out, lse) and computes its weights again for backward.

    forward(q, k, v) -> out, lse; backward(q, k, v, out, lse, dout, dlse) -> dq, dk, dv.
    """

    @staticmethod
    def forward(ctx, q, k, v, forward: Callable, backward: Callable):
        out, lse = forward(q, k, v)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.backward = backward
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx, dout, dlse):
        return *ctx.backward(*ctx.saved_tensors, dout, dlse), None, None


def _forward(q, k, v, tiles: Tiles, scale: float):
    heads, wide = k.shape[1], torch.promote_types(q.dtype, torch.float32)
    out, lse = torch.empty_like(q), q.new_empty(q.shape[:-1], dtype=wide)
    for queries in tiles.all_queries():
        mine = scale * _rows(q, queries, heads).to(wide)  # (B, Hkv, R, D)
        total, l = torch.zeros_like(mine), mine.new_zeros(mine.shape[:-1])
        state = Running(torch.full_like(l, -torch.inf), l)
        for keys in tiles.seen_by(queries):
            scores = mine @ k[:, :, keys].to(wide).mT  # (B, Hkv, R, block_k)
            scores = _hide(scores, tiles.hidden(queries, keys, q.device), -torch.inf)
            state, decay, weights = absorb(state, scores)
            total = decay[..., None] * total + weights @ v[:, :, keys].to(wide)
        total = total / state.l.clamp_min(1)[..., None]
        out[:, :, queries] = total.view_as(out[:, :, queries])
        lse[:, :, queries] = state.lse.view_as(lse[:, :, queries])
    return out, lse


def _backward(q, k, v, out, lse, dout, dlse, tiles: Tiles, scale: float):
    """P = exp(scores - LSE); dV = Pᵀ dO; dS = P ∘ (dO Vᵀ - rowsum(dO ∘ O) + dLSE);
    dQ = dS K; dK = dSᵀ Q. Dao et al. 2022, appendix B.2."""
    heads, wide = k.shape[1], torch.promote_types(q.dtype, torch.float32)
    dq = torch.empty_like(q)
    dk, dv = (torch.zeros_like(x, dtype=wide) for x in (k, v))
    for queries in tiles.all_queries():
        mine, theirs, result = (
            _rows(x, queries, heads).to(wide) for x in (q, dout, out)
        )  # (B, Hkv, R, D)
        mine, grad = scale * mine, torch.zeros_like(mine)
        top, row = (_rows(x[..., None], queries, heads) for x in (lse, dlse))
        row = (theirs * result).sum(dim=-1, keepdim=True) - row  # (B, Hkv, R, 1)
        for keys in tiles.seen_by(queries):
            near, far = k[:, :, keys].to(wide), v[:, :, keys].to(wide)
            weights = (mine @ near.mT - shift(top)).exp()  # (B, Hkv, R, block_k)
            weights = _hide(weights, tiles.hidden(queries, keys, q.device), 0.0)
            slope = weights * (theirs @ far.mT - row)
            dv[:, :, keys] += weights.mT @ theirs
            dk[:, :, keys] += slope.mT @ mine
            grad += slope @ near
        dq[:, :, queries] = (scale * grad).view_as(dq[:, :, queries])
    return dq, dk.to(k.dtype), dv.to(v.dtype)


def _rows(x: Tensor, queries: slice, heads: int) -> Tensor:
    """(B, H, T, D) -> (B, Hkv, H/Hkv · rows, D): heads that share keys, one on another.

    So a tile of keys meets all its queries in one product, and is never repeated.
    """
    tile = x[:, :, queries]
    return tile.reshape(x.shape[0], heads, -1, x.shape[-1])


def _hide(x: Tensor, hidden: Tensor | None, value: float) -> Tensor:
    """x (B, Hkv, R, columns) with `value` where hidden (rows, columns) says so."""
    if hidden is None:
        return x
    return x.masked_fill(hidden.repeat(x.shape[-2] // len(hidden), 1), value)
