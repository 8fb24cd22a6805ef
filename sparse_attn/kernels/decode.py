"""The decoding kernels: one query against listed pages of a cache, split over programs
whose partial outputs a second kernel merges by their log-sum-exp.

The heads that share keys also share the list, and one program serves them all: each
page is read once.
"""

import torch
import triton
import triton.language as tl

from sparse_attn.kernels.block_forward import ENTRIES, paced, pass_by, pooled, rest_of
from sparse_attn.kernels.common import (
    LOG2E,
    head_of,
    load_rows,
    product,
    store_rows,
    strides_of,
)

PROGRAMS = 512  # about four for each processor of a large GPU


def launch(q, k, v, pages, length: int, page: int, scale: float, bias, mean_k, mean_v):
    """out like q, and the log-sum-exp (B, H, 1) in fp32; 0 and -inf if nothing is seen.

    q: (B, H, 1, D). k, v: (B, Hkv, capacity, D), of which `length` tokens are there.
    pages: (B, Hkv, n) in int32, contiguous: the pages of `page` tokens to attend to,
    -1 for none. bias: (B, Hkv, n_pages) in fp32, what is added to the score of the
    pooled entry of each page, -inf to leave it out; or None, without pooled entries.
    mean_k, mean_v: (B, Hkv, n_pages, D). page and D are powers of 2 from 16 on, the
    last axes dense, scale positive.
    """
    (B, H, _, D), heads, n = q.shape, k.shape[1], pages.shape[2]
    lse = torch.empty(B, H, 1, dtype=torch.float32, device=q.device)
    out = torch.empty_like(q)
    rest, is_pooled = rest_of(k, v, lse, bias, mean_k, mean_v)
    entries = rest[0].shape[2] if is_pooled else 0
    tiles = triton.cdiv(entries, ENTRIES)
    share = max(1, B * heads * n // PROGRAMS)  # pages to a program
    pool_share = max(1, B * heads * tiles // PROGRAMS)  # tiles of entries to another
    listed = triton.cdiv(n, share)
    parts = max(listed + triton.cdiv(tiles, pool_share), 1)

    partial = q.new_empty(B, H, parts, D, dtype=torch.float32)
    norms = q.new_empty(B, H, parts, dtype=torch.float32)
    _attend[(parts * B * heads,)](
        *(q, k, v, pages, *rest, partial, norms),
        strides_of(q, k, v, *rest[1:], partial),
        (H, H // heads, parts, listed, n, share, entries, pool_share),
        *(scale, length),
        D=D,
        PAGE=page,
        G=max(16, triton.next_power_of_2(H // heads)),  # rows that a product wants
        BP=ENTRIES,
        POOLED=is_pooled,
    )
    _merge[(B * H,)](
        *(partial, norms, out, lse, strides_of(partial, out), (H, parts)),
        D=D,
        P=triton.next_power_of_2(parts),
    )
    return out, lse


@paced("D", "PAGE", "G", "POOLED")
@triton.jit(do_not_specialize=["length"])
def _attend(
    q,
    k,
    v,
    pages,
    bias,
    mean_k,
    mean_v,
    partial,
    norms,
    strides,
    sizes,
    scale,
    length,
    D: tl.constexpr,
    PAGE: tl.constexpr,
    G: tl.constexpr,
    BP: tl.constexpr,
    POOLED: tl.constexpr,
):
    """Partial outputs, and log-sum-exps in units of log 2: first those of `listed`
    shares of the pages, then those of the pooled entries."""
    q_strides, k_strides, v_strides, mean_k_strides, mean_v_strides, to = strides
    H, groups, parts, listed, n, share, entries, pool_share = sizes
    part, b = tl.program_id(0) % parts, tl.program_id(0) // parts // (H // groups)
    shared = tl.program_id(0) // parts % (H // groups)
    rows = tl.arange(0, G)  # the query heads of the group
    mine = head_of(q, q_strides, b, shared * groups)
    mine = load_rows(mine, rows, q_strides[1], groups, D, True)  # (G, D)
    line = (b * (H // groups) + shared).to(tl.int64)

    total = tl.zeros((G, D), tl.float32)
    m = tl.full((G,), float("-inf"), tl.float32)
    l = tl.zeros((G,), tl.float32)
    factor = scale * LOG2E
    if part < listed:
        pages += line * n
        k, v = head_of(k, k_strides, b, shared), head_of(v, v_strides, b, shared)
        for i in range(part * share, tl.minimum(part * share + share, n)):
            page = tl.load(pages + i)
            index = tl.maximum(page, 0) * PAGE + tl.arange(0, PAGE)
            end = tl.where(page < 0, 0, length)
            near = load_rows(k, index, k_strides[2], end, D, True)
            far = load_rows(v, index, v_strides[2], end, D, True)
            scores = product(mine, tl.trans(near), None)  # (G, PAGE), not yet scaled
            scores = tl.where(index[None, :] < end, scores, float("-inf"))
            total, m, l = pass_by(total, m, l, scores, far, factor)
    if POOLED:
        first = (part - listed) * pool_share * BP
        last = tl.minimum(first + pool_share * BP, entries)
        for at in range(tl.where(part < listed, last, first), last, BP):
            mean_k_ = head_of(mean_k, mean_k_strides, b, shared)
            mean_v_ = head_of(mean_v, mean_v_strides, b, shared)
            steps = mean_k_strides[2], mean_v_strides[2]
            near, far, extra = pooled(
                *(bias + line * entries, mean_k_, mean_v_, steps, at, entries, mine),
                *(D, BP),
            )
            scores = product(mine, tl.trans(near), None) + (extra / scale)[None, :]
            total, m, l = pass_by(total, m, l, scores, far, factor)

    l = tl.where(l == 0.0, 1.0, l)
    partial = head_of(partial, to, b, shared * groups) + part * D
    store_rows(partial, rows, to[1], groups, total / l[:, None], D)
    norms += line * groups * parts + part
    tl.store(norms + rows * parts, m + tl.log2(l), mask=rows < groups)


@triton.jit
def _merge(partial, norms, out, lse, strides, sizes, D: tl.constexpr, P: tl.constexpr):
    """One head: its partial outputs, each weighted by 2^(its norm)."""
    H, parts = sizes
    b, h = tl.program_id(0) // H, tl.program_id(0) % H
    norms += (b * H + h).to(tl.int64) * parts
    each = tl.arange(0, P)
    mine = tl.load(norms + each, mask=each < parts, other=float("-inf"))
    top = tl.max(mine, 0)
    shift = tl.where(top == float("-inf"), 0.0, top)
    l = tl.sum(tl.exp2(mine - shift), 0)
    l = tl.where(l == 0.0, 1.0, l)

    partial = head_of(partial, strides[0], b, h)
    total = tl.zeros((D,), tl.float32)
    for at in range(0, parts, 16):
        index = at + tl.arange(0, 16)
        norm = tl.load(norms + index, mask=index < parts, other=float("-inf"))
        rows = load_rows(partial, index, strides[0][2], parts, D, True)
        total += tl.sum(tl.exp2(norm - shift)[:, None] * rows, 0)
    out = head_of(out, strides[1], b, h) + tl.arange(0, D)
    tl.store(out, (total / l).to(out.dtype.element_ty))
    tl.store(lse + tl.program_id(0), (top + tl.log2(l)) / LOG2E)
