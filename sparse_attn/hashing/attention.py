"""Attention among tokens of one bucket, in chunks: what Reformer computes.

The rule of who sees whom is that of `chunks`; `pairs` says it as a dense mask.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_attn.checks import check_alike, check_counts, check_finite, check_vectors
from sparse_attn.flash.online import Running, merge, shift
from sparse_attn.hashing.buckets import hash_buckets, rotations
from sparse_attn.hashing.chunks import addresses, another, near, sort_and_chunk


def lsh_attention(
    qk: Tensor,
    v: Tensor,
    *,
    buckets: int,
    rounds: int = 1,
    chunk: int = 64,
    causal: bool = False,
    scale: float | None = None,
    seed: int = 0,
) -> Tensor:
    """Attention of each token to those that share its bucket and are near when sorted.

    qk, v: (B, H, T, D). One vector is query and key; as a key it has length 1. In each
    round, tokens are sorted by bucket and cut into chunks; a token sees those of its
    bucket in its own chunk and the one before (the first has none), only earlier ones
    if `causal`, and never itself. The result, (B, H, T, D), is exactly the softmax
    over all it sees in any round, each key once; a token that sees no other in any
    round sees itself. scale: 1/√D unless given. All heads share the directions.
    Gradients reach qk and v through scores and values; which keys are seen has none.
    causal: no value of a later token is seen, but its bucket may move the borders of
    the chunks, and with them which earlier ones are; not so if chunk >= T.
    Raises ValueError for arguments that do not fit.
    Memory: O(rounds·T·(chunk + D)), and T·buckets while hashing.
    Source: Kitaev et al. 2020, section 2. Their released code does not divide by √D,
    which is scale=1 here, and lets the first chunk see the last.
    """
    check_vectors("qk", qk, "B, H, T, D")
    check_vectors("v", v, "B, H, T, D")
    check_alike("v", v, "qk", qk)
    check_counts(chunk=chunk)
    T, D = qk.shape[-2:]
    scale = 1 / math.sqrt(D) if scale is None else scale
    check_finite("scale", scale)
    chunk = min(chunk, T)

    R = rotations(D, buckets, rounds=rounds, seed=seed, device=qk.device)
    found = hash_buckets(qk, R).movedim(-2, 0)  # (rounds, B, H, T)
    found = F.pad(found, (0, -T % chunk), value=buckets)  # a bucket for what fills up
    order, undo, number = sort_and_chunk(found, chunk)  # (rounds, B, H, T')
    address = addresses(found, number)

    wide = torch.promote_types(qk.dtype, torch.float32)
    q, values = (F.pad(x.to(wide), (0, 0, 0, -T % chunk)) for x in (qk, v))
    k, q = _unit(q), scale * q
    parts = []
    for r in range(rounds):
        seen = _seen(address[: r + 1], order[r], chunk, causal)
        out, lse = _in_chunks(q, k, values, order[r], seen)
        parts.append((_rows(out, undo[r])[:, :, :T], lse.gather(-1, undo[r])[..., :T]))
    out, lse = merge(*zip(*parts, strict=True))
    alone = lse.isneginf()[..., None]
    return torch.where(alone, values[:, :, :T], out).to(v.dtype)


def _seen(address: Tensor, order: Tensor, chunk: int, causal: bool) -> Tensor:
    """What the last round adds to those before, (B, H, n, chunk, 2·chunk) bool.

    address: (rounds so far, B, H, T'); order: (B, H, T') of the last round.
    A pair belongs to the first of the N rounds in which it is near, so that rounds are
    disjoint and none counts twice. Instead Kitaev et al. take log N off its score in
    each: the same sum, for more comparisons.
    """
    place = torch.arange(2 * chunk, device=order.device)
    seen = another(place[chunk:, None], place, causal)
    for r in reversed(range(len(address))):
        q = address[r].gather(-1, order).unflatten(-1, (-1, chunk))
        k = _with_previous(q, -2)  # an address near to none
        met = near(q[..., None], k[..., None, :])
        seen = seen & met if r == len(address) - 1 else seen & ~met
    return seen


def _in_chunks(q, k, v, order, seen) -> tuple[Tensor, Tensor]:
    """Attention of each chunk to itself and the one before, sorted as `order` says.

    q, k, v: (B, H, T', D). Returns out (B, H, T', D) and log-sum-exp (B, H, T'),
    zeros and -inf where nothing is seen.
    """
    mine = order.unflatten(-1, (-1, seen.shape[-2]))  # (B, H, n, chunk)
    theirs = _with_previous(mine, 0)  # any row will do: it is not seen
    scores = _rows(q, mine) @ _rows(k, theirs).mT  # (B, H, n, chunk, 2·chunk)
    scores = scores.masked_fill(~seen, -torch.inf)
    m = scores.detach().amax(dim=-1)
    weights = (scores - shift(m)[..., None]).exp()
    state = Running(m, weights.sum(dim=-1))
    out = weights @ _rows(v, theirs) / state.l.clamp_min(1)[..., None]
    return out.flatten(2, 3), state.lse.flatten(2, 3)


def _unit(x: Tensor) -> Tensor:
    """x over its length; a zero vector, which has no direction, stays zero."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / length.masked_fill(length == 0, 1.0)


def _with_previous(x: Tensor, fill: int) -> Tensor:
    """(..., n, chunk) -> (..., n, 2·chunk): before it the last chunk, or `fill`."""
    before = F.pad(x, (0, 0, 1, 0), value=fill)[..., :-1, :]
    return torch.cat((before, x), dim=-1)


def _rows(x: Tensor, at: Tensor) -> Tensor:
    """x[b, h, at[b, h, ...]]: (B, H, T', D) and (B, H, ...) -> (B, H, ..., D)."""
    B, H, T, D = x.shape
    first = torch.arange(0, B * H * T, T, device=x.device)
    first = first.view(B, H, *[1] * (at.ndim - 2))
    rows = x.reshape(-1, D).index_select(0, (at + first).flatten())
    return rows.view(*at.shape, D)
