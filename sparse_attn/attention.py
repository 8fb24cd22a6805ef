"""Softmax attention, written as its formula: the specification of the whole book.

Speed, tiles and kernels live elsewhere and are tested against this module.
"""

import math

import torch
from torch import Tensor

from sparse_attn.checks import check_counts, check_finite, check_mask, check_qkv


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Softmax attention: softmax(q kᵀ · scale) v, with a row of weights per query.

    q: (B, H, T, D); k, v: (B, Hkv, S, D) with H a multiple of Hkv (grouped queries).
    causal: query t sees keys s <= t + S - T, so the last query sees every key.
    mask: bool, broadcastable to (B, H, T, S); True means "may see". scale: 1/√D.
    Returns (B, H, T, D); a query that sees no key gets zeros.
    Raises ValueError for arguments that do not fit. Memory: O(T·S) per head.
    Source: Vaswani et al. 2017, eq. 1; grouped queries, Ainslie et al. 2023.
    """
    weights = attention_weights(q, k, v, causal=causal, mask=mask, scale=scale)
    return weights @ _share_heads(v, q.shape[1])


def attention_weights(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """The weights of `attention`, (B, H, T, S): each row sums to 1, or is all zeros."""
    check_qkv(q, k, v)
    T, S, D = q.shape[-2], k.shape[-2], q.shape[-1]
    scale = 1 / math.sqrt(D) if scale is None else scale
    check_finite("scale", scale)

    # Scores of fp16 vectors overflow fp16, so they are formed in fp32, as kernels do.
    # Scaling q instead of the scores spares one pass over a T x S matrix.
    wide = torch.promote_types(q.dtype, torch.float32)
    k = _share_heads(k, q.shape[1]).to(wide)
    scores = (scale * q.to(wide)) @ k.mT  # (B, H, T, S)
    visible = _visible(T, S, causal, mask, q)
    if visible is None:
        return scores.softmax(dim=-1).to(q.dtype)
    # A row of nothing but -inf would be NaN: where nothing is visible, hide nothing.
    hidden = ~visible & visible.any(dim=-1, keepdim=True)
    weights = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1).to(q.dtype)
    return weights.masked_fill(~visible, 0.0)  # and such a query gets zeros


def causal_mask(T: int, S: int, device: torch.device | str = "cpu") -> Tensor:
    """(T, S) bool: True where query t may see key s, that is s <= t + S - T."""
    check_counts(T=T, S=S)
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)


def _visible(T: int, S: int, causal: bool, mask: Tensor | None, q: Tensor):
    """What both masks leave visible, as one bool tensor; None when it is all."""
    if mask is None:
        return causal_mask(T, S, q.device) if causal else None
    check_mask(mask, q, S)
    mask = mask.broadcast_to((*q.shape[:2], T, S))
    return mask & causal_mask(T, S, q.device) if causal else mask


def _share_heads(x: Tensor, H: int) -> Tensor:
    """(B, Hkv, S, D) -> (B, H, S, D): each key-value head serves H/Hkv query heads."""
    groups = H // x.shape[1]
    return x if groups == 1 else x.repeat_interleave(groups, dim=1)
