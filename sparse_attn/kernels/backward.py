"""The backward kernels: weights computed again from the log-sum-exp, no atomic sums.

One program per tile of keys sums dK and dV over all queries of all heads that share
the keys; one per tile of queries sums dQ over all its keys.
"""

import torch
import triton
import triton.language as tl

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
    tuned,
)


def launch(q, k, v, out, lse, dout, dlse, causal: bool, scale: float):
    """dq, dk, dv like q, k, v.

    D is a power of 2 from 16 on, the last axis dense, scale positive; lse and dlse
    (B, H, T) are contiguous.
    """
    (B, H, T, D), (heads, S) = q.shape, k.shape[1:3]
    dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
    row, norm = torch.empty_like(lse), torch.empty_like(lse)
    _prepare[(triton.cdiv(T, 64) * B * H,)](
        *(out, dout, lse, dlse, row, norm, strides_of(out, dout), H, T),
        *(D, 64),
    )
    sizes, length = (H, H // heads, T, S), length_class(T, S)
    how = dict(D=D, CAUSAL=causal)
    _dkv[lambda meta: (triton.cdiv(S, meta["BK"]) * B * heads,)](
        *(q, k, v, dout, row, norm, dk, dv),
        *(strides_of(q, k, v, dout, dk, dv), sizes, scale, length),
        **how,
    )
    _dq[lambda meta: (triton.cdiv(T, meta["BQ"]) * B * H,)](
        *(q, k, v, dout, row, norm, dq),
        *(strides_of(q, k, v, dout, dq), sizes, scale, length),
        **how,
    )
    return dq, dk, dv


@triton.jit
def _prepare(
    out,
    dout,
    lse,
    dlse,
    row,
    norm,
    strides,
    H,
    T,
    D: tl.constexpr,
    BQ: tl.constexpr,
):
    """row = rowsum(dO ∘ O) - dLSE; norm = LSE in units of log 2."""
    tile, b, h = program_of(T, H, BQ)
    rows = tile * BQ + tl.arange(0, BQ)
    inside = rows < T
    out, dout = head_of(out, strides[0], b, h), head_of(dout, strides[1], b, h)
    x = load_rows(out, rows, strides[0][2], T, D, True).to(tl.float32)
    y = load_rows(dout, rows, strides[1][2], T, D, True).to(tl.float32)
    at = (b * H + h).to(tl.int64) * T + rows
    slope = tl.sum(x * y, 1) - tl.load(dlse + at, mask=inside, other=0.0)
    tl.store(row + at, slope, mask=inside)
    size = tl.load(lse + at, mask=inside, other=0.0)
    tl.store(norm + at, size * LOG2E, mask=inside)


@tuned("dq")
@triton.jit(do_not_specialize=["length"])
def _dq(
    q,
    k,
    v,
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
):
    q_strides, k_strides, v_strides, dout_strides, dq_strides = strides
    H, groups, T, S = sizes
    tile, b, h = program_of(T, H, BQ)
    if CAUSAL:
        tile = tl.cdiv(T, BQ) - 1 - tile
    rows = tile * BQ + tl.arange(0, BQ)
    q, dout = head_of(q, q_strides, b, h), head_of(dout, dout_strides, b, h)
    mine = load_rows(q, rows, q_strides[2], T, D, True)
    theirs = load_rows(dout, rows, dout_strides[2], T, D, True)
    at = (b * H + h).to(tl.int64) * T + rows
    shift = tl.load(norm + at, mask=rows < T, other=float("inf"))
    offset = tl.load(row + at, mask=rows < T, other=0.0)
    k = head_of(k, k_strides, b, h // groups)
    v = head_of(v, v_strides, b, h // groups)

    last, clear, end = horizon(rows, tile * BQ, T, S, CAUSAL, BQ, BK)
    fixed = mine, theirs, shift, offset, k, v, k_strides[2], v_strides[2], last, S
    factor = scale * LOG2E
    total = tl.zeros((BQ, D), tl.float32)
    total = _keys_pass_by(total, fixed, factor, 0, clear, D, BK, False)
    total = _keys_pass_by(total, fixed, factor, clear, end, D, BK, True)
    dq = head_of(dq, dq_strides, b, h)
    store_rows(dq, rows, dq_strides[2], T, total * scale, D)


@triton.jit
def _keys_pass_by(
    total,
    fixed,
    factor,
    start,
    stop,
    D: tl.constexpr,
    BK: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Adds to dQ, not yet scaled, what comes from the keys from start to stop."""
    mine, theirs, shift, offset, k, v, k_stride, v_stride, last, S = fixed
    for at in range(start, stop, BK):
        index = at + tl.arange(0, BK)
        near = load_rows(k, index, k_stride, S, D, MASKED)
        far = load_rows(v, index, v_stride, S, D, MASKED)
        scores = product(mine, tl.trans(near), None)  # (BQ, BK)
        weights = tl.exp2(scores * factor - shift[:, None])
        if MASKED:
            weights = tl.where(index[None, :] <= last[:, None], weights, 0.0)
        slope = weights * (product(theirs, tl.trans(far), None) - offset[:, None])
        total = product(slope.to(near.dtype), near, total)
    return total


@tuned("dkv")
@triton.jit(do_not_specialize=["length"])
def _dkv(
    q,
    k,
    v,
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
    H, groups, T, S = sizes
    tile, b, shared = program_of(S, H // groups, BK)
    index = tile * BK + tl.arange(0, BK)
    k, v = head_of(k, k_strides, b, shared), head_of(v, v_strides, b, shared)
    near = load_rows(k, index, k_strides[2], S, D, True)
    far = load_rows(v, index, v_strides[2], S, D, True)

    # Queries before `start` see none of the keys; from `clear` on they see all of them.
    start, clear = 0, 0
    if CAUSAL:
        start = tl.maximum(tile * BK - (S - T), 0) // BQ * BQ
        clear = tl.cdiv(tl.maximum((tile + 1) * BK - 1 - (S - T), 0), BQ) * BQ
    factor = scale * LOG2E
    of_k, of_v = tl.zeros((BK, D), tl.float32), tl.zeros((BK, D), tl.float32)
    for group in range(groups):
        h = shared * groups + group
        at = (b * H + h).to(tl.int64) * T
        mine = head_of(q, q_strides, b, h)
        theirs = head_of(dout, dout_strides, b, h)
        fixed = near, far, mine, theirs, row + at, norm + at, index, T, S
        steps = q_strides[2], dout_strides[2]
        if CAUSAL:
            of_k, of_v = _queries_pass_by(
                *(of_k, of_v, fixed, steps, factor, start, tl.minimum(clear, T)),
                *(D, BQ, True),
            )
        of_k, of_v = _queries_pass_by(
            *(of_k, of_v, fixed, steps, factor, clear, T, D, BQ, False)
        )
    dk, dv = head_of(dk, dk_strides, b, shared), head_of(dv, dv_strides, b, shared)
    store_rows(dk, index, dk_strides[2], S, of_k * scale, D)
    store_rows(dv, index, dv_strides[2], S, of_v, D)


@triton.jit
def _queries_pass_by(
    of_k,
    of_v,
    fixed,
    steps,
    factor,
    start,
    stop,
    D: tl.constexpr,
    BQ: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Adds to dK, not yet scaled, and dV what comes from the queries start to stop.

    Tiles are transposed, (BK, BQ). Rows past T get norm +inf, so weight 0; what
    belongs to keys past S is wrong, and never stored.
    """
    near, far, q, dout, row, norm, index, T, S = fixed
    for at in range(start, stop, BQ):
        rows = at + tl.arange(0, BQ)
        inside = rows < T
        mine = load_rows(q, rows, steps[0], T, D, True)
        theirs = load_rows(dout, rows, steps[1], T, D, True)
        shift = tl.load(norm + rows, mask=inside, other=float("inf"))
        offset = tl.load(row + rows, mask=inside, other=0.0)
        scores = product(near, tl.trans(mine), None)
        weights = tl.exp2(scores * factor - shift[None, :])
        if MASKED:
            weights = tl.where(index[:, None] <= rows[None, :] + S - T, weights, 0.0)
        of_v = product(weights.to(theirs.dtype), theirs, of_v)
        slope = weights * (product(far, tl.trans(theirs), None) - offset[None, :])
        of_k = product(slope.to(mine.dtype), mine, of_k)
    return of_k, of_v
