"""The chosen method against full attention on this device, by the clock.

Knows which call is which method, and refuses what would take too long or too much
memory; leaves the clock to `timing`, and predictions to `estimate`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import psutil
import torch
from torch import Tensor

from sparse_attn import kernels, timing, topk
from sparse_attn.attention import attention
from sparse_attn.device import as_device
from sparse_attn.layers import fused_attention, windowed_attention
from sparse_attn.playground.choice import (
    BLOCKS,
    FULL,
    LISTED,
    POOLED,
    PUBLISHED,
    SQUARES,
    WINDOW,
    Choice,
)
from sparse_attn.playground.methods import HIDDEN, local, work
from sparse_attn.playground.profiles import dtype_of
from sparse_attn.timing import Timing
from sparse_attn.units import seconds, size

BUDGET = 9.0  # seconds that a race may take
SAMPLES = 3
ROUNDS = 2 + SAMPLES  # calls of each: the first one, and one to warm up
PART = 0.5  # of the free memory, which a race may take
WIDTH = 128  # of the head that tells how long a race would take
RESTS = {BLOCKS: "none", POOLED: "pooled"}


def race(choice: Choice, device: torch.device | None = None) -> dict[str, Timing]:
    """Method -> its time, and that of full attention, measured in turns.

    Random values; one sequence, forward only. When decoding, every call reads the same
    cache, so that a small one stays in the processor's. First one narrow head of a
    short text tells how long it would take.
    Raises ValueError for one byte per value, and for a setting that needs more than
    BUDGET seconds or PART of the free memory.
    """
    device = as_device(device)
    dtype = dtype_of(choice.bytes, device)
    needed, free = memory(choice), free_memory(device)
    if needed > PART * free:
        raise ValueError(
            f"{size(needed)} would be needed, and {size(free)} are free: "
            "choose fewer tokens or heads"
        )
    whole = expected(choice, device, dtype)
    if whole > BUDGET:
        raise ValueError(
            f"about {seconds(whole)} would be needed: choose fewer tokens or heads"
        )
    with torch.no_grad():
        return timing.measure_together(
            calls(choice, device, dtype), device=device, samples=SAMPLES
        )


def memory(choice: Choice) -> int:
    """Bytes of q, k, v and of what both methods hold beside them."""
    own, full = (work(method, choice) for method in (choice.method, FULL))
    return 2 * (own.extra + full.extra) + 2 * full.cache


def free_memory(device: torch.device) -> int:
    """Bytes that are free on the device, or in the system that it shares."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def expected(choice: Choice, device: torch.device, dtype: torch.dtype) -> float:
    """Seconds that the race would take, from one narrow head of a part of the text.

    Long enough that keys are left out; a method grows as its FLOPs and bytes do.
    """
    T = max(1024, 4 * choice.K) if choice.method in (WINDOW, *LISTED) else 512
    small = choice.but(T=min(choice.T, T), K=min(choice.K, T))
    width = choice.C // choice.H
    heads = choice.H * max(1.0, width / WIDTH)  # of the narrow one
    total = 0.0
    with torch.no_grad():
        few = calls(small, device, dtype, heads=1, width=min(width, WIDTH))
        for method, call in few.items():
            taken = timing.measure(call, device=device, samples=1).median
            total += taken * heads * _growth(method, small, choice)
    return ROUNDS * total


def _growth(method: str, small: Choice, choice: Choice) -> float:
    before, after = (work(method, one) for one in (small, choice))
    return max(after.flops / before.flops, after.moved / before.moved)


def calls(
    choice: Choice,
    device: torch.device,
    dtype: torch.dtype,
    heads: int | None = None,
    width: int | None = None,
) -> dict[str, Callable[[], Tensor]]:
    """Method -> a call of it on random values: full attention, and the chosen one.

    heads, width: so many query heads of this width, instead of those of the choice.
    """
    D, H = width or choice.C // choice.H, heads or choice.H
    Hkv = min(H, choice.Hkv)
    generator = torch.Generator().manual_seed(0)
    queries = choice.T if choice.task == "prefill" else 1

    def drawn(n: int, tokens: int) -> Tensor:  # heads alike: drawing takes long
        x = torch.randn(1, 1, tokens, D, generator=generator)
        return x.to(device, dtype).repeat(1, n, 1, 1)

    q, k, v = drawn(H, queries), drawn(Hkv, choice.T), drawn(Hkv, choice.T)
    found = {FULL: partial(fused_attention, q, k, v, causal=queries > 1)}
    if choice.method == FULL:
        return found
    if choice.method in (WINDOW, *LISTED) and choice.K >= choice.T:
        return found | {choice.method: found[FULL]}
    call = {
        SQUARES: lambda: partial(attention, q, k, v, causal=queries > 1),
        WINDOW: lambda: _window(choice, q, k, v),
        BLOCKS: lambda: _listed(choice, q, k, v),
        POOLED: lambda: _listed(choice, q, k, v),
        PUBLISHED: lambda: _published(choice, q, v),
    }
    return found | {choice.method: call[choice.method]()}


def _window(choice: Choice, q, k, v):
    if choice.task == "prefill":
        return partial(windowed_attention, q, k, v, choice.K)
    return partial(fused_attention, q, k[:, :, -choice.K :], v[:, :, -choice.K :])


def _listed(choice: Choice, q, k, v):
    rest, (block_q, block_k) = RESTS[choice.method], choice.block
    if choice.task == "prefill":
        sizes = dict(block_q=block_q, block_k=block_k, local=local(block_k))
        return partial(
            kernels.sparse_attention,
            *(q, k, v, choice.K),
            causal=True,
            rest=rest,
            dense_below=0,
            **sizes,
        )
    (_, Hkv, T, D), like = k.shape, dict(dtype=k.dtype, device=k.device)
    cache = kernels.PagedCache(1, Hkv, D, T, page=block_k, **like)
    cache.append(k, v)
    return partial(kernels.sparse_decode, q, cache, choice.K, rest=rest, dense_below=0)


def _published(choice: Choice, q, v):
    """Both networks of each head, untrained: weights do not change the time."""
    (H, D), K, like = (q.shape[1], q.shape[3]), min(choice.K, choice.T), v[:, 0]
    heads = [
        (
            topk.KeySelector(D, choice.T, HIDDEN).to(like),
            topk.HeadApproximator(K * D, D, HIDDEN).to(like),
        )
        for _ in range(H)
    ]

    def call() -> Tensor:
        out = []
        for h, (selector, approximator) in enumerate(heads):
            picks = topk.pick_keys(selector(q[:, h]), K)
            values = topk.gather_values(v[:, h * v.shape[1] // H], picks)
            out.append(approximator(values.flatten(-2)))
        return torch.stack(out, dim=1)

    return call
