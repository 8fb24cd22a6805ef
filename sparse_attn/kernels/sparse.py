"""Block-sparse attention end to end: choose blocks, attend to them, pool the rest.

Knows when the dense way is the faster one, and which path a device takes; leaves the
choice to `selection` and the work to `blocked` or to `fused`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparse_attn.checks import (
    check_choice,
    check_count,
    check_counts,
    check_finite,
    check_qkv,
)
from sparse_attn.kernels import blocked
from sparse_attn.kernels.attend import positive
from sparse_attn.kernels.fitting import has_kernels
from sparse_attn.kernels.selection import (
    BLOCK_K,
    BLOCK_Q,
    EMPTY,
    POOL,
    block_means,
    check_blocks,
    check_pool,
    select_blocks,
)
from sparse_attn.layers import fused_attention

RESTS = ("none", "pooled")


def sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keep: int = 512,
    *,
    causal: bool = False,
    rest: str = "none",
    block_q: int = BLOCK_Q,
    block_k: int = BLOCK_K,
    pool: int | None = None,
    sinks: int = 1,
    local: int = 4,
    dense_below: int | None = None,
) -> Tensor:
    """Attention over the `keep` keys per query that block means promise, in blocks.

    q (B, H, T, D); k, v (B, Hkv, T, D) with H a multiple of Hkv. keep: tokens, a
    multiple of block_k; the queries' own blocks, `local` blocks before them and the
    first `sinks` are among them. rest: "pooled" lets one mean key and value stand for
    what is not kept of every `pool` keys, as many as `pool_for` says unless given;
    "none" drops it.
    dense_below: lengths up to which exact attention over all keys is computed instead,
    since it is no slower there: None for `crossover(keep)`, which was measured.
    Returns (B, H, T, D), differentiable. O(T·keep) and one score for each pair of
    blocks; never T x T. If causal, up to block_q - 1 later queries have a say in which
    past keys a query sees, see `select_blocks`.
    Raises ValueError for arguments that do not fit.
    Source: selection by block means, Lu et al. 2025 (MoBA); one shared by a block of
    queries, Gao et al. 2024 (SeerAttention); a branch over compressed keys beside it,
    Yuan et al. 2025 (NSA).
    """
    check_qkv(q, k, v)
    check_choice("rest", rest, RESTS)
    check_counts(keep=keep, block_q=block_q, block_k=block_k)
    T = q.shape[2]
    if k.shape[2] != T:
        raise ValueError(f"k has {k.shape[2]} keys: as many as the {T} queries needed")
    if keep % block_k:
        raise ValueError(f"keep={keep} is not a multiple of block_k={block_k}")
    limit = crossover(keep) if dense_below is None else dense_below
    check_count("dense_below", limit, least=0)
    if max(limit, keep) >= T:
        return fused_attention(q, k, v, causal=causal)
    if causal and keep < block_q:
        raise ValueError(f"keep={keep}: at least block_q={block_q} is needed if causal")
    how = dict(causal=causal, block_q=block_q, block_k=block_k)
    blocks = select_blocks(q, k, keep // block_k, sinks=sinks, local=local, **how)
    if pool is None:
        pool = pool_for(T, block_q=block_q, block_k=block_k, local=local)
    return block_attention(q, k, v, blocks, rest=rest, pool=pool, **how)


def crossover(keep: int) -> int:
    """Tokens up to which exact attention is no slower than `keep` selected keys.

    A multiple of what is kept, measured by benchmarks/speed.py on the CPU that its
    results name, and not on your device: `dense_below` takes what you measured.
    """
    return keep * CROSSOVER


def pool_for(T: int, *, block_q: int = BLOCK_Q, block_k: int = BLOCK_K, local=4) -> int:
    """Keys for which one pooled entry stands in a text of T: more in a longer one.

    At first no more than queries share a list, then doubled while there would be over
    256 entries and no key falls between the last whole entry and the local blocks.
    """
    pool = max(block_k, min(POOL, block_q))
    while ENTRIES * pool < T and 2 * pool <= block_q + local * block_k:
        pool *= 2
    return pool


ENTRIES = 256  # with twice as many, they cost half of what 512 listed keys do
CROSSOVER = 3  # measured: sparse wins from about 2.5 keep on, on one thread or two


def block_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    blocks: Tensor,
    *,
    causal: bool = False,
    rest: str = "none",
    block_q: int = BLOCK_Q,
    block_k: int = BLOCK_K,
    pool: int = POOL,
    scale: float | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention in which each block of queries sees the blocks of keys that it lists.

    q (B, H, T, D); k, v (B, Hkv, S, D); blocks (B, H, ⌈T/block_q⌉, n): ids, each once,
    -1 for none. causal: keys after the query are hidden, and S = T; else any store of
    keys will do. rest: "pooled" adds, to the same softmax, one entry for every `pool`
    keys that, if causal, lie before the queries' block: their mean key and value, with
    the log of how many of them are not listed on the score.
    Returns (B, H, T, D), and with return_lse the log-sum-exp (B, H, T) in fp32 or
    wider; 0 and -inf for a query that sees nothing. Differentiable in q, k and v.
    Raises ValueError for arguments that do not fit.
    """
    check_qkv(q, k, v)
    check_choice("rest", rest, RESTS)
    check_blocks(q, k, causal, block_q, block_k)
    _check_ids(blocks, q, k, block_q, block_k)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    check_finite("scale", scale)
    q, scale = positive(q, scale)
    last = -(-k.shape[2] // block_k)
    spare = blocks == EMPTY
    blocks = blocks.masked_fill(spare, last).sort(dim=-1).values
    if ((blocks[..., 1:] == blocks[..., :-1]) & (blocks[..., 1:] < last)).any():
        raise ValueError("blocks has an id twice in a row: each once is needed")
    blocks = blocks.masked_fill(blocks == last, EMPTY)  # none at the end
    bias, means = None, (None, None)
    if rest == "pooled":
        check_pool(pool, block_k)
        sizes = dict(block_q=block_q, block_k=block_k, pool=pool)
        bias = pooled_bias(blocks, k.shape[2], causal=causal, **sizes)
        means = tuple(block_means(x, pool) for x in (k, v))
    path, sizes = _path(q, block_q, block_k), dict(block_q=block_q, block_k=block_k)
    how = dict(causal=causal, scale=scale, pool=pool) | sizes
    out, lse = _Blocks.apply(q, k, v, blocks, bias, *means, path, how)
    return (out, lse) if return_lse else out


class _Blocks(torch.autograd.Function):
    """Keeps out and the log-sum-exp, and computes weights again for the gradient."""

    @staticmethod
    def forward(ctx, q, k, v, blocks, bias, mean_k, mean_v, path, how):
        out, lse = path.forward(q, k, v, blocks, bias, mean_k, mean_v, **how)
        ctx.save_for_backward(q, k, v, blocks, bias, mean_k, mean_v, out, lse)
        ctx.path, ctx.how = path, how
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx, dout, dlse):
        found = ctx.path.backward(*ctx.saved_tensors, dout, dlse, **ctx.how)
        dq, dk, dv, dmean_k, dmean_v = (
            None if x is None else x.to(dout.dtype) for x in found
        )
        return dq, dk, dv, None, None, dmean_k, dmean_v, None, None


def _path(q: Tensor, block_q: int, block_k: int):
    """The module whose forward and backward this device takes."""
    if not has_kernels(q, block_q, block_k):
        return blocked
    from sparse_attn.kernels import fused

    return fused


def pooled_bias(
    blocks: Tensor,
    S: int,
    *,
    causal: bool,
    block_q: int,
    block_k: int,
    pool: int,
    first: int = 0,
) -> Tensor:
    """(B, H, n_q, ⌈S/pool⌉): log of how many keys an entry stands for, -inf for none.

    Those of its `pool` keys that the row's blocks do not list; if causal, only where
    all of them lie before the row, the first of which is at position `first`.
    """
    per, rows, last = pool // block_k, blocks.shape[2], -(-S // pool)
    entry = torch.arange(1, last + 1, device=blocks.device)
    left = (S - (entry - 1) * pool).clamp(max=pool).float()  # (n_pools,) keys of each
    left = F.pad(left, (0, 1)).repeat(*blocks.shape[:3], 1)  # and of one for "none"
    sizes = (S - blocks * block_k).clamp(max=block_k).to(left.dtype)
    homes = (blocks // per).where(blocks >= 0, last)
    bias = left.scatter_add_(-1, homes, -sizes)[..., :-1].log_()
    if causal:
        row = torch.arange(rows, device=blocks.device)[:, None]
        bias.masked_fill_(entry * pool > first + row * block_q, -torch.inf)
    return bias


def _check_ids(blocks: Tensor, q: Tensor, k: Tensor, block_q: int, block_k: int):
    rows, columns = -(-q.shape[2] // block_q), -(-k.shape[2] // block_k)
    fits = (*q.shape[:2], rows)
    if not isinstance(blocks, Tensor) or blocks.dtype not in (torch.int32, torch.int64):
        got = blocks.dtype if isinstance(blocks, Tensor) else type(blocks)
        raise ValueError(f"blocks is {got}: int64 or int32 is needed")
    if blocks.ndim != 4 or blocks.shape[:3] != fits or not blocks.shape[3]:
        raise ValueError(
            f"blocks has shape {tuple(blocks.shape)}: {fits} and n >= 1 are needed "
            f"for {q.shape[2]} queries in blocks of {block_q}"
        )
    if blocks.device != q.device:
        raise ValueError(f"blocks is on {blocks.device} but q on {q.device}")
    if blocks.numel() and not EMPTY <= int(blocks.min()) <= int(blocks.max()) < columns:
        raise ValueError(
            f"blocks has ids from {int(blocks.min())} to {int(blocks.max())}: {EMPTY} "
            f"to {columns - 1} are needed for {k.shape[2]} keys in blocks of {block_k}"
        )
