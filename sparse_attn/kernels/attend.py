"""Attention to a few keys with its log-sum-exp, so that parts can be joined.

Knows how each device gives both; leaves which keys to its callers. Written so that
TorchScript can read it: `steps` has it do so.
"""

import torch
from torch import Tensor

from sparse_attn.flash.online import shift


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scale: float,
    causal: bool = False,
    sees: bool = False,
) -> tuple[Tensor, Tensor]:
    """Attention (R, H, T, D) and its log-sum-exp (R, H, T), -inf where nothing is seen.

    sees: whether every query is known to see something, which spares a look.
    On a CPU by the kernel behind scaled_dot_product_attention, which knows the
    log-sum-exp but has no public name that returns it.
    """
    if k.shape[2] == 0:
        nothing = q.new_full(q.shape[:-1], -torch.inf, dtype=wide(q))
        return torch.zeros_like(q), nothing
    if q.device.type == "cpu":
        if mask is not None:
            mask = mask.to(q.dtype)
        out, lse = torch._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal, attn_mask=mask, scale=scale
        )
    else:
        out, lse = by_formula(
            q.to(wide(q)), k.to(wide(q)), v.to(wide(q)), mask, scale, causal
        )
        out = out.to(q.dtype)
    if mask is not None and not sees:  # the kernel gives 0 where nothing is seen
        blind = mask.amax(dim=-1) == -torch.inf
        lse = lse.masked_fill(blind, -torch.inf)
    return out, lse


def by_formula(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    """`attend` for devices whose kernels keep the log-sum-exp to themselves."""
    scores = scale * (q @ k.mT)
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device)
        scores = scores.masked_fill(future.triu(1), -torch.inf)
    scores = scores if mask is None else scores + mask
    lse = scores.logsumexp(dim=-1)
    return (scores - shift(lse).unsqueeze(-1)).exp() @ v, lse


def wide(x: Tensor) -> torch.dtype:
    """The dtype of sums: fp32, or that of x if wider."""
    return torch.promote_types(x.dtype, torch.float32)


def positive(q: Tensor, scale: float) -> tuple[Tensor, float]:
    """q and a scale above 0 that give the same scores.

    Kernels find a maximum, or mask, before they scale: the sign belongs in q.
    """
    return (q, scale) if scale > 0 else (-q if scale else 0 * q, -scale or 1.0)


def join(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], out: Tensor, lse: Tensor):
    """`flash.merge` of two into given memory, in few calls: here they are the cost."""
    share = torch.sigmoid(a[1] - b[1]).nan_to_num_(0.0)  # both -inf: nothing is seen
    torch.lerp(b[0], a[0], share.unsqueeze(-1).to(a[0].dtype), out=out)
    torch.logaddexp(a[1], b[1], out=lse)
