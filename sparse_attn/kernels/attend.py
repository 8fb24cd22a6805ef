"""Attention to a few keys with its log-sum-exp, so that parts can be joined.

Knows how each device gives both; leaves which keys to its callers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_attn.flash.online import shift


def attend(q, k, v, mask, scale, causal=False, sees=False) -> tuple[Tensor, Tensor]:
    """Attention (R, H, T, D) and its log-sum-exp (R, H, T), -inf where nothing is seen.

    sees: whether every query is known to see something, which spares a look.
    On a CPU by the kernel behind scaled_dot_product_attention, which knows the
    log-sum-exp but has no public name that returns it.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    if not k.shape[2]:
        return torch.zeros_like(q), q.new_full(q.shape[:-1], -torch.inf, dtype=wide)
    if q.device.type == "cpu":
        mask = None if mask is None else mask.to(q.dtype)
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal, attn_mask=mask, scale=scale
        )
    else:
        out, lse = by_formula(*(x.to(wide) for x in (q, k, v)), mask, scale, causal)
        out = out.to(q.dtype)
    if mask is not None and not sees:  # the kernel gives 0 where nothing is seen
        blind = mask.amax(dim=-1) == -torch.inf
        lse = lse.masked_fill(blind, -torch.inf)
    return out, lse


def by_formula(q, k, v, mask, scale, causal) -> tuple[Tensor, Tensor]:
    """`attend` for devices whose kernels keep the log-sum-exp to themselves."""
    scores = scale * (q @ k.mT)
    if causal:
        future = torch.ones(scores.shape[-2:], device=q.device).triu(1).bool()
        scores = scores.masked_fill(future, -torch.inf)
    scores = scores if mask is None else scores + mask
    lse = scores.logsumexp(dim=-1)
    return (scores - shift(lse)[..., None]).exp() @ v, lse


def positive(q: Tensor, scale: float) -> tuple[Tensor, float]:
    """q and a scale above 0 that give the same scores.

    Kernels find a maximum, or mask, before they scale: the sign belongs in q.
    """
    return (q, scale) if scale > 0 else (-q if scale else 0 * q, -scale or 1.0)


def joined(a: tuple, b: tuple) -> tuple[Tensor, Tensor]:
    """`flash.merge` of two in few passes, for here it is much of the time."""
    lse = torch.logaddexp(a[1], b[1])
    share = (a[1] - lse).exp_().nan_to_num_(0.0)  # both -inf: nothing is seen
    return torch.lerp(b[0], a[0], share[..., None].to(a[0].dtype)), lse
