"""Selected attention by Triton's kernels: what they are given, and what comes back.

Knows how tensors of any layout and width become what the kernels of `block_forward`,
`block_backward` and `decode` take. Importing this needs Triton; `has_kernels` of
`fitting` says where its functions may be called.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparse_attn.kernels import _current, _fitted, block_backward, block_forward, decode


def forward(
    q, k, v, blocks, bias, mean_k, mean_v, *, causal, scale, block_q, block_k, pool
) -> tuple[Tensor, Tensor]:
    """out (B, H, T, D) and lse (B, H, T) in fp32, as `blocked.forward` gives them.

    pool: tokens of a pooled entry; if causal, those of a row end before it begins.
    """
    given = *_listed(q, k, v, blocks, bias, mean_k, mean_v), causal, scale
    with _current(q.device):
        out, lse = block_forward.launch(*given, block_q, block_k, pool)
    return out[..., : q.shape[-1]], lse


def backward(
    q,
    k,
    v,
    blocks,
    bias,
    mean_k,
    mean_v,
    out,
    lse,
    dout,
    dlse,
    *,
    causal,
    scale,
    block_q,
    block_k,
    pool,
) -> tuple[Tensor | None, ...]:
    """dq, dk, dv, and the gradients of mean_k and mean_v, None without bias."""
    given = _listed(q, k, v, blocks, bias, mean_k, mean_v)
    found = _fitted(out), lse.contiguous(), _fitted(dout), dlse.contiguous()
    with _current(q.device):
        grads = block_backward.launch(
            *given, *found, causal, scale, block_q, block_k, pool
        )
    return tuple(None if x is None else x[..., : q.shape[-1]] for x in grads)


def _listed(q, k, v, blocks, bias, mean_k, mean_v) -> tuple[Tensor | None, ...]:
    q, k, v = map(_fitted, (q, k, v))
    blocks = blocks.to(torch.int32).contiguous()
    if bias is None:
        return q, k, v, blocks, None, None, None
    return q, k, v, blocks, bias.float(), _fitted(mean_k), _fitted(mean_v)


def decode_listed(q: Tensor, cache, pages: Tensor, bias: Tensor | None) -> Tensor:
    """Attention of q (B, H, 1, D) over listed pages of a `PagedCache`, like q.

    pages (B, Hkv, n), each once; bias (B, Hkv, pages): log of the tokens that a page's
    mean stands for, -inf for none, as it must be for a page that is not full; None for
    no such entries. Widths of other than a power of 2 from 16 on copy the cache.
    """
    pages, means = pages.to(torch.int32).contiguous(), (None, None)
    if bias is not None:
        sums = cache.key_sums, cache.value_sums
        means = (_fitted(x[:, :, : cache.pages] / cache.page) for x in sums)
        bias = bias.float()
    given = *map(_fitted, (q, cache.k, cache.v)), pages, cache.length, cache.page
    with _current(q.device):
        out, _ = decode.launch(*given, 1 / math.sqrt(q.shape[-1]), bias, *means)
    return out[..., : q.shape[-1]]
