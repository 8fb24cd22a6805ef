"""The exchangeable parts of a GPT: attention with shared heads, norms, MLPs, positions.

Each works by itself; `gpt` puts them together and `decoding` keeps their past.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparse_attn.attention import attention, causal_mask
from sparse_attn.checks import (
    check_count,
    check_counts,
    check_finite,
    check_mask,
    check_qkv,
)


def fused_attention(q, k, v, *, causal=False, mask=None, scale=None) -> Tensor:
    """`attention` by PyTorch's fused kernel: the same arguments, the same result.

    Told "causal", the kernel skips what is hidden; given a mask, it does not. So a
    mask is built only where it must be. A row that sees nothing gives 0 here too.
    """
    check_qkv(q, k, v)
    T, S = q.shape[-2], k.shape[-2]
    if scale is not None:
        check_finite("scale", scale)
    if mask is not None:
        check_mask(mask, q, S)  # any other than bool would be added to the scores
        mask = torch.atleast_2d(mask)
    if causal and T == 1:
        causal = False  # the last query sees everything
    if causal and (T != S or mask is not None):
        order = causal_mask(T, S, q.device)
        mask, causal = order if mask is None else order & mask, False
    shared = q.shape[1] != k.shape[1]
    out = F.scaled_dot_product_attention(
        q, k, v, mask, is_causal=causal, scale=scale, enable_gqa=shared
    )
    if mask is None:
        return out
    return out.masked_fill(~mask.any(dim=-1, keepdim=True), 0.0)  # and not every NaN


ATTENTIONS = {"formula": attention, "fused": fused_attention}


def window_mask(T: int, S: int, window: int, sinks: int = 0, device="cpu") -> Tensor:
    """(T, S) bool: query t sees the last `window` keys up to itself, and `sinks` first.

    The last query is aligned with the last key, as in `attention(causal=True)`.
    Source: Beltagy et al. 2020 (window), Xiao et al. 2023 (attention sinks).
    """
    check_counts(T=T, S=S, window=window)
    check_count("sinks", sinks, least=0)
    q = torch.arange(S - T, S, device=device)[:, None]
    k = torch.arange(S, device=device)
    return (k <= q) & ((k > q - window) | (k < sinks))


def windowed_attention(q, k, v, window: int) -> Tensor:
    """Each query sees the last `window` keys up to itself; the rest is never computed.

    Queries in blocks of `window`, each against its own block of keys and the one
    before: 2·window keys per query, half of them masked, by the fused kernel.
    Arguments and result as `attention`, with T queries and T keys.
    Source: sliding chunks, Beltagy et al. 2020, section 3.2.
    """
    check_qkv(q, k, v)
    check_counts(window=window)
    B, _, T, _ = q.shape
    if k.shape[-2] != T:
        raise ValueError(f"k has {k.shape[-2]} keys: as many as the {T} queries needed")
    if window >= T:
        return fused_attention(q, k, v, causal=True)
    if T % window:  # whole blocks; the added keys come last, so no query sees them
        q, k, v = (F.pad(x, (0, 0, 0, -T % window)) for x in (q, k, v))
    first = fused_attention(*(x[:, :, :window] for x in (q, k, v)), causal=True)
    later = fused_attention(
        _blocks(q[:, :, window:], window, window),
        _blocks(k, 2 * window, window),
        _blocks(v, 2 * window, window),
        mask=window_mask(window, 2 * window, window, device=q.device),
    )  # (B n, H, window, D)
    later = later.unflatten(0, (B, -1)).movedim(1, 2).flatten(2, 3)  # (B, H, n·W, D)
    return torch.cat((first, later), dim=2)[:, :, :T]


def _blocks(x: Tensor, size: int, step: int) -> Tensor:
    """(B, H, T, D) -> (B n, H, size, D): blocks that start every `step` tokens."""
    x = x.unfold(2, size, step)  # (B, H, n, D, size)
    return x.movedim(2, 1).mT.flatten(0, 1)


class Scores(nn.Module):
    """softmax(q kᵀ) v over the keys each query may see; no parameters.

    q (B, H, T, D); k, v (B, Hkv, S, D). mask replaces the causal window by any other.
    The fused kernel computes a window in blocks; the formula, and sinks, mask the
    whole square.
    """

    def __init__(self, window: int | None, sinks: int, attend: str):
        super().__init__()
        if window is not None:
            check_counts(window=window)
        check_count("sinks", sinks, least=0)
        if attend not in ATTENTIONS:
            raise ValueError(f"attend={attend!r}: choose from {list(ATTENTIONS)}")
        self.window, self.sinks, self.attend = window, sinks, ATTENTIONS[attend]

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None):
        T, S = q.shape[-2], k.shape[-2]
        if mask is None and self.window is not None and self.window < S:
            if T == S and not self.sinks and self.attend is fused_attention:
                return windowed_attention(q, k, v, self.window)
            mask = window_mask(T, S, self.window, self.sinks, q.device)
        if mask is None:
            return self.attend(q, k, v, causal=True)
        return self.attend(q, k, v, mask=mask)


class GroupedQueryAttention(nn.Module):
    """Causal self-attention with `heads` query heads and `kv_heads` shared by them.

    kv_heads = heads is multi-head attention, 1 is multi-query attention. window and
    sinks as in `window_mask`; rotary: turn queries and keys by their position.
    Input and output (B, T, C). Source: Ainslie et al. 2023; Shazeer 2019.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int | None = None,
        *,
        window: int | None = None,
        sinks: int = 0,
        rotary: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
        attend: str = "fused",
    ):
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        check_counts(width=width, heads=heads, kv_heads=kv_heads)
        if width % heads:
            raise ValueError(f"width={width} is not a multiple of heads={heads}")
        if heads % kv_heads:
            raise ValueError(f"heads={heads} is not a multiple of kv_heads={kv_heads}")
        self.head_width, self.rotary = width // heads, rotary
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(width, kv_heads * self.head_width, bias=bias)
        self.value = nn.Linear(width, kv_heads * self.head_width, bias=bias)
        self.scores = Scores(window, sinks, attend)
        self.out = nn.Linear(width, width, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, cache=None) -> Tensor:
        q, k, v = self.project(x)
        if cache is not None:
            return self.merge(cache.attend(self, q, k, v))
        if self.rotary:
            at = torch.arange(x.shape[1], device=x.device)
            q, k = rotate(q, at), rotate(k, at)
        return self.merge(self.scores(q, k, v))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, C) -> q (B, H, T, D) and k, v (B, Hkv, T, D), not yet turned."""
        return tuple(
            y.unflatten(-1, (-1, self.head_width)).transpose(1, 2)  # (B, heads, T, D)
            for y in (self.query(x), self.key(x), self.value(x))
        )

    def merge(self, y: Tensor) -> Tensor:
        """(B, H, T, D) -> (B, T, C), through the output projection."""
        return self.dropout(self.out(y.transpose(1, 2).flatten(-2)))


def rotate(x: Tensor, positions: Tensor, base: float = 10_000.0) -> Tensor:
    """Rotary positions: turn pairs of coordinates by angles that grow with position.

    x: (..., T, D) with D even; positions: (T,). Coordinate i is paired with i + D/2
    and turned by position / base^(2i/D). Source: Su et al. 2021, RoFormer.
    """
    D = x.shape[-1]
    if D % 2:
        raise ValueError(f"x has D={D}: an even head width is needed")
    fine = torch.promote_types(x.dtype, torch.float32)  # half rounds 2049 to 2048
    exponents = torch.arange(0, D, 2, device=x.device, dtype=fine) / D
    angles = positions[:, None].to(fine) * base**-exponents  # (T, D/2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class RMSNorm(nn.Module):
    """x over its root mean square, times a learned gain; no mean, no bias.

    Input and output (..., C). Source: Zhang and Sennrich 2019.
    """

    def __init__(self, width: int, eps: float = 1e-5):
        super().__init__()
        check_counts(width=width)
        self.eps, self.weight = eps, nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class GELU(nn.Module):
    """The MLP of GPT-2: width -> hidden, GELU in its tanh form, and back."""

    def __init__(self, width: int, hidden: int, bias: bool = True):
        super().__init__()
        check_counts(width=width, hidden=hidden)
        self.up = nn.Linear(width, hidden, bias=bias)
        self.down = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class SwiGLU(nn.Module):
    """A gated MLP: SiLU of one projection times another, and back. Three matrices.

    Input and output (..., width). Source: Shazeer 2020.
    """

    def __init__(self, width: int, hidden: int, bias: bool = False):
        super().__init__()
        check_counts(width=width, hidden=hidden)
        self.gate = nn.Linear(width, hidden, bias=bias)
        self.up = nn.Linear(width, hidden, bias=bias)
        self.down = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))
