"""The backward kernel of pooled entries: one program per tile of them and head sums
their gradients over all query blocks.
"""

import torch
import triton
import triton.language as tl

from sparse_attn.kernels.block_forward import ENTRIES, paced
from sparse_attn.kernels.common import (
    LOG2E,
    head_of,
    length_class,
    load_rows,
    product,
    program_of,
    store_rows,
    strides_of,
)


def launch(
    q,
    S: int,
    bias,
    mean_k,
    mean_v,
    dout,
    row,
    norm,
    causal: bool,
    scale: float,
    block_q: int,
    pool: int,
):
    """dmean_k, dmean_v like mean_k, mean_v, each of which stands for
    `pool` of S keys.

    row, norm: (B, H, T) in fp32, rowsum(dO ∘ O) - dLSE and LSE in units of log 2. By
    query head, so that there are enough programs; a group's are then added up.
    """
    (B, H, T, D), (heads, n_pools) = q.shape, mean_k.shape[1:3]
    of_k, of_v = q.new_empty(2, B, H, n_pools, D, dtype=torch.float32)
    _dmean[(triton.cdiv(n_pools, ENTRIES) * B * H,)](
        *(q, bias, mean_k, mean_v, dout, row, norm, of_k, of_v),
        strides_of(q, mean_k, mean_v, dout, of_k, of_v),
        (H, H // heads, T, S),
        *(scale, length_class(T, S)),
        D=D,
        CAUSAL=causal,
        BQ=block_q,
        POOL=pool,
        BP=ENTRIES,
    )
    sums = (x.unflatten(1, (heads, -1)).sum(dim=2) for x in (of_k, of_v))
    return (x.to(y.dtype) for x, y in zip(sums, (mean_k, mean_v), strict=True))


@paced("D", "CAUSAL", "BQ", "POOL", "length")
@triton.jit(do_not_specialize=["length"])
def _dmean(
    q,
    bias,
    mean_k,
    mean_v,
    dout,
    row,
    norm,
    of_k,
    of_v,
    strides,
    sizes,
    scale,
    length,
    D: tl.constexpr,
    CAUSAL: tl.constexpr,
    BQ: tl.constexpr,
    POOL: tl.constexpr,
    BP: tl.constexpr,
):
    q_strides, mean_k_strides, mean_v_strides, dout_strides = strides[:4]
    of_k_strides, of_v_strides = strides[4:]
    H, groups, T, S = sizes
    n_q, n_pools = tl.cdiv(T, BQ), tl.cdiv(S, POOL)
    tile, b, h = program_of(n_pools, H, BP)
    entries = tile * BP + tl.arange(0, BP)
    near = head_of(mean_k, mean_k_strides, b, h // groups)
    near = load_rows(near, entries, mean_k_strides[2], n_pools, D, True)
    far = head_of(mean_v, mean_v_strides, b, h // groups)
    far = load_rows(far, entries, mean_v_strides[2], n_pools, D, True)
    near, far = near.to(q.dtype.element_ty), far.to(q.dtype.element_ty)
    q, dout = head_of(q, q_strides, b, h), head_of(dout, dout_strides, b, h)
    at = (b * H + h).to(tl.int64) * T
    start = 0
    if CAUSAL:  # the first query block that the first entry lies wholly before
        start = tl.cdiv((tile * BP + 1) * POOL, BQ)
    bias += ((b * H + h).to(tl.int64) * n_q + start) * n_pools

    total_k, total_v = tl.zeros((BP, D), tl.float32), tl.zeros((BP, D), tl.float32)
    for i in range(start, n_q):
        rows = i * BQ + tl.arange(0, BQ)
        asks = load_rows(q, rows, q_strides[2], T, D, True)
        gets = load_rows(dout, rows, dout_strides[2], T, D, True)
        shift, offset = norms_of(norm + at, row + at, rows, T)
        extra = tl.load(bias + entries, mask=entries < n_pools, other=float("-inf"))
        bias += n_pools
        scores = product(near, tl.trans(asks), None) + (extra / scale)[:, None]
        weights = tl.exp2(scores * (scale * LOG2E) - shift[None, :])  # (BP, BQ)
        total_v = product(weights.to(gets.dtype), gets, total_v)
        slope = weights * (product(far, tl.trans(gets), None) - offset[None, :])
        total_k = product(slope.to(asks.dtype), asks, total_k)
    of_k, of_v = head_of(of_k, of_k_strides, b, h), head_of(of_v, of_v_strides, b, h)
    store_rows(of_k, entries, of_k_strides[2], n_pools, total_k * scale, D)
    store_rows(of_v, entries, of_v_strides[2], n_pools, total_v, D)


@triton.jit
def norms_of(norm, row, rows, T):
    """LSE in units of log 2, and rowsum(dO ∘ O) - dLSE, of rows of one head.

    Rows past T and rows that saw nothing get +inf, so that all their weights are 0.
    """
    shift = tl.load(norm + rows, mask=rows < T, other=float("inf"))
    shift = tl.where(shift == float("-inf"), float("inf"), shift)
    return shift, tl.load(row + rows, mask=rows < T, other=0.0)
