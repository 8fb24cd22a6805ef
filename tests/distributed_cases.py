"""Cases that every rank of a group runs; `test_distributed` starts the ranks."""

import os
import sys
from datetime import timedelta
from functools import partial
from itertools import product

import torch
import torch.distributed as dist
from oracle import draw, off

from sparse_attn import cost, distributed
from sparse_attn.attention import attention
from sparse_attn.distributed import take
from sparse_attn.kernels.selection import select_blocks
from sparse_attn.kernels.sparse import block_attention

CAUSAL = (False, True)


def uneven(T, N):
    """Contiguous lengths that differ as much as they can."""
    return [1] * (N - 1) + [T - N + 1] if T % 2 else [T - N + 1] + [1] * (N - 1)


def exact_cases(N):
    """dtype, T, causal, layout, lengths, B, H and Hkv."""
    sizes = [(N, 1, 2, 2), (2 * N + 1, 2, 4, 2), (63, 1, 4, 1), (97, 1, 2, 2)]
    for dtype, (T, *heads), causal in product(
        (torch.float64, torch.float32, torch.bfloat16), sizes, CAUSAL
    ):
        for kind in distributed.LAYOUTS:
            yield dtype, T, causal, kind, distributed.layout(T, N, kind), *heads
        spans = distributed.spans_of(uneven(T, N))
        yield dtype, T, causal, "contiguous", spans, *heads


def check_exact(rank, N):
    methods = {
        distributed.ring_attention: cost.ring_bytes,
        distributed.gathered_attention: cost.gathered_bytes,
    }
    for case in exact_cases(N):
        dtype, T, causal, kind, spans, B, H, Hkv = case
        whole = draw(T, T, B=B, H=H, Hkv=Hkv, dtype=dtype)
        exact, budget = exactly(partial(attention, causal=causal), *whole)
        mine = [take(x, spans[rank]) for x in whole]
        lengths = [sum(map(len, held)) for held in spans]
        for method, formula in methods.items():
            with distributed.counted() as sent:
                out = method(*mine, causal=causal, layout=kind)
            assert out.dtype == dtype
            error = off(out, take(exact, spans[rank])).max()
            assert error <= budget, f"{method.__name__} {case}: {error} > {budget}"
            shape = dict(D=16, Hkv=Hkv, B=B, bytes_per_value=dtype.itemsize)
            same(sent, formula(lengths, **shape)[rank], case)


def exactly(run, q, k, v):
    """What `run` gives in float64, and how far from it ranks may be in this precision.

    Twice as far as one process, and two roundings more, as partial results are rounded
    before they are joined. Nothing says how far float64 is off: as far as float32 is,
    in proportion.
    """
    kind = torch.float32 if q.dtype == torch.float64 else q.dtype
    rough = [x.to(kind) for x in (q, k, v)]
    plain = off(run(*rough), run(*(x.double() for x in rough))).max()
    eps = torch.finfo(q.dtype).eps
    budget = 2 * plain * eps / torch.finfo(kind).eps + 2 * eps * v.abs().max()
    return run(*(x.double() for x in (q, k, v))), budget


def same(sent, formula, case):
    formula = {kind: n for kind, n in formula.items() if n}
    assert {kind: n for kind, n in sent.items() if n} == formula, f"{case}: {sent}"


def check_selected(rank, N):
    """As one process: its blocks, shown by what is asked for, and its result."""
    sizes = [(96, 8, 8, 8), (131, 16, 8, 8), (203, 32, 8, 16), (250, 64, 8, 32)]
    kinds = [(torch.float64, 1), (torch.float32, 2)]
    for (dtype, Hkv), (T, block_q, block_k, pool), causal, rest, keep in product(
        kinds, sizes, CAUSAL, ("none", "pooled"), (8, 99)
    ):
        if -(-T // block_q) < N:
            continue
        case = dtype, T, block_q, block_k, pool, causal, rest, keep, Hkv
        q, k, v = draw(T, T, B=2, H=4, Hkv=Hkv, dtype=dtype, seed=T)
        how = dict(causal=causal, block_q=block_q, block_k=block_k)
        blocks = select_blocks(q, k, keep, local=2, **how)
        how |= dict(rest=rest, pool=pool)
        exact, budget = exactly(partial(block_attention, blocks=blocks, **how), q, k, v)
        spans = distributed.block_layout(T, N, block_q)
        mine = [take(x, spans[rank]) for x in (q, k, v)]
        with distributed.counted() as sent:
            out = distributed.selected_attention(*mine, keep, local=2, **how)
        error = off(out, take(exact, spans[rank])).max()
        assert error <= budget, f"{case}: {error} > {budget}"

        lengths = [sum(map(len, held)) for held in spans]
        sizes_of = dict(block_q=block_q, block_k=block_k)
        asked = distributed.asked_of(blocks, lengths, Hkv=Hkv, **sizes_of)
        shape = dict(D=16, Hkv=Hkv, B=2, bytes_per_value=q.element_size())
        shape |= dict(block_k=block_k, pool=pool if rest == "pooled" else None)
        same(sent, cost.selected_bytes(lengths, asked, **shape)[rank], case)


def check_settings(rank, N):
    """A scale of its own, also none or below 0; a group without rank 0."""
    q, k, v = draw(40, 40)
    spans = distributed.block_layout(40, N, 8)
    mine = [take(x, spans[rank]) for x in (q, k, v)]
    methods = [
        distributed.ring_attention,
        distributed.gathered_attention,
        partial(distributed.selected_attention, keep=5, block_q=8, block_k=8),  # all
    ]
    for scale, method in product((0.7, -0.3, 0.0), methods):
        exact = attention(q, k, v, causal=True, scale=scale)
        out = method(*mine, causal=True, scale=scale)
        assert off(out, take(exact, spans[rank])).max() < 1e-14, (method, scale)
    group = dist.new_group(list(range(1, N)))
    if rank:
        spans = distributed.layout(40, N - 1, "zigzag")
        mine = [take(x, spans[rank - 1]) for x in (q, k, v)]
        out = distributed.ring_attention(
            *mine, layout="zigzag", causal=True, group=group
        )
        exact = take(attention(q, k, v, causal=True), spans[rank - 1])
        assert off(out, exact).max() < 1e-14, "a group without rank 0"


def main():
    dist.init_process_group("gloo", timeout=timedelta(seconds=20))
    rank, N = dist.get_rank(), dist.get_world_size()
    try:
        check_exact(rank, N)
        check_selected(rank, N)
        check_settings(rank, N)
    except Exception as error:
        sys.stderr.write(f"rank {rank}: {type(error).__name__}: {error}\n")
        sys.stderr.flush()
        os._exit(1)
    print(f"rank {rank}: all right")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
