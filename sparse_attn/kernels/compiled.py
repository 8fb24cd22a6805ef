"""Decoding in shapes that never change, made to be compiled.

Knows the arithmetic of `sparse_decode` without a branch on a number; leaves the cache
and the choice of a path to `paged`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def compiled_decode() -> Callable:
    """`attend_pages` through torch.compile: about a third less time, for 5 to 30
    seconds at the first call. `compiling.compiled` says whether it can be done here.
    """
    return torch.compile(attend_pages, dynamic=False, options=SHORT)


SHORT = {  # a token takes half a millisecond: a tenth of it was spent between kernels
    "cpp_wrapper": True,
    "size_asserts": False,
    "alignment_asserts": False,
}


def attend_pages(
    asks, k, v, key_sums, value_sums, at, n: int, sinks: int, local: int, pooled: bool
) -> Tensor:
    """What `sparse_decode` computes, in shapes that do not change from token to token.

    asks (B, Hkv, groups, D); k, v (B, Hkv, pages, page, D); sums (B, Hkv, pages, D);
    at: the position of the last token, a tensor. Made to be compiled, for then no page
    is copied: without, `sparse_decode` is the faster one. Returns asks' shape.
    """
    (B, heads, total, page, D), scale = k.shape, 1 / math.sqrt(asks.shape[-1])
    column, last = torch.arange(total, device=k.device), at // page
    sums = (key_sums[:, :, None] * asks[:, :, :, None]).sum(dim=-1)  # (B, Hkv, g, P)
    forced = (column < sinks) | (column >= last - local)
    worth = sums.amax(dim=2).masked_fill(forced, torch.inf)
    worth = worth.masked_fill(column >= last, -torch.inf)
    ids = worth.topk(n - 1, dim=-1).indices
    ids = torch.cat((ids, last.expand(B, heads, 1)), dim=-1)  # (B, Hkv, n)
    b = torch.arange(B, device=k.device)[:, None, None]
    h = torch.arange(heads, device=k.device)[:, None]
    near, far = k[b, h, ids][:, :, None], v[b, h, ids][:, :, None]
    scores = scale * (near * asks[:, :, :, None, None]).sum(dim=-1)  # (B, Hkv, g, n, p)
    place = ids[..., None] * page + torch.arange(page, device=k.device)
    scores = scores.masked_fill((place > at)[:, :, None], -torch.inf).flatten(3)
    if pooled:
        listed = torch.zeros(B, heads, total, dtype=torch.bool, device=k.device)
        listed = listed.scatter(-1, ids, True) | (column >= last)
        rest = scale / page * sums + math.log(page)
        rest = rest.masked_fill(listed[:, :, None], -torch.inf)
        weights = torch.cat((scores, rest), dim=-1).softmax(dim=-1)
        weights, others = weights.split((n * page, total), dim=-1)
        extra = (others[..., None] * value_sums[:, :, None]).sum(dim=3) / page
    else:
        weights, extra = scores.softmax(dim=-1), 0.0
    few = math.gcd(page, FEW)
    weights = weights.unflatten(-1, (-1, few))[..., None]
    far = far.reshape(B, heads, 1, -1, few, D)  # (B, Hkv, 1, n page / few, few, D)
    return (weights * far).sum(dim=4).sum(dim=3) + extra


FEW = 4  # tokens whose values are summed first: they stay in the nearest cache
