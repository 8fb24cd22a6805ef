"""Attention over listed blocks without a kernel of our own: gather, then fused SDPA.

Knows how listed blocks are laid side by side for PyTorch's kernel, and the gradient;
a few blocks of queries at a time, so that copies stay small and in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_attn.flash.online import shift
from sparse_attn.kernels.attend import attend, wide
from sparse_attn.kernels.steps import loop_on
from sparse_attn.kernels.threads import side_by_side

ROWS = 512  # queries to a step: more steps cost calls, larger ones the cache
STEPS = 8  # to a part, which a thread takes as a whole
LANES = 8  # numbers that a processor takes at once
LONG = 4096  # queries from which on threads gain more apart than on each call together


@dataclass(frozen=True)
class Part:
    """Rows of query blocks of one head that list equally many blocks of keys.

    keys (R, n): their blocks; mask(): what is added to their scores, None where all
    keys are seen. sees: whether every query is known to see a key.
    """

    b: int
    h: int
    rows: slice
    keys: Tensor
    mask: Callable[[], Tensor | None]
    sees: bool


@torch.no_grad()
def forward(
    q, k, v, blocks, bias, mean_k, mean_v, causal, scale, block_q, block_k, pool
):
    """out (B, H, T, D) and lse (B, H, T), in fp32 or the dtype of q if wider.

    bias (B, H, n_q, n_pools): added to the scores of the pooled entries mean_k and
    mean_v, (B, Hkv, n_pools, D), of `pool` keys each; None for no such entries.
    """
    (T, S), groups = (q.shape[2], k.shape[2]), q.shape[1] // k.shape[1]
    q, k, v = (_blocks(x, n) for x, n in ((q, block_q), (k, block_k), (v, block_k)))
    out = torch.empty_like(q)
    lse = q.new_empty(q.shape[:-1], dtype=wide(q))
    first = complete_rows(blocks, block_q // block_k) if causal else 0
    if first:  # all that they see is listed: one call for all
        near, far = (x[:, :, : first * block_q // block_k] for x in (k, v))
        if groups > 1:
            near, far = (x.repeat_interleave(groups, dim=1) for x in (near, far))
        whole = (x.flatten(2, 3) for x in (q[:, :, :first], near, far))
        found = attend(*whole, None, scale, causal=True)
        for x, y in zip((out, lse), found, strict=True):
            x[:, :, :first] = y.unflatten(2, (first, block_q))

    at_once, attend_rows = _at_once(block_q), loop_on(q.device)

    def work(parts):
        heads, room = _heads(k, v), _room(q, blocks, at_once, block_k)
        for part in parts:
            b, h, rows, shared = part.b, part.h, part.rows, part.h // groups
            reach, pooled = _reach(rows, bias, causal, block_q, pool), None
            if bias is not None:
                pooled = mean_k[b, shared], mean_v[b, shared], bias[b, h, rows]
            mine, *goal = (x[b, h, rows, None] for x in (q, out, lse))
            listed = *heads(b, shared), part.keys, part.mask(), part.sees
            attend_rows(mine, *listed, pooled, reach, at_once, scale, room, *goal)

    parts = _parts(q, blocks, causal, block_q, block_k, first, S, STEPS)
    side_by_side(work, parts) if T > LONG else work(parts)
    return out.flatten(2, 3)[:, :, :T], lse.flatten(2, 3)[:, :, :T]


def backward(
    q,
    k,
    v,
    blocks,
    bias,
    mean_k,
    mean_v,
    out,
    lse,
    dout,
    dlse,
    causal,
    scale,
    block_q,
    block_k,
    pool,
):
    """dq, dk, dv, and the gradients of mean_k and mean_v, None without bias.

    The formulas of `flash.flash_attention`, on gathered blocks: weights are computed
    again from the log-sum-exp, and what belongs to one block is added up.
    """
    (T, S), groups = (q.shape[2], k.shape[2]), q.shape[1] // k.shape[1]
    offset = (dout.to(lse.dtype) * out).sum(dim=-1) - dlse  # (B, H, T)
    top = shift(lse).masked_fill(lse == -torch.inf, torch.inf)  # sees nothing: weight 0
    top, offset = (_blocks(x[..., None], block_q) for x in (top, offset))
    q, dout = (_blocks(x, block_q) for x in (q, dout))
    k, v = (_blocks(x, block_k) for x in (k, v))
    dq, dk, dv = (torch.zeros_like(x, dtype=lse.dtype) for x in (q, k, v))
    means = None if bias is None else (mean_k, mean_v)
    dmeans = means and tuple(torch.zeros_like(x, dtype=lse.dtype) for x in means)
    heads = _heads(k, v)
    for part in _parts(q, blocks, causal, block_q, block_k, 0, S, steps=1):
        at, shared = (part.b, part.h, part.rows), part.h // groups
        fixed = tuple(x[at].to(lse.dtype) for x in (q, dout, top, offset))
        near, far = (x[part.keys] for x in heads(part.b, shared))  # (R, n, block_k D)
        near, far = (x.reshape(len(x), -1, q.shape[-1]) for x in (near, far))
        mask = part.mask()
        mask = None if mask is None else mask[:, 0]
        dq[at], near, far = _slopes(*fixed, near, far, mask, scale)
        for total, x in ((dk, near), (dv, far)):
            rows = x.reshape(-1, *total.shape[3:])  # (R n, block_k, D)
            total[part.b, shared].index_add_(0, part.keys.flatten(), rows)
        (n,) = _reach(part.rows, bias, causal, block_q, pool)  # a part is a step
        if n:
            near, far = (x[part.b, shared, None, :n] for x in means)
            add = bias[at][:, None, :n]
            grad, near, far = _slopes(*fixed, near, far, add, scale)
            dq[at] += grad
            for total, x in zip(dmeans, (near, far), strict=True):
                total[part.b, shared, :n] += x.sum(dim=0)
    dq, dk, dv = (x.flatten(2, 3) for x in (dq, dk, dv))
    return dq[:, :, :T], dk[:, :, :S], dv[:, :, :S], *(dmeans or (None, None))


def _slopes(q, dout, top, offset, k, v, mask, scale):
    """Gradients of q, k and v from these keys alone; k and v (R or 1, n, D)."""
    k, v = k.to(q.dtype), v.to(q.dtype)
    scores = scale * (q @ k.mT)  # (R, block_q, n)
    weights = (scores if mask is None else scores + mask).sub_(top).exp_()
    slope = weights * (dout @ v.mT - offset)
    return scale * (slope @ k), scale * (slope.mT @ q), weights.mT @ dout


def complete_rows(blocks: Tensor, per: int) -> int:
    """How many of the first rows list all blocks up to their own, in every head."""
    own = torch.arange(1, blocks.shape[2] + 1, device=blocks.device) * per
    all_of_them = ((blocks >= 0).sum(dim=-1) == own) & (blocks.amax(dim=-1) < own)
    whole = all_of_them.flatten(0, 1).all(dim=0)
    return int(whole.long().cumprod(dim=0).sum())


def _parts(q, blocks, causal, block_q, block_k, first, S, steps) -> Iterator[Part]:
    """The rows of query blocks from `first` on, in runs of equal count and form, of as
    many steps at most; of one where each row has a mask of its own, which is large."""
    per, step = block_q // block_k, _at_once(block_q)
    row = torch.arange(blocks.shape[2], device=blocks.device)
    counts, last = (blocks >= 0).sum(dim=-1), blocks.amax(dim=-1)  # (B, H, n_q)
    start = row * per if causal else S // block_k  # blocks before it are seen whole
    form = (last >= start).long() * ODD
    if causal and blocks.shape[-1] >= per:
        at = torch.arange(per, device=blocks.device)
        tail = blocks.gather(-1, (counts[..., None] - per).clamp(min=0) + at)
        ends = (tail == row[:, None] * per + at).all(dim=-1) & (counts >= per)
        form = form.masked_fill(ends, OWN)
    kinds = torch.stack((counts, form), dim=-1)[:, :, first:].tolist()
    place = torch.arange(block_q, device=blocks.device)
    corner = q.new_zeros(block_q, block_q)
    corner = corner.masked_fill(place > place[:, None], -torch.inf)
    masked = lru_cache(1)(lambda before: F.pad(corner, (before, 0))[None, None])
    for b, heads in enumerate(kinds):
        for h, row_kinds in enumerate(heads):
            for i, j, (n, kind) in _runs(row_kinds, steps * step, step):
                rows = slice(first + i, first + j)
                keys, mask = blocks[b, h, rows, :n], lambda: None
                if kind == OWN:
                    mask = partial(masked, n * block_k - block_q)
                elif kind == ODD:
                    at = row[rows, None] * block_q + place  # (R, block_q)
                    mask = partial(_mask, at, keys, causal, block_k, S, q.dtype)
                yield Part(b, h, rows, keys, mask, kind != ODD)


OWN, ODD = 1, 2  # lists that end with the queries' own blocks; that need a mask


def _runs(kinds: list, most: int, few: int) -> Iterator[tuple[int, int, list]]:
    """Stretches i to j of equal entries, and the entry: at most `few` if it is ODD."""
    i = 0
    while i < len(kinds):
        j, limit = i + 1, few if kinds[i][1] == ODD else most
        while j < len(kinds) and j - i < limit and kinds[j] == kinds[i]:
            j += 1
        yield i, j, kinds[i]
        i = j


def _mask(at, keys, causal: bool, block_k: int, S: int, dtype) -> Tensor:
    """(R, 1, block_q, n block_k): -inf for keys after the query, or after all keys."""
    place = torch.arange(block_k, device=keys.device)
    key = (keys[..., None] * block_k + place).flatten(1)[:, None]  # (R, 1, n block_k)
    hidden = (key > at[..., None]) if causal else (key >= S).expand(-1, at.shape[1], -1)
    mask = torch.zeros(hidden.shape, dtype=dtype, device=keys.device)
    return mask.masked_fill_(hidden, -torch.inf)[:, None]


def _at_once(block_q: int) -> int:
    """Rows to a step."""
    return max(1, ROWS // block_q)


def _reach(rows: slice, bias, causal: bool, block_q: int, pool: int) -> list[int]:
    """How many of the first pooled entries each step reads: those that its last row may
    see, and up to a multiple of `LANES`, for odd lengths cost much more."""
    total, at_once = 0 if bias is None else bias.shape[-1], _at_once(block_q)
    ends = (min(i + at_once, rows.stop) for i in range(rows.start, rows.stop, at_once))
    seen = ((end - 1) * block_q // pool if causal else total for end in ends)
    return [min(total, -(-n // LANES) * LANES) for n in seen]


def _room(q: Tensor, blocks: Tensor, at_once: int, block_k: int) -> Tensor:
    """Two places, (rows, block_k D) each, for the blocks of a step: used by all, since
    fresh memory costs more than what is written to it."""
    rows = min(blocks.shape[2], at_once) * blocks.shape[-1]
    return q.new_empty(2, rows, block_k * q.shape[-1])


def _blocks(x: Tensor, size: int) -> Tensor:
    """(B, H, T, D) -> (B, H, n, size, D), padded with zeros: a view where it can be."""
    x = F.pad(x, (0, 0, 0, -x.shape[2] % size)) if x.shape[2] % size else x
    return x.unflatten(2, (-1, size))


def _heads(k: Tensor, v: Tensor):
    """heads(b, h): the blocks of one head of k and v, (n_k, block_k D) without gaps."""

    @lru_cache(maxsize=1)
    def heads(b: int, h: int) -> tuple[Tensor, Tensor]:
        return tuple(x[b, h].contiguous().flatten(1) for x in (k, v))

    return heads
