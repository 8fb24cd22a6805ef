"""The backward kernels of block-sparse attention, no atomic sums.

One program per block of queries sums dQ over its list; one per block of keys sums dK
and dV over the query blocks that list it, found by sorting the ids. `block_rest` sums
the gradients of pooled entries.
"""

import torch
import triton
import triton.language as tl

from sparse_attn.kernels import block_rest
from sparse_attn.kernels.backward import _prepare
from sparse_attn.kernels.block_forward import ENTRIES, listing, paced, pooled, rest_of
from sparse_attn.kernels.block_rest import norms_of
from sparse_attn.kernels.common import (
    LOG2E,
    head_of,
    horizon,
    length_class,
    load_rows,
    product,
    program_of,
    store_rows,
    strides_of,
)


def launch(
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
    causal: bool,
    scale: float,
    block_q: int,
    block_k: int,
    pool: int,
):
    """dq, dk, dv, dmean_k, dmean_v like q, k, v, mean_k, mean_v; without bias, None
    for the last two.

    Arguments as `block_forward.launch`, and out, lse as it gave them; lse and dlse
    (B, H, T) are contiguous.
    """
    (B, H, T, D), (heads, S) = q.shape, k.shape[1:3]
    n_k = triton.cdiv(S, block_k)
    row, norm = torch.empty_like(lse), torch.empty_like(lse)
    _prepare[(triton.cdiv(T, 64) * B * H,)](
        *(out, dout, lse, dlse, row, norm, strides_of(out, dout), H, T),
        *(D, 64),
    )
    sizes = H, H // heads, T, S, blocks.shape[-1]
    length = length_class(T, S)
    rest, is_pooled = rest_of(k, v, lse, bias, mean_k, mean_v)
    how = dict(D=D, CAUSAL=causal, BQ=block_q, BK=block_k)

    dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
    _dq[(triton.cdiv(T, block_q) * B * H,)](
        *(q, k, v, blocks, *rest, dout, row, norm, dq),
        *(strides_of(q, k, v, *rest[1:], dout, dq), sizes, scale, length),
        **how,
        N=triton.next_power_of_2(max(blocks.shape[-1], 1)),
        POOL=pool,
        BP=ENTRIES,
        POOLED=is_pooled,
    )
    offsets, visits = visitors(blocks, n_k)
    work = offsets.diff().view(B, heads, -1, n_k).sum(dim=2)  # (B, Hkv, n_k)
    order = work.flatten().argsort(descending=True).to(torch.int32)
    _dkv[(n_k * B * heads,)](
        *(q, k, v, order, offsets, visits, dout, row, norm, dk, dv),
        *(strides_of(q, k, v, dout, dk, dv), sizes, scale, length),
        **how,
    )
    if not is_pooled:
        return dq, dk, dv, None, None

    at = (*rest, dout, row, norm, causal, scale, block_q, pool)
    return dq, dk, dv, *block_rest.launch(q, S, *at)


def visitors(blocks, n_k: int):
    """The query blocks that list each key block: (offsets, visits), both in int32.

    blocks: (B, H, n_q, n), -1 for none. Those of key block j of head h of batch b are
    visits[offsets[i] : offsets[i + 1]], ascending, where i = (b H + h) n_k + j;
    offsets has B H n_k + 1 entries. Cost: one sort of the ids.
    """
    B, H, n_q, n = blocks.shape
    like = dict(dtype=torch.int32, device=blocks.device)
    heads = torch.arange(B * H, **like).view(B, H, 1, 1)
    places = (heads * n_k + blocks).masked_fill(blocks < 0, B * H * n_k)
    places, order = places.flatten().sort(stable=True)
    bounds = torch.arange(B * H * n_k + 1, **like)
    offsets = torch.searchsorted(places, bounds, out_int32=True)
    return offsets, (order // max(n, 1) % n_q).to(torch.int32)


@paced("D", "CAUSAL", "BQ", "BK", "POOL", "POOLED", "length")
@triton.jit(do_not_specialize=["length"])
def _dq(
    q,
    k,
    v,
    blocks,
    bias,
    mean_k,
    mean_v,
    dout,
    row,
    norm,
    dq,
    strides,
    sizes,
    scale,
    length,
    D: tl.constexpr,
    CAUSAL: tl.constexpr,
    BQ: tl.constexpr,
    BK: tl.constexpr,
    N: tl.constexpr,
    POOL: tl.constexpr,
    BP: tl.constexpr,
    POOLED: tl.constexpr,
):
    q_strides, k_strides, v_strides, mean_k_strides, mean_v_strides = strides[:5]
    dout_strides, dq_strides = strides[5:]
    H, groups, T, S, n = sizes
    tile, b, h = program_of(T, H, BQ)
    if CAUSAL:
        tile = tl.cdiv(T, BQ) - 1 - tile
    rows = tile * BQ + tl.arange(0, BQ)
    mine = head_of(q, q_strides, b, h)
    mine = load_rows(mine, rows, q_strides[2], T, D, True)
    theirs = head_of(dout, dout_strides, b, h)
    theirs = load_rows(theirs, rows, dout_strides[2], T, D, True)
    at = (b * H + h).to(tl.int64) * T
    shift, offset = norms_of(norm + at, row + at, rows, T)
    k = head_of(k, k_strides, b, h // groups)
    v = head_of(v, v_strides, b, h // groups)

    factor = scale * LOG2E
    total = tl.zeros((BQ, D), tl.float32)
    last, clear, _ = horizon(rows, tile * BQ, T, S, CAUSAL, BQ, BK)
    line = (b * H + h).to(tl.int64) * tl.cdiv(T, BQ) + tile
    ids, count = listing(blocks, line, n, N)
    for i in range(count):
        block = tl.load(ids + i)
        index = tl.maximum(block, 0) * BK + tl.arange(0, BK)
        near = load_rows(k, index, k_strides[2], S, D, True)
        far = load_rows(v, index, v_strides[2], S, D, True)
        scores = product(mine, tl.trans(near), None)  # (BQ, BK)
        weights = tl.exp2(scores * factor - shift[:, None])
        if (block < 0) | (block * BK + BK > clear):
            seen = (index[None, :] <= last[:, None]) & (block >= 0)
            weights = tl.where(seen, weights, 0.0)
        slope = weights * (product(theirs, tl.trans(far), None) - offset[:, None])
        total = product(slope.to(near.dtype), near, total)
    if POOLED:
        n_pools = tl.cdiv(S, POOL)
        bias += line * n_pools
        mean_k = head_of(mean_k, mean_k_strides, b, h // groups)
        mean_v = head_of(mean_v, mean_v_strides, b, h // groups)
        end = n_pools
        if CAUSAL:
            end = tl.minimum(tile * BQ // POOL, n_pools)
        steps = mean_k_strides[2], mean_v_strides[2]
        for start in range(0, end, BP):
            near, far, extra = pooled(
                *(bias, mean_k, mean_v, steps, start, n_pools, mine), *(D, BP)
            )
            scores = product(mine, tl.trans(near), None) + (extra / scale)[None, :]
            weights = tl.exp2(scores * factor - shift[:, None])
            slope = weights * (product(theirs, tl.trans(far), None) - offset[:, None])
            total = product(slope.to(near.dtype), near, total)
    dq = head_of(dq, dq_strides, b, h)
    store_rows(dq, rows, dq_strides[2], T, total * scale, D)


@paced("D", "CAUSAL", "BQ", "BK", "length")
@triton.jit(do_not_specialize=["length"])
def _dkv(
    q,
    k,
    v,
    order,
    offsets,
    visits,
    dout,
    row,
    norm,
    dk,
    dv,
    strides,
    sizes,
    scale,
    length,
    D: tl.constexpr,
    CAUSAL: tl.constexpr,
    BQ: tl.constexpr,
    BK: tl.constexpr,
):
    q_strides, k_strides, v_strides, dout_strides, dk_strides, dv_strides = strides
    H, groups, T, S, _ = sizes
    n_k = tl.cdiv(S, BK)
    place = tl.load(order + tl.program_id(0))  # the most visited first
    tile, b, shared = place % n_k, place // n_k // (H // groups), place // n_k
    shared = shared % (H // groups)
    index = tile * BK + tl.arange(0, BK)
    k, v = head_of(k, k_strides, b, shared), head_of(v, v_strides, b, shared)
    near = load_rows(k, index, k_strides[2], S, D, True)
    far = load_rows(v, index, v_strides[2], S, D, True)

    factor = scale * LOG2E
    of_k, of_v = tl.zeros((BK, D), tl.float32), tl.zeros((BK, D), tl.float32)
    for group in range(groups):
        h = shared * groups + group
        at = (b * H + h).to(tl.int64) * T
        mine, theirs = head_of(q, q_strides, b, h), head_of(dout, dout_strides, b, h)
        list_at = offsets + (b * H + h).to(tl.int64) * n_k + tile
        for i in range(tl.load(list_at), tl.load(list_at + 1)):
            rows = tl.load(visits + i) * BQ + tl.arange(0, BQ)
            asks = load_rows(mine, rows, q_strides[2], T, D, True)
            gets = load_rows(theirs, rows, dout_strides[2], T, D, True)
            shift, offset = norms_of(norm + at, row + at, rows, T)
            scores = product(near, tl.trans(asks), None)  # (BK, BQ), transposed
            weights = tl.exp2(scores * factor - shift[None, :])
            if CAUSAL:
                weights = tl.where(index[:, None] <= rows[None, :], weights, 0.0)
            of_v = product(weights.to(gets.dtype), gets, of_v)
            slope = weights * (product(far, tl.trans(gets), None) - offset[None, :])
            of_k = product(slope.to(asks.dtype), asks, of_k)
    dk, dv = head_of(dk, dk_strides, b, shared), head_of(dv, dv_strides, b, shared)
    store_rows(dk, index, dk_strides[2], S, of_k * scale, D)
    store_rows(dv, index, dv_strides[2], S, of_v, D)
