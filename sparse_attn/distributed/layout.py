"""Which rank holds which tokens, and how many query-key pairs that makes it compute.

Pure arithmetic and slicing; leaves what travels between ranks to `wire`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from sparse_attn.checks import check_choice, check_count, check_counts

LAYOUTS = ("contiguous", "zigzag")

Spans = tuple[range, ...]  # positions that one rank holds, in ascending order


def layout(T: int, N: int, kind: str = "contiguous") -> list[Spans]:
    """Positions of T tokens for each of N ranks, as ranges in ascending order.

    "contiguous": one stretch each. "zigzag": of 2N stretches rank r holds numbers r and
    2N-1-r, an early and a late one, which evens out causal work. Stretches differ by
    at most one token, the first are the longer; empty ones are left out.
    Raises ValueError for fewer tokens than ranks.
    Source: contiguous, Liu et al. 2023; zigzag, Zhu 2024 (ring-flash-attention).
    """
    check_choice("kind", kind, LAYOUTS)
    check_counts(N=N)
    check_count("T", T, least=N)
    if kind == "contiguous":
        return [(span,) for span in _cut(T, N)]
    chunks = _cut(T, 2 * N)
    both = ((chunks[r], chunks[-1 - r]) for r in range(N))
    return [tuple(span for span in spans if span) for spans in both]


def block_layout(T: int, N: int, block: int) -> list[Spans]:
    """`layout` in stretches that end at multiples of `block`, but for the last."""
    check_counts(T=T, N=N, block=block)
    blocks = -(-T // block)
    if blocks < N:
        raise ValueError(f"T={T} has {blocks} blocks of {block}: {N} ranks need {N}")
    spans = (range(s.start * block, s.stop * block) for s in _cut(blocks, N))
    return [(range(span.start, min(span.stop, T)),) for span in spans]


def _cut(T: int, n: int) -> list[range]:
    sizes = (T // n + (i < T % n) for i in range(n))
    return [range(a, b) for a, b in pairwise(accumulate(sizes, initial=0))]


def spans_of(lengths: Sequence[int], kind: str = "contiguous") -> list[Spans]:
    """The layout in which the ranks hold `lengths` tokens.

    Contiguous stretches may have any lengths, zigzag ones only those of `layout`.
    """
    check_choice("kind", kind, LAYOUTS)
    if kind == "contiguous":
        bounds = accumulate(lengths, initial=0)
        return [(range(a, b),) for a, b in pairwise(bounds)]
    spans = layout(sum(lengths), len(lengths), kind)
    fits = [count(held) for held in spans]
    if fits != list(lengths):
        raise ValueError(f"lengths={list(lengths)}: zigzag needs {fits}")
    return spans


def block_starts(lengths: Sequence[int], block_q: int, block_k: int) -> list[int]:
    """Number of the first key block of each rank, and at the end of them all."""
    for rank, length in enumerate(lengths[:-1]):
        if length % block_q:
            raise ValueError(
                f"rank {rank} holds {length} tokens: all ranks but the last need a "
                f"multiple of block_q={block_q}"
            )
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + -(-length // block_k))
    return starts


def count(spans: Spans) -> int:
    """Tokens in these spans."""
    return sum(map(len, spans))


def take(x: Tensor, spans: Spans) -> Tensor:
    """What a rank holds of the whole (B, H, T, D): (B, H, T_r, D)."""
    return torch.cat([x[:, :, span.start : span.stop] for span in spans], dim=2)


def join(parts: Sequence[Tensor], spans: Sequence[Spans]) -> Tensor:
    """The whole (B, H, T, D) from what each rank holds: `take` undone."""
    pieces = []
    for x, held in zip(parts, spans, strict=True):
        split = x.split([len(span) for span in held], dim=2)
        pieces += [(span.start, piece) for span, piece in zip(held, split, strict=True)]
    pieces.sort(key=lambda piece: piece[0])
    return torch.cat([piece for _, piece in pieces], dim=2)


class Piece(NamedTuple):
    """Local queries that meet local keys: all of them, or causally on the diagonal."""

    queries: slice
    keys: slice
    causal: bool

    @property
    def pairs(self) -> int:
        rows, columns = (s.stop - s.start for s in (self.queries, self.keys))
        return rows * (rows + 1) // 2 if self.causal else rows * columns


def pieces(mine: Spans, theirs: Spans, *, causal: bool = False) -> list[Piece]:
    """What queries of the spans `mine` compute with keys of `theirs`.

    Spans are of one layout: equal or apart. Keys wholly in the future are left out.
    """
    if not causal:
        return [Piece(slice(0, count(mine)), slice(0, count(theirs)), False)]
    found, row = [], 0
    for span in mine:
        queries = slice(row, row := row + len(span))
        past = sum(len(other) for other in theirs if other.stop <= span.start)
        if past:  # what is past comes first, as spans ascend
            found.append(Piece(queries, slice(0, past), False))
        if span in theirs:
            found.append(Piece(queries, slice(past, past + len(span)), True))
    return found


def rank_pairs(
    T: int, N: int, kind: str = "contiguous", *, causal: bool = False
) -> list[int]:
    """Query-key pairs of one head that each of N ranks computes in `ring_attention`.

    Causal and T a multiple of 2N, with n = T/N: r·n² + n(n+1)/2 for rank r where
    stretches are contiguous, (T + 1)·n/2 for every rank where they zigzag.
    """
    spans = layout(T, N, kind)
    return [
        sum(sum(p.pairs for p in pieces(held, other, causal=causal)) for other in spans)
        for held in spans
    ]
