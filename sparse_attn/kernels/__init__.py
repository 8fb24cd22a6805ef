"""Fast paths behind one function each: whole attention, selected blocks, decoding.

`flash_attention` is Triton's alone; `sparse_attention` and `sparse_decode` have a path
for every device, and choose. Triton is imported by the first call that needs it, so
that machines without it lose its kernels and nothing else. They run on CUDA; on a CPU
only under Triton's interpreter, which is slow and exact, if TRITON_INTERPRET=1 was set
before Python started.
"""

import math
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_attn.checks import check_finite, check_qkv
from sparse_attn.flash.tiled import Recomputed
from sparse_attn.kernels.attend import positive
from sparse_attn.kernels.compiled import compiled_decode
from sparse_attn.kernels.fitting import width_of
from sparse_attn.kernels.paged import PagedCache, sparse_decode
from sparse_attn.kernels.selection import (
    block_means,
    blocks_from_means,
    listed_pairs,
    select_blocks,
)
from sparse_attn.kernels.sparse import (
    block_attention,
    crossover,
    pool_for,
    sparse_attention,
)

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
WIDEST = 256

__all__ = [
    "PagedCache",
    "block_attention",
    "block_means",
    "blocks_from_means",
    "compiled_decode",
    "crossover",
    "flash_attention",
    "flash_backward",
    "flash_forward",
    "listed_pairs",
    "obstacle",
    "pool_for",
    "select_blocks",
    "sparse_attention",
    "sparse_decode",
]


def obstacle(device: torch.device | str) -> str | None:
    """Why the kernels cannot run on `device`, in a sentence; None where they can."""
    if find_spec("triton") is None:
        return "Triton is not installed: pip install triton==3.7.1 (Linux only)"
    if torch.device(device).type == "cuda":
        return None
    import triton

    if torch.device(device).type == "cpu" and triton.knobs.runtime.interpret:
        return None
    return (
        f"device is {device}: CUDA is needed, or the CPU with TRITON_INTERPRET=1 set "
        "before Python starts"
    )


def flash_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """`flash.flash_attention` as kernels: the same results and gradients.

    q: (B, H, T, D); k, v: (B, Hkv, S, D) in fp32, fp16 or bf16, D up to 256. The
    weights are rounded to that dtype before they meet v, as tensor cores demand. Tiles
    have the size that was fastest on the device when it was first asked for.
    Raises ValueError for arguments that do not fit, RuntimeError where no kernel runs
    (`obstacle` says why).
    """
    scale = _check(q, k, v, scale)
    q, scale = positive(q, scale)
    forward, backward = (
        partial(fn, causal=causal, scale=scale)
        for fn in (flash_forward, flash_backward)
    )
    out, lse = Recomputed.apply(q, k, v, forward, backward)
    return (out, lse) if return_lse else out


def flash_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """The forward kernel alone: out (B, H, T, D) and log-sum-exp (B, H, T) in fp32.

    Arguments and errors as `flash_attention`, but scale is positive.
    """
    scale = _check(q, k, v, scale, positive=True)
    from sparse_attn.kernels import forward

    with _current(q.device):
        out, lse = forward.launch(*map(_fitted, (q, k, v)), causal, scale)
    return out[..., : q.shape[-1]], lse


def flash_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    dout: Tensor,
    dlse: Tensor | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The backward kernels alone: dq, dk, dv from what `flash_forward` gave.

    dout: the gradient of out, dlse: that of lse, if it was used. scale is positive.
    """
    scale = _check(q, k, v, scale, positive=True)
    from sparse_attn.kernels import backward

    dlse = torch.zeros_like(lse) if dlse is None else dlse
    tensors = *map(_fitted, (q, k, v, out)), lse.contiguous()
    with _current(q.device):
        found = backward.launch(
            *tensors, _fitted(dout), dlse.contiguous(), causal, scale
        )
    return tuple(x[..., : q.shape[-1]] for x in found)


def _check(q, k, v, scale: float | None, *, positive: bool = False) -> float:
    check_qkv(q, k, v)
    D = q.shape[-1]
    if q.dtype not in DTYPES:
        raise ValueError(f"q is {q.dtype}: one of {DTYPES} is needed")
    if D > WIDEST:
        raise ValueError(f"q has D={D}: at most {WIDEST} fits the kernels")
    scale = 1 / math.sqrt(D) if scale is None else scale
    check_finite("scale", scale)
    if positive and scale <= 0:
        raise ValueError(f"scale={scale}: more than 0 is needed")
    why = obstacle(q.device)
    if why:
        raise RuntimeError(why)
    return scale


def _fitted(x: Tensor) -> Tensor:
    """x with D filled up by zeros to a power of 2 from 16 on, its last axis dense, and
    every row of a head within reach of 32 bits.

    Zeros change no score; their columns of the result are cut off again.
    """
    D = x.shape[-1]
    x = F.pad(x, (0, width_of(D) - D))
    near = x.shape[2] * x.stride(2) < 2**31
    return x if x.stride(-1) == 1 and near else x.contiguous()


def _current(device: torch.device):
    """Triton launches on the current CUDA device, wherever its tensors are."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
