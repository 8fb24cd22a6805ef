"""The forward kernel: a program per tile of queries, which all its keys pass by."""

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


def launch(q, k, v, causal: bool, scale: float):
    """out like q, and the log-sum-exp (B, H, T) in fp32.

    D is a power of 2 from 16 on, the last axis dense, scale positive.
    """
    (B, H, T, D), S = q.shape, k.shape[2]
    out = torch.empty_like(q)
    lse = torch.empty(B, H, T, dtype=torch.float32, device=q.device)
    sizes = H, H // k.shape[1], T, S
    _forward[lambda meta: (triton.cdiv(T, meta["BQ"]) * B * H,)](
        *(q, k, v, out, lse, strides_of(q, k, v, out), sizes, scale),
        length_class(T, S),
        D=D,
        CAUSAL=causal,
    )
    return out, lse


@tuned("forward")
@triton.jit(do_not_specialize=["length"])
def _forward(
    q,
    k,
    v,
    out,
    lse,
    strides,
    sizes,
    scale,
    length,
    D: tl.constexpr,
    CAUSAL: tl.constexpr,
    BQ: tl.constexpr,
    BK: tl.constexpr,
):
    q_strides, k_strides, v_strides, out_strides = strides
    H, groups, T, S = sizes
    tile, b, h = program_of(T, H, BQ)
    if CAUSAL:
        tile = tl.cdiv(T, BQ) - 1 - tile  # long rows first: short ones fill the end
    rows = tile * BQ + tl.arange(0, BQ)
    mine = head_of(q, q_strides, b, h)
    mine = load_rows(mine, rows, q_strides[2], T, D, True)  # (BQ, D)
    k = head_of(k, k_strides, b, h // groups)
    v = head_of(v, v_strides, b, h // groups)

    total = tl.zeros((BQ, D), tl.float32)
    m = tl.full((BQ,), float("-inf"), tl.float32)
    l = tl.zeros((BQ,), tl.float32)
    last, clear, end = horizon(rows, tile * BQ, T, S, CAUSAL, BQ, BK)
    fixed = (mine, k, v, k_strides[2], v_strides[2], last, S, scale * LOG2E)
    total, m, l = _keys_pass_by(total, m, l, fixed, 0, clear, D, BK, False)
    total, m, l = _keys_pass_by(total, m, l, fixed, clear, end, D, BK, True)

    l = tl.where(l == 0.0, 1.0, l)  # a row that saw nothing: zeros, and -inf below
    out = head_of(out, out_strides, b, h)
    store_rows(out, rows, out_strides[2], T, total / l[:, None], D)
    lse += (b * H + h).to(tl.int64) * T
    tl.store(lse + rows, (m + tl.log2(l)) / LOG2E, mask=rows < T)


@triton.jit
def _keys_pass_by(
    total,
    m,
    l,
    fixed,
    start,
    stop,
    D: tl.constexpr,
    BK: tl.constexpr,
    MASKED: tl.constexpr,
):
    """The keys from start to stop, into total, m and l; m in units of log 2."""
    mine, k, v, k_stride, v_stride, last, S, factor = fixed
    for at in range(start, stop, BK):
        index = at + tl.arange(0, BK)
        near = load_rows(k, index, k_stride, S, D, MASKED)
        far = load_rows(v, index, v_stride, S, D, MASKED)
        scores = product(mine, tl.trans(near), None)  # (BQ, BK), not yet scaled
        if MASKED:
            scores = tl.where(index[None, :] <= last[:, None], scores, float("-inf"))
        top = tl.maximum(m, tl.max(scores, 1) * factor)
        shift = top
        if MASKED:  # -inf + inf is no number
            shift = tl.where(top == float("-inf"), 0.0, top)
        weights = tl.exp2(scores * factor - shift[:, None])  # one fused multiply-add
        decay = tl.exp2(m - shift)
        l = l * decay + tl.sum(weights, 1)
        total = product(weights.to(far.dtype), far, total * decay[:, None])
        m = top
    return total, m, l
