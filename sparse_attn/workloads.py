"""The calls that chapter 4 puts under a roof, each with what it costs.

One list for the chapter and for `benchmarks/roofline.py`, so that devices compare.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from sparse_attn import cost
from sparse_attn.attention import attention
from sparse_attn.layers import fused_attention

Call = tuple[Callable[[], object], cost.Cost]
ROWS, WIDTH = {"cpu": 2**15, "mps": 2**15, "cuda": 2**16}, 1024
SIDE = {"cpu": 2048, "mps": 4096, "cuda": 8192}
HEADS, TOKENS, HEAD = 12, 1024, 64
CACHE = 2**15  # tokens behind a decoding step


def calls(device: torch.device) -> dict[str, Call]:
    """name -> (call, its cost): element-wise, products, attention, on `device` in fp32.

    Results go into memory that is there wherever PyTorch lets a caller say so; dropout,
    layer norm and attention make new tensors.
    """
    return _elementwise(device) | _products(device) | _attention(device)


def _elementwise(device) -> dict[str, Call]:
    x = torch.randn(ROWS[device.type], WIDTH, device=device)
    out = torch.zeros_like(x)
    gelu = torch.ops.aten.gelu.out
    fns = {
        "scale": lambda: torch.mul(x, 2.0, out=out),
        "softmax": lambda: torch.softmax(x, -1, out=out),
        "GELU": lambda: gelu(x, out=out),
        "layer norm": lambda: F.layer_norm(x, (WIDTH,)),
        "dropout": lambda: F.dropout(x, 0.1),
    }
    return {
        name: (fn, cost.elementwise(x.numel(), operations=cost.OPERATIONS[name]))
        for name, fn in fns.items()
    }


def _products(device) -> dict[str, Call]:
    n = SIDE[device.type]
    a, b = (torch.randn(n, n, device=device) for _ in range(2))
    small, other = (torch.randn(2**17, 16, 16, device=device) for _ in range(2))
    out = torch.zeros_like(small)
    return {
        f"product, n = {n:,}": (lambda: a @ b, cost.matmul(n, n, n)),
        "products, n = 16": (
            lambda: torch.bmm(small, other, out=out),
            cost.matmul(16, 16, 16, batch=len(small)),
        ),
    }


def _attention(device) -> dict[str, Call]:
    H, T, D, S = HEADS, TOKENS, HEAD, CACHE
    q, k, v = (torch.randn(1, H, T, D, device=device) for _ in range(3))
    one = torch.randn(1, H, 1, D, device=device)
    past = [torch.randn(1, H, S, D, device=device) for _ in range(2)]
    step = cost.Cost(4 * H * S * D, 4 * H * D * (2 * S + 2), 4 * H * D)
    return {
        "attention, plain": (lambda: attention(q, k, v), cost.scores(T, H * D, H)),
        "attention, fused": (
            lambda: fused_attention(q, k, v),
            cost.fused_scores(T, H * D),
        ),
        "attention, decoding": (lambda: fused_attention(one, *past), step),
    }


def waves(device: torch.device) -> tuple[int, dict[int, Callable[[], object]]]:
    """(parallel units of `device`, calls by their number of equal pieces of work).

    A piece is one head of fused attention with 32 queries: PyTorch gives it to one
    thread of a CPU, and to one thread block of a GPU. Up to four pieces for each unit.
    """
    units = torch.get_num_threads()
    if device.type == "cuda":
        units = torch.cuda.get_device_properties(device).multi_processor_count
    step = max(1, units // 4)
    pieces = sorted({*range(step, 4 * units + 1, step), units, units + 1})

    def call(H: int):
        q = torch.randn(1, H, 32, HEAD, device=device)
        k, v = (torch.randn(1, H, 4096, HEAD, device=device) for _ in range(2))
        return lambda: fused_attention(q, k, v)

    return units, {H: call(H) for H in pieces}
