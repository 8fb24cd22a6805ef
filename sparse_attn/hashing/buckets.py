"""The hash: project onto random directions and name the largest, with its sign.

Vectors at a small angle tend to share it; how often, `collisions` computes.
"""

import torch
from torch import Tensor

from sparse_attn.checks import check_count, check_counts, check_vectors
from sparse_attn.hashing.inputs import check_buckets

_AT_ONCE = 2**22  # projections that are held together


def rotations(
    D: int,
    buckets: int,
    *,
    rounds: int = 1,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Random directions R, (rounds, D, buckets/2), for so many rounds of hashing.

    Independent Gaussians, called rotations as in the paper although only nearly so.
    Drawn on the CPU, so that every device gets the same; more rounds keep the first.
    Raises ValueError for an odd number of buckets, or for a number below its least.
    Source: Kitaev et al. 2020, section 2; Andoni et al. 2015, section 3.
    """
    check_counts(D=D, rounds=rounds)
    check_buckets(buckets)
    check_count("seed", seed, least=0)
    generator = torch.Generator().manual_seed(seed)
    # Round by round: in one draw of another size, the first numbers may differ.
    drawn = [torch.randn(D, buckets // 2, generator=generator) for _ in range(rounds)]
    return torch.stack(drawn).to(device)


def hash_buckets(x: Tensor, R: Tensor) -> Tensor:
    """The bucket of each vector in each round: argmax of xR and -xR, side by side.

    x: (..., T, D); R: (rounds, D, buckets/2) as from `rotations`. Returns
    (..., rounds, T), int64, from 0 to buckets - 1. The length of x does not matter;
    a zero vector goes to bucket 0. Projections are formed in fp32, or wider for x.
    Raises ValueError for shapes that do not fit. Cost: T·D·buckets FLOPs a round.
    Source: Kitaev et al. 2020, section 2: h(x) = arg max([xR; -xR]).
    """
    _check_hashed(x, R)
    wide = torch.promote_types(x.dtype, torch.float32)
    x, R = x.detach().to(wide), R.to(x.device, wide)
    width = R.shape[-1]
    group = max(1, _AT_ONCE // max(1, x.numel() // x.shape[-1] * width))
    found = []
    for directions in R.split(group):  # a product for many rounds of few vectors
        projected = x @ directions.movedim(0, 1).flatten(1)  # (..., T, group width)
        found.append(_largest(projected.unflatten(-1, (-1, width))))
    return torch.cat(found, dim=-1).movedim(-1, -2)


def _largest(projected: Tensor) -> Tensor:
    """(..., buckets/2) -> (...): argmax(cat(x, -x)), without making them."""
    top, first = projected.max(dim=-1)
    bottom, last = projected.min(dim=-1)
    return torch.where(top >= -bottom, first, last + projected.shape[-1])


def bucket_sizes(x: Tensor, R: Tensor) -> Tensor:
    """How many of the T vectors fall in each bucket, (..., rounds, buckets), int64.

    x and R as for `hash_buckets`; each row sums to T. Raises ValueError likewise.
    """
    found = hash_buckets(x, R)  # (..., rounds, T)
    names = torch.arange(2 * R.shape[-1], device=x.device)
    return (found[..., None] == names).sum(dim=-2)


def _check_hashed(x: Tensor, R: Tensor):
    check_vectors("x", x, "..., T, D")
    check_vectors("R", R, "rounds, D, buckets/2")
    if R.shape[1] != x.shape[-1]:
        raise ValueError(
            f"R has shape {tuple(R.shape)} but x {tuple(x.shape)}: "
            f"directions of D={x.shape[-1]} are needed"
        )
