"""The forward kernel of block-sparse attention: a program per block of queries, which
the key blocks on its list pass by, read where they lie.

Pooled entries, one key and value in place of what is not listed of several blocks, may
follow them through the same online softmax.
"""

import torch
import triton
import triton.language as tl

from sparse_attn.kernels.common import (
    INTERPRETED,
    LOG2E,
    _fitting,
    head_of,
    horizon,
    length_class,
    load_rows,
    product,
    program_of,
    store_rows,
    strides_of,
)

ENTRIES = 16 if INTERPRETED else 64  # pooled ones in a tile
# (warps, stages). The last is for fp32, which goes by plain arithmetic, and for what
# leaves no room for a second stage.
PACES = ((4, 2), (4, 3), (8, 2), (8, 3), (8, 1))


def paced(*key: str):
    """Decorator: times each of PACES once for the arguments `key`; tile sizes are the
    caller's. As `tuned`, it takes the only one untimed in the interpreter."""
    return triton.autotune(
        configs=[
            triton.Config({}, num_warps=warps, num_stages=stages)
            for warps, stages in (PACES[-1:] if INTERPRETED else PACES)
        ],
        key=list(key),  # and the dtypes
        prune_configs_by=dict(early_config_prune=_fitting),
    )


def launch(
    q,
    k,
    v,
    blocks,
    bias,
    mean_k,
    mean_v,
    causal: bool,
    scale: float,
    block_q: int,
    block_k: int,
    pool: int,
):
    """out like q, and the log-sum-exp (B, H, T) in fp32; 0 and -inf for a query that
    sees nothing.

    blocks: (B, H, n_q, n) in int32, contiguous: the key blocks of each query block, -1
    for none. bias: (B, H, n_q, n_pools) in fp32, what is added to the score of the
    entry that stands for each `pool` keys, -inf to leave it out, as it must be, if
    causal, where the entry does not lie before the query block; or None, without
    pooled entries. mean_k, mean_v: (B, Hkv, n_pools, D). Blocks and D are powers of 2
    from 16 on, block_q a multiple of pool, the last axes dense, scale positive.
    """
    (B, H, T, D), S = q.shape, k.shape[2]
    out = torch.empty_like(q)
    lse = torch.empty(B, H, T, dtype=torch.float32, device=q.device)
    rest, is_pooled = rest_of(k, v, lse, bias, mean_k, mean_v)
    tensors = *(q, k, v, blocks), *rest, out, lse
    _forward[(triton.cdiv(T, block_q) * B * H,)](
        *tensors,
        strides_of(q, k, v, *rest[1:], out),
        (H, H // k.shape[1], T, S, blocks.shape[-1]),
        scale,
        length_class(T, S),
        D=D,
        CAUSAL=causal,
        BQ=block_q,
        BK=block_k,
        N=triton.next_power_of_2(max(blocks.shape[-1], 1)),
        POOL=pool,
        BP=ENTRIES,
        POOLED=is_pooled,
    )
    return out, lse


def rest_of(k, v, lse, bias, mean_k, mean_v):
    """(bias, mean_k, mean_v), and whether they are there: if not, others of the same
    kind, never read, stand in their places."""
    if bias is None:
        return (lse, k, v), False
    return (bias.contiguous(), mean_k, mean_v), True


@paced("D", "CAUSAL", "BQ", "BK", "POOL", "POOLED", "length")
@triton.jit(do_not_specialize=["length"])
def _forward(
    q,
    k,
    v,
    blocks,
    bias,
    mean_k,
    mean_v,
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
    N: tl.constexpr,
    POOL: tl.constexpr,
    BP: tl.constexpr,
    POOLED: tl.constexpr,
):
    q_strides, k_strides, v_strides, mean_k_strides, mean_v_strides, out_strides = (
        strides
    )
    H, groups, T, S, n = sizes
    tile, b, h = program_of(T, H, BQ)
    if CAUSAL:
        tile = tl.cdiv(T, BQ) - 1 - tile  # long lists first: short ones fill the end
    rows = tile * BQ + tl.arange(0, BQ)
    mine = head_of(q, q_strides, b, h)
    mine = load_rows(mine, rows, q_strides[2], T, D, True)  # (BQ, D)
    k = head_of(k, k_strides, b, h // groups)
    v = head_of(v, v_strides, b, h // groups)

    total = tl.zeros((BQ, D), tl.float32)
    m = tl.full((BQ,), float("-inf"), tl.float32)
    l = tl.zeros((BQ,), tl.float32)
    last, clear, _ = horizon(rows, tile * BQ, T, S, CAUSAL, BQ, BK)
    line = (b * H + h).to(tl.int64) * tl.cdiv(T, BQ) + tile
    ids, count = listing(blocks, line, n, N)
    for i in range(count):
        block = tl.load(ids + i)
        index = tl.maximum(block, 0) * BK + tl.arange(0, BK)
        near = load_rows(k, index, k_strides[2], S, D, True)
        far = load_rows(v, index, v_strides[2], S, D, True)
        scores = product(mine, tl.trans(near), None)  # (BQ, BK), not yet scaled
        if (block < 0) | (block * BK + BK > clear):
            seen = (index[None, :] <= last[:, None]) & (block >= 0)
            scores = tl.where(seen, scores, float("-inf"))
        total, m, l = pass_by(total, m, l, scores, far, scale * LOG2E)
    if POOLED:
        n_pools = tl.cdiv(S, POOL)
        bias += line * n_pools
        mean_k = head_of(mean_k, mean_k_strides, b, h // groups)
        mean_v = head_of(mean_v, mean_v_strides, b, h // groups)
        end = n_pools
        if CAUSAL:  # later entries are not past, and biased by -inf
            end = tl.minimum(tile * BQ // POOL, n_pools)
        steps = mean_k_strides[2], mean_v_strides[2]
        for at in range(0, end, BP):
            near, far, extra = pooled(
                *(bias, mean_k, mean_v, steps, at, n_pools, mine), *(D, BP)
            )
            scores = product(mine, tl.trans(near), None)  # (BQ, BP)
            scores += (extra / scale)[None, :]
            total, m, l = pass_by(total, m, l, scores, far, scale * LOG2E)

    l = tl.where(l == 0.0, 1.0, l)  # a row that saw nothing: zeros, and -inf below
    out = head_of(out, out_strides, b, h)
    store_rows(out, rows, out_strides[2], T, total / l[:, None], D)
    lse += (b * H + h).to(tl.int64) * T
    tl.store(lse + rows, (m + tl.log2(l)) / LOG2E, mask=rows < T)


@triton.jit
def listing(blocks, line, n, N: tl.constexpr):
    """Where list number `line` of n ids begins, and how long it is up to the last id
    that is not -1. N: a power of 2, at least n."""
    blocks += line * n
    place = tl.arange(0, N)
    ids = tl.load(blocks + place, mask=place < n, other=-1)
    return blocks, tl.max(tl.where(ids >= 0, place + 1, 0), 0)


@triton.jit
def pass_by(total, m, l, scores, far, factor):
    """Scores, not yet scaled, and their values, into total, m and l; m in units of
    log 2."""
    top = tl.maximum(m, tl.max(scores, 1) * factor)
    shift = tl.where(top == float("-inf"), 0.0, top)  # -inf + inf is no number
    weights = tl.exp2(scores * factor - shift[:, None])
    decay = tl.exp2(m - shift)
    l = l * decay + tl.sum(weights, 1)
    total = product(weights.to(far.dtype), far, total * decay[:, None])
    return total, top, l


@triton.jit
def pooled(bias, mean_k, mean_v, steps, at, n, like, D: tl.constexpr, BP: tl.constexpr):
    """Keys and values (BP, D) of the pooled entries from `at` on, in the dtype of
    `like`, and their biases: -inf from n on."""
    entries = at + tl.arange(0, BP)
    near = load_rows(mean_k, entries, steps[0], n, D, True).to(like.dtype)
    far = load_rows(mean_v, entries, steps[1], n, D, True).to(like.dtype)
    return near, far, tl.load(bias + entries, mask=entries < n, other=float("-inf"))
