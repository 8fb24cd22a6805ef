"""One rank's share of the work: its queries meet keys that arrive piece by piece.

Knows which kernel returns a log-sum-exp where; leaves what arrives when to others.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparse_attn import kernels
from sparse_attn.distributed.layout import Spans, pieces
from sparse_attn.flash import merge
from sparse_attn.kernels.attend import attend as attend_dense
from sparse_attn.kernels.attend import positive


class Partial:
    """Attention over the keys seen so far: `out` (B, H, T, D) and `lse` (B, H, T).

    Both are kept in fp32, or the dtype of q if wider, however many parts are joined.
    """

    def __init__(self, q: Tensor, spans: Spans, *, causal: bool, scale: float | None):
        scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
        q, scale = positive(q, scale)
        self.q, self.spans, self.causal, self.scale = q, spans, causal, scale
        wide = torch.promote_types(q.dtype, torch.float32)
        self.out = torch.zeros_like(q, dtype=wide)
        self.lse = q.new_full(q.shape[:-1], -torch.inf, dtype=wide)

    def absorb(self, k: Tensor, v: Tensor, spans: Spans):
        """Takes in the keys and values (B, Hkv, S, D) of these spans, or none of them
        where all are in the future."""
        for queries, keys, causal in pieces(self.spans, spans, causal=self.causal):
            mine = self.q[:, :, queries]
            found = attend(mine, k[:, :, keys], v[:, :, keys], causal, self.scale)
            self.join(queries, *found)

    def join(self, queries: slice, out: Tensor, lse: Tensor):
        """Takes in what these queries have got from other keys."""
        outs, lses = (self.out[:, :, queries], out), (self.lse[:, :, queries], lse)
        self.out[:, :, queries], self.lse[:, :, queries] = merge(outs, lses)

    @property
    def result(self) -> Tensor:
        return self.out.to(self.q.dtype)


def attend(q, k, v, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """(out, lse) of queries (B, H, T, D) over keys (B, Hkv, S, D); S = T if causal."""
    fits = q.dtype in kernels.DTYPES and q.shape[-1] <= kernels.WIDEST and scale > 0
    if q.is_cuda and fits and kernels.obstacle(q.device) is None:
        return kernels.flash_forward(q, k, v, causal=causal, scale=scale)
    groups = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (k, v))
    return attend_dense(q, k, v, None, scale, causal)
