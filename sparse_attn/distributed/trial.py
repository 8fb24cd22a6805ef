"""Every method once, in ranks that torchrun has started: errors, bytes and seconds.

Knows how ranks are set up and what is reported; leaves the methods to `ring` and
`selected`.
"""

from __future__ import annotations

import os
import signal
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from sparse_attn import cost
from sparse_attn.device import pick_device, synchronize
from sparse_attn.distributed.fetch import asked_of
from sparse_attn.distributed.inputs import inputs, shapes_of
from sparse_attn.distributed.layout import (
    LAYOUTS,
    Spans,
    block_layout,
    count,
    join,
    layout,
    take,
)
from sparse_attn.distributed.local import attend
from sparse_attn.distributed.ring import gathered_attention, ring_attention
from sparse_attn.distributed.selected import selected_attention
from sparse_attn.distributed.settings import Settings
from sparse_attn.distributed.wire import counted, exchange, place
from sparse_attn.kernels.selection import select_blocks
from sparse_attn.kernels.sparse import block_attention
from sparse_attn.timing import stopwatch


class Method(NamedTuple):
    """A method, the layout it wants, its formula of bytes, and its one-process twin."""

    run: Callable[[Tensor, Tensor, Tensor], Tensor]
    spans: list[Spans]
    sends: list[dict[str, int]]
    twin: str


LAST_WORDS = 5.0  # seconds that a rank has to say whom it lost


def set_up(timeout: int) -> torch.device:
    """Joins the group of ranks that torchrun started: NCCL where each has a GPU of its
    own, else gloo on CPUs."""
    linger(LAST_WORDS)
    ranks, here = (int(os.environ[x]) for x in ("LOCAL_WORLD_SIZE", "LOCAL_RANK"))
    own_gpu = pick_device().type == "cuda" and torch.cuda.device_count() >= ranks
    device = torch.device("cuda", here) if own_gpu else torch.device("cpu")
    given = dict(device_id=device) if own_gpu else {}
    if own_gpu:
        torch.cuda.set_device(device)
    backend = "nccl" if own_gpu else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout), **given)
    return device


def linger(seconds: float):
    """From now on SIGTERM ends this process so many seconds later.

    When one rank dies, torchrun ends the others at once: before these notice, where the
    processor is busy. Python runs a handler only after the call that waits for the dead
    rank, so a thread hears of the signal instead.
    """
    hears, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told)
    signal.signal(signal.SIGTERM, lambda *_: None)

    def end():
        while os.read(hears, 1) != bytes([signal.SIGTERM]):
            pass
        time.sleep(seconds)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=end, daemon=True).start()


def trial(s: Settings, device: torch.device) -> dict:
    """Runs and times all methods; what is compared with one process, on rank 0 alone.

    s: as `sized` returns it. Rank 0 makes q, k and v and sends the others their parts.
    Seconds are those until the slowest rank is done, the median of `samples`; bytes are
    those of one call.
    """
    rank, N = place()
    whole, ones = [None] * 3, {}
    if rank == 0:
        whole = inputs(s, device)
        ones = {
            name: _timed(fn, 1, device) for name, fn in one_process(s, whole).items()
        }
    report = {"ranks": N, "backend": dist.get_backend(), "device": device.type}
    report |= {"torch": torch.__version__, **asdict(s), "methods": {}}
    report["one process"] = {name: seconds for name, (_, seconds) in ones.items()}
    if rank == 0:
        flops = (
            4 * s.batch * s.heads * s.head_dim * cost.pairs(s.tokens, causal=s.causal)
        )
        report["rate"] = flops / ones["all keys"][1]
    listed = ones["selected"][0][1] if rank == 0 else None
    for i, (name, method) in enumerate(methods(s, N, listed).items()):
        parts = _scatter(whole, method.spans, s, device)
        if i == 1 and s.kill_rank == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        with counted() as sent:
            out = method.run(*parts)
        run = partial(method.run, *parts)
        _, seconds = _timed(run, s.samples, device, dist.barrier)
        bills = [None] * N
        dist.all_gather_object(bills, dict(sent))
        result = _gather(out, method.spans)
        if rank == 0:
            error = (result - ones[method.twin][0][0]).abs().max()
            report["methods"][name] = {
                "error": error.item(),
                "sent": bills,
                "formula": method.sends,
                "seconds": seconds,
            }
    return report


def methods(s: Settings, N: int, listed: Tensor | None) -> dict[str, Method]:
    """The methods by name; listed: the blocks that one process selects, where known."""
    shape = dict(D=s.head_dim, Hkv=s.kv_heads, B=s.batch)
    shape["bytes_per_value"] = getattr(torch, s.dtype).itemsize
    blocks, found = dict(block_q=s.block_q, block_k=s.block_k), {}
    for kind in LAYOUTS:
        spans = layout(s.tokens, N, kind)
        run = partial(ring_attention, layout=kind, causal=s.causal)
        sends = cost.ring_bytes(list(map(count, spans)), **shape)
        found[f"ring, {kind}"] = Method(run, spans, sends, "all keys")

    spans = layout(s.tokens, N)
    run = partial(gathered_attention, causal=s.causal)
    sends = cost.gathered_bytes(list(map(count, spans)), **shape)
    found["all-gather"] = Method(run, spans, sends, "all keys")

    spans = block_layout(s.tokens, N, s.block_q)
    pooled = s.rest == "pooled"
    how = dict(keep=s.keep // s.block_k, rest=s.rest, pool=s.pool, causal=s.causal)
    run, sends = partial(selected_attention, **how, **blocks), []
    if listed is not None:
        lengths = list(map(count, spans))
        asked = asked_of(listed, lengths, Hkv=s.kv_heads, **blocks)
        shape |= dict(block_k=s.block_k, pool=s.pool if pooled else None)
        sends = cost.selected_bytes(lengths, asked, **shape)
    found["selected"] = Method(run, spans, sends, "selected")
    return found


def one_process(s: Settings, whole: list[Tensor]) -> dict[str, Callable]:
    """What the ranks together must equal, by name; calls give (out, lse or blocks)."""
    how = dict(causal=s.causal, block_q=s.block_q, block_k=s.block_k)

    def selected():
        q, k, v = whole
        listed = select_blocks(q, k, s.keep // s.block_k, **how)
        pooled = dict(rest=s.rest, pool=s.pool)
        return block_attention(q, k, v, listed, **pooled, **how), listed

    scale = s.head_dim**-0.5
    return {"all keys": partial(attend, *whole, s.causal, scale), "selected": selected}


def _timed(
    fn: Callable, samples: int, device, wait: Callable = int
) -> tuple[object, float]:
    """What `fn` gives, and the median of its seconds after one call to warm up.

    wait: called before and after each, so that ranks start together and the last ends.
    """
    found, taken = fn(), []
    for _ in range(samples):
        wait()
        with stopwatch() as seconds:
            found = fn()
            synchronize(device)
            wait()
        taken.append(seconds())
    return found, statistics.median(taken)


def _scatter(whole, spans: list[Spans], s: Settings, device) -> list[Tensor]:
    """This rank's part of q, k and v, which rank 0 has whole."""
    rank, found = place()[0], []
    for x, shape in zip(whole, shapes_of(s, count(spans[rank])), strict=True):
        sends, receives = {}, {}
        if rank == 0:
            mine = take(x, spans[0])
            sends = {r: take(x, held) for r, held in enumerate(spans) if r}
        else:
            mine = torch.empty(shape, dtype=getattr(torch, s.dtype), device=device)
            receives = {0: mine}
        exchange("parts", sends, receives)()
        found.append(mine)
    return found


def _gather(out: Tensor, spans: list[Spans]) -> Tensor | None:
    """The whole result on rank 0, None on the others."""
    if place()[0]:
        exchange("parts", {0: out}, {})()
        return None
    parts = [out.new_empty(*out.shape[:2], count(x), out.shape[3]) for x in spans]
    exchange("parts", {}, {r: x for r, x in enumerate(parts) if r})()
    return join([out, *parts[1:]], spans)
