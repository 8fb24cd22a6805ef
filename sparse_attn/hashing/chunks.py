"""Buckets are ragged, chunks are not: sort tokens by bucket, cut into equal pieces.

Holds the one rule of who sees whom, which `attention` and `pairs` both apply.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from sparse_attn.checks import check_counts


class Chunks(NamedTuple):
    """Tokens sorted by bucket and cut, each (..., T) and int64.

    order: the token at each place of the sorted sequence; x[order] sorts.
    undo: the place of each token; sorted[undo] puts back.
    number: the chunk each token is in, undo // chunk; not sorted.
    """

    order: Tensor
    undo: Tensor
    number: Tensor


def sort_and_chunk(buckets: Tensor, chunk: int) -> Chunks:
    """Sort tokens by (bucket, position) and cut the sequence every `chunk` places.

    buckets: whole numbers, not negative, (..., T), one row per head and round. The
    last chunk is short when T is no multiple of `chunk`.
    Raises ValueError for numbers that are not whole, none at all, or a chunk below 1.
    Source: Kitaev et al. 2020, figure 2 and section 2, "LSH attention".
    """
    check_counts(chunk=chunk)
    _check_numbers(buckets)
    T = buckets.shape[-1]
    at = torch.arange(T, device=buckets.device)
    # Keys that are all different leave an unstable sort no choice.
    order = (buckets.long() * T + at).argsort(dim=-1)
    undo = torch.empty_like(order).scatter_(-1, order, at.expand_as(order))
    return Chunks(order, undo, undo.div(chunk, rounding_mode="floor"))


def addresses(buckets: Tensor, number: Tensor) -> Tensor:
    """Bucket and chunk number in one int32, 2·bucket + number, for `near`.

    Sorted by bucket, a later bucket is never in an earlier chunk: tokens of different
    buckets are at least 2 apart, those of one bucket as far as their chunks.
    """
    return (2 * buckets + number).int()


def near(q: Tensor, k: Tensor) -> Tensor:
    """Do q and k share a bucket, with k in the chunk of q or the one before?

    q, k: addresses in one round, that broadcast. Says nothing of order.
    """
    return (q == k) | (q == k + 1)


def another(q: Tensor, k: Tensor, causal: bool) -> Tensor:
    """May q look at k at all: at another token, an earlier one if `causal`?

    q, k: positions; or places in the sorted sequence, for tokens of one bucket, where
    both have the same order.
    """
    return k < q if causal else k != q


def lsh_cost_pairs(T: int, chunk: int, rounds: int = 1) -> float:
    """Query-key pairs within reach of a query, on average, before any are hidden.

    2·chunk per round, but the first chunk has none before it and the last may be
    short. `lsh_attention` rounds up: it computes 2·chunk for each of T rounded up to
    whole chunks. Dense attention has T, or (T + 1) / 2 when causal.
    Raises ValueError for numbers below 1.
    """
    check_counts(T=T, chunk=chunk, rounds=rounds)
    whole, rest = divmod(T, chunk)
    sizes = [chunk] * whole + [rest] * (rest > 0)
    before = [0, *sizes]
    pairs = sum(n * (n + m) for n, m in zip(sizes, before, strict=False))
    return rounds * pairs / T


def _check_numbers(buckets: Tensor):
    if not isinstance(buckets, Tensor) or buckets.dtype not in _WHOLE:
        got = buckets.dtype if isinstance(buckets, Tensor) else type(buckets)
        raise ValueError(f"buckets is {got}: a tensor of whole numbers is needed")
    if buckets.ndim < 1 or 0 in buckets.shape:
        raise ValueError(
            f"buckets has shape {tuple(buckets.shape)}: (..., T), none empty, is needed"
        )
    if buckets.min() < 0:
        raise ValueError(f"buckets has {buckets.min()}: numbers from 0 are needed")


_WHOLE = (torch.int64, torch.int32, torch.int16, torch.uint8)
