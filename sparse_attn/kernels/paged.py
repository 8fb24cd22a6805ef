"""Decoding from a long cache: one query, the pages that it wants, and no others.

Knows the cache, the sums that make its pages comparable to a query, and the path for
devices without Triton; leaves the kernel to `fused`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sparse_attn.checks import (
    check_alike,
    check_choice,
    check_count,
    check_counts,
    check_vectors,
)
from sparse_attn.flash.online import merge
from sparse_attn.kernels.attend import attend
from sparse_attn.kernels.fitting import has_kernels, width_of
from sparse_attn.kernels.sparse import RESTS
from sparse_attn.layers import fused_attention

PAGE = 128  # tokens
CROSSOVER = (
    3  # sparse wins from about 3 keep tokens on, measured by benchmarks/speed.py
)


class PagedCache:
    """Keys and values of the past, and their sum over each page of `page` tokens.

    k, v (B, Hkv, capacity, D), of which the first `length` tokens are there; key_sums,
    value_sums (B, Hkv, pages, D) in fp32 or wider. The capacity is rounded up to whole
    pages. Raises ValueError for sizes that are none.
    """

    def __init__(
        self,
        B: int,
        Hkv: int,
        D: int,
        capacity: int,
        *,
        page: int = PAGE,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        check_counts(B=B, Hkv=Hkv, D=D, capacity=capacity, page=page)
        pages = -(-capacity // page)
        like = dict(dtype=dtype, device=device)
        self.k, self.v = torch.zeros(2, B, Hkv, pages * page, D, **like)
        like["dtype"] = torch.promote_types(dtype, torch.float32)
        self.key_sums, self.value_sums = torch.zeros(2, B, Hkv, pages, D, **like)
        self.page, self.length = page, 0
        self._room = None

    @property
    def capacity(self) -> int:
        return self.k.shape[2]

    @property
    def pages(self) -> int:
        """Pages that hold a token."""
        return -(-self.length // self.page)

    def room(self, n: int) -> tuple[Tensor, Tensor]:
        """Where n pages of each head are laid side by side, (B Hkv n, page D) twice.

        Kept for the next token: fresh memory costs more than what is written to it.
        """
        B, heads, _, D = self.k.shape
        rows = B * heads * n
        if self._room is None or self._room.shape[1] != rows:
            self._room = self.k.new_empty(2, rows, self.page * D)
        return self._room.unbind()

    @torch.no_grad()
    def append(self, k: Tensor, v: Tensor):
        """Add n tokens, (B, Hkv, n, D) each: 4·D numbers are written for each of them.

        Raises ValueError where they do not fit; the cache is then as before.
        """
        check_vectors("k", k, "B, Hkv, n, D")
        check_alike("v", v, "k", k)
        check_alike("k", k, "the cache", self.k, but=2)
        n, at = k.shape[2], self.length
        if at + n > self.capacity:
            raise ValueError(
                f"k has {n} tokens: {self.capacity - at} fit the {self.capacity} of "
                "the cache"
            )
        for new, kept, sums in (
            (k, self.k, self.key_sums),
            (v, self.v, self.value_sums),
        ):
            kept.narrow(2, at, n).copy_(new)
            if n == 1:
                sums.narrow(2, at // self.page, 1).add_(new)
            else:
                pages = torch.arange(at, at + n, device=k.device) // self.page
                sums.index_add_(2, pages, new.to(sums.dtype))
        self.length += n


@torch.no_grad()
def sparse_decode(
    q: Tensor,
    cache: PagedCache,
    keep: int = 1024,
    *,
    rest: str = "none",
    sinks: int = 1,
    local: int = 1,
    dense_below: int | None = None,
    kernel: Callable | None = None,
) -> Tensor:
    """The next token's attention over the `keep` tokens of a cache that it wants most.

    q (B, H, 1, D), H a multiple of the cache's Hkv; its own key is in the cache. Pages
    compete by q·mean(k); heads that share keys share the pages, chosen by the best
    score among them. The page that is being filled, `local` before it and the first
    `sinks` are always in. keep: tokens, a multiple of the page. rest: "pooled" lets a
    mean stand for every page that is not chosen, "none" drops them.
    dense_below: lengths up to which all tokens are read instead, as it is no slower:
    3·keep unless given. kernel: what `compiled_decode` gives, for a device without
    Triton. Returns (B, H, 1, D). No gradient.
    Raises ValueError for arguments that do not fit.
    Source: pages chosen for each query, Tang et al. 2024 (Quest), by bounds there.
    """
    _check(q, cache, keep, rest, sinks, local)
    limit = CROSSOVER * keep if dense_below is None else dense_below
    check_count("dense_below", limit, least=0)
    if cache.length <= max(limit, keep):
        past = (x[:, :, : cache.length] for x in (cache.k, cache.v))
        return fused_attention(q, *past)
    n, D = keep // cache.page, q.shape[-1]
    groups = q.shape[1] // cache.k.shape[1]
    asks = q.view(q.shape[0], -1, groups, D)  # (B, Hkv, groups, D)
    if has_kernels(q, cache.page) and width_of(D) == D:  # else: a copy of the cache
        from sparse_attn.kernels import fused

        chosen = _chosen(asks, cache, n, rest, sinks, local)
        return fused.decode_listed(q, cache, *chosen)
    if kernel is not None:
        at = torch.tensor(cache.length - 1, device=q.device)
        k, v = (x.unflatten(2, (-1, cache.page)) for x in (cache.k, cache.v))
        sums = cache.key_sums, cache.value_sums
        out = kernel(asks, k, v, *sums, at, n, sinks, local, rest == "pooled")
    else:
        out = _gathered(asks, cache, *_chosen(asks, cache, n, rest, sinks, local))
    return out.reshape(q.shape).to(q.dtype)


def _check(q, cache, keep, rest, sinks, local):
    check_vectors("q", q, "B, H, 1, D")
    check_choice("rest", rest, RESTS)
    (B, H, T, D), (Bk, heads, _, Dk) = q.shape, cache.k.shape
    fits = T == 1 and Bk == B and Dk == D and H % heads == 0
    if not fits or (q.dtype, q.device) != (cache.k.dtype, cache.k.device):
        kind, wanted = (f"{x.dtype} on {x.device}" for x in (q, cache.k))
        raise ValueError(
            f"q has shape {tuple(q.shape)} in {kind}: ({Bk}, H, 1, {Dk}) with H a "
            f"multiple of {heads} in {wanted} is needed for the cache"
        )
    if not cache.length:
        raise ValueError("cache is empty: append the keys and values of the past first")
    check_count("keep", keep, least=cache.page)
    check_count("sinks", sinks, least=0)
    check_count("local", local, least=0)
    if keep % cache.page:
        raise ValueError(f"keep={keep} is not a multiple of page={cache.page}")
    always = (1 + sinks + local) * cache.page
    if keep < always:
        raise ValueError(
            f"keep={keep}: {always} are always in with sinks={sinks}, local={local} "
            f"and page={cache.page}"
        )


def _chosen(asks, cache, n: int, rest: str, sinks: int, local: int):
    """(pages (B, Hkv, n), bias): the last page comes last; the others unordered.

    bias (B, Hkv, pages): log of a page's size where it stands pooled, else -inf; None
    without pooled entries.
    """
    last = cache.pages - 1
    sums = cache.key_sums[:, :, :last]  # all full pages
    scores = (asks.to(sums.dtype) @ sums.mT).amax(dim=2)  # page and scale are alike
    scores[..., max(0, last - local) :] = torch.inf
    scores[..., :sinks] = torch.inf
    best = scores.topk(min(n - 1, last), dim=-1).indices
    pages = torch.cat((best, best.new_full((*best.shape[:2], 1), last)), dim=-1)
    if rest == "none":
        return pages, None
    bias = scores.new_full((*best.shape[:2], last + 1), math.log(cache.page))
    return pages, bias.scatter(-1, pages, -torch.inf)


def _gathered(asks: Tensor, cache: PagedCache, pages: Tensor, bias: Tensor | None):
    """Copies pages side by side, then PyTorch's kernel. asks (B, Hkv, groups, D)."""
    B, heads, n = pages.shape
    total, size = cache.capacity // cache.page, cache.page * asks.shape[-1]
    ids = (
        pages.flatten(0, 1)
        + total * torch.arange(B * heads, device=pages.device)[:, None]
    )
    seen = (n - 1) * cache.page + (cache.length - 1) % cache.page + 1
    near, far = (
        torch.index_select(x.view(-1, size), 0, ids.flatten(), out=room)
        for x, room in zip((cache.k, cache.v), cache.room(n), strict=True)
    )
    near, far = (x.view(B, heads, n * cache.page, -1)[:, :, :seen] for x in (near, far))
    scale = 1 / math.sqrt(asks.shape[-1])
    out, lse = attend(asks, near, far, None, scale)
    if bias is None:
        return out
    means = (
        (x[:, :, : cache.pages] / cache.page).to(asks.dtype)  # sums overflow a half
        for x in (cache.key_sums, cache.value_sums)
    )
    rest, other = attend(asks, *means, bias[:, :, None], scale)
    return merge((out, rest), (lse, other))[0]
