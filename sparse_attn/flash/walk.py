"""Attention on `counting.SlowMemory`, for one head: what each order of loops moves.

Real numbers, real results, every element counted. `cost` predicts the counts.
"""

import math

import torch
from torch import Tensor

from sparse_attn.counting import SlowMemory
from sparse_attn.flash.online import Running, absorb, online_softmax
from sparse_attn.flash.steps import Walk, check, place, room, step
from sparse_attn.flash.tiles import Tiles


def naive_walk(
    memory: SlowMemory,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    block_q: int,
    causal: bool = False,
) -> Walk:
    """q kᵀ, softmax and p v one after another, with T x S matrices in slow memory.

    q: (T, D); k, v: (S, D), placed uncounted. Three passes over blocks of block_q
    queries: "scores" are written; "softmax" reads them and writes the weights;
    "values" reads those. The products are ideal: all of k, then all of v, stays in
    fast memory and is read once. Masking happens in the softmax and saves nothing.
    Reads T·D + 2·S·D + 2·T·S, writes T·D + 2·T·S.
    Raises ValueError for arguments that do not fit, MemoryError for tiles that do not.
    Source: Dao et al. 2022, algorithm 0.
    """
    check(q, k, v, block_q=block_q)
    T, S = len(q), len(k)
    tiles = Tiles(T, S, block_q, S, causal)
    whole = slice(0, S)
    scores, weights = (room(memory, q, name, T, S) for name in "SP")
    out = room(memory, q, "O", *q.shape)
    q, k, v = place(memory, q, k, v)

    def steps():
        with memory.block():
            K = memory.load(k)
            for rows in tiles.all_queries():
                with memory.block():
                    Q = memory.load(q[rows], "Q")
                    P = memory.hold(_scores(Q, K), "S")
                    memory.store(scores[rows], P)
                    yield step("scores", memory, rows)
        for rows in tiles.all_queries():
            with memory.block():
                P = memory.load(scores[rows], "S")
                _hide(P, tiles.hidden(rows, whole))
                P.copy_(online_softmax(P, S))  # the weights, in place of the scores
                memory.store(weights[rows], P)
                yield step("softmax", memory, rows)
        with memory.block():
            V = memory.load(v)
            for rows in tiles.all_queries():
                with memory.block():
                    P = memory.load(weights[rows], "P")
                    O = memory.hold(P @ V, "O")
                    memory.store(out[rows], O)
                    yield step("values", memory, rows)

    return Walk(memory, steps(), out)


def outer_kv_walk(
    memory: SlowMemory,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    block_q: int,
    block_k: int,
    causal: bool = False,
) -> Walk:
    """FlashAttention's first order of loops: keys outside, queries inside.

    q: (T, D); k, v: (S, D), placed uncounted, as are the zeros of O and l and the -inf
    of m. Each tile of k and v is read once. Meanwhile every tile of O, m and l is
    read, brought up to date, divided by l and written back: a step, "tile".
    causal: tiles above the diagonal are skipped.
    Raises ValueError for arguments that do not fit, MemoryError for tiles that do not.
    Source: Dao et al. 2022, algorithm 1.
    """
    check(q, k, v, block_q=block_q, block_k=block_k)
    tiles = Tiles(len(q), len(k), block_q, block_k, causal)
    out, m, l = (
        memory.place(x, name) for x, name in zip(_nothing(q), "Oml", strict=True)
    )
    q, k, v = place(memory, q, k, v)

    def steps():
        for keys in tiles.all_keys():
            with memory.block():
                K, V = memory.load(k[keys], "K"), memory.load(v[keys], "V")
                for rows in tiles.seeing(keys):
                    with memory.block():
                        Q, *state = (
                            memory.load(x[rows], name)
                            for x, name in zip((q, out, m, l), "QOml", strict=True)
                        )
                        O, _, normalizer = state
                        O.mul_(normalizer[:, None])
                        _absorb(memory, Q, K, V, *state, tiles.hidden(rows, keys))
                        O.div_(normalizer.clamp_min(1)[:, None])
                        for x, tile in zip((out, m, l), state, strict=True):
                            memory.store(x[rows], tile)
                        yield step("tile", memory, rows, keys)

    return Walk(memory, steps(), out)


def outer_q_walk(
    memory: SlowMemory,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    block_q: int,
    block_k: int,
    causal: bool = False,
) -> Walk:
    """FlashAttention's second order of loops: queries outside, keys inside.

    q: (T, D); k, v: (S, D), placed uncounted. O, m and l of a tile of queries stay in
    fast memory while the keys pass by, a step "tile" each; then O is divided by l and
    written, with one log-sum-exp per row: a step "finish". Until then O is not divided.
    causal: tiles above the diagonal are skipped.
    Raises ValueError for arguments that do not fit, MemoryError for tiles that do not.
    Source: Dao 2023, algorithm 1; so already Rabe and Staats 2021.
    """
    check(q, k, v, block_q=block_q, block_k=block_k)
    tiles = Tiles(len(q), len(k), block_q, block_k, causal)
    out, lse = room(memory, q, "O", *q.shape), room(memory, q, "LSE", len(q))
    start = _nothing(q)
    q, k, v = place(memory, q, k, v)

    def steps():
        for rows in tiles.all_queries():
            with memory.block():
                Q = memory.load(q[rows], "Q")
                O, m, l = state = [
                    memory.hold(x[rows].clone(), name)
                    for x, name in zip(start, "Oml", strict=True)
                ]
                for keys in tiles.seen_by(rows):
                    with memory.block():
                        K, V = memory.load(k[keys], "K"), memory.load(v[keys], "V")
                        _absorb(memory, Q, K, V, *state, tiles.hidden(rows, keys))
                        yield step("tile", memory, rows, keys)
                O.div_(l.clamp_min(1)[:, None])
                memory.store(out[rows], O)
                memory.store(lse[rows], Running(m, l).lse)
                yield step("finish", memory, rows)

    return Walk(memory, steps(), out, lse)


def _absorb(memory, Q, K, V, O, m, l, hidden):
    """One tile of keys into O (undivided), m and l, in place; the scores turn into
    weights where they lie. New maxima and sums pass through registers."""
    S = memory.hold(_scores(Q, K), "S")
    _hide(S, hidden)
    state, decay, weights = absorb(Running(m, l), S)
    S.copy_(weights)
    O.mul_(decay[:, None]).add_(S @ V)
    m.copy_(state.m)
    l.copy_(state.l)


def _scores(Q: Tensor, K: Tensor) -> Tensor:
    return Q @ K.mT / math.sqrt(Q.shape[1])


def _hide(scores: Tensor, hidden: Tensor | None):
    if hidden is not None:
        scores.masked_fill_(hidden, -torch.inf)


def _nothing(q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """O, m and l before the first key: 0, -inf and 0."""
    O = torch.zeros_like(q)
    return O, torch.full_like(O[:, 0], -torch.inf), O[:, 0]
