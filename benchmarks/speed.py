"""Block-sparse attention against PyTorch's own: prefill, decoding, a model, quality.

    python benchmarks/speed.py [--only prefill] [--most 8192] [--part I/N]

Every run times its rivals in turns, in one process; finished runs are kept in
results/speed-<device>.json, so that an interrupted benchmark goes on. Ratios are dense
time over theirs, with 95% intervals. fp32 with H=8, D=64 on a CPU; bf16 with H=16,
D=128 and four key-value heads on CUDA.
"""

import argparse
import itertools
import math
from functools import partial

import torch
from judging import PROMPT, QUALITY, prompt, quality
from sweep import RESULTS, results_in
from ways import (
    DECODE_KEEP,
    KEEP,
    SHAPES,
    by,
    drawn,
    flexed,
    read,
    settings,
    sparse,
    tokenwise,
    window,
)

from sparse_attn import gpt, kernels, timing
from sparse_attn.attention import attention
from sparse_attn.device import facts, peak_memory, pick_device
from sparse_attn.kernels.sparse import RESTS
from sparse_attn.layers import fused_attention
from sparse_attn.units import slug

LENGTHS = tuple(2**n for n in range(10, 17))
BETWEEN = (1536, 1600)  # the last dense length for 512 keys, and one beyond
DOUBLED = (8192, 16_384, 32_768)
CACHES = tuple(2**n for n in range(12, 19, 2))
MODEL_LENGTHS = tuple(2**n for n in range(10, 15))
SLOW = ("naive", "a list for each token")
NAIVE, TOKENWISE = 4096, 2048  # lengths up to which these are run
FLEX = (4096, 16_384)  # lengths for which FlexAttention is compiled


def timed(fns: dict, device, samples=None, calls: int = 1) -> dict:
    """Seconds of each, times as fast as "dense", and memory beyond what was given.

    samples: taken however long it lasts, None for what `timing` holds for enough.
    calls: how many follow each other before the next one's turn, so that short ones
    do not pay for what their neighbor left in the processor's cache.
    """

    def repeated(fn):
        for _ in range(calls):
            fn()

    taken = timing.measure_together(
        {name: partial(repeated, fn) for name, fn in fns.items()},
        device=device,
        samples=samples,
        budget=math.inf if samples else timing.BUDGET,
    )
    found = {}
    for name, one in taken.items():
        with peak_memory(device) as peak:
            fns[name]()
        found[name] = {
            "seconds": one.median / calls,
            "interval": [float(x) / calls for x in (one.low, one.high)],
            "ratio": ratio_of(taken["dense"], one),
            "bytes": peak.bytes,
            "samples": len(one.samples),
        }
    return found


def ratio_of(slow: timing.Timing, fast: timing.Timing) -> list[float]:
    gain = timing.ratio(slow, fast)
    return [float(x) for x in (gain.value, gain.low, gain.high)]


def prefill(T: int, device) -> dict:
    q, k, v = drawn(device, T)
    choose = partial(kernels.select_blocks, q, k, KEEP // 16, causal=True)
    fns = {
        "dense": partial(fused_attention, q, k, v, causal=True),
        "sparse": partial(sparse(), q, k, v),
        "sparse, pooled": partial(sparse(rest="pooled"), q, k, v),
        "selection alone": choose,
        "given blocks": partial(
            kernels.block_attention, q, k, v, choose(), causal=True
        ),
        "as it is called": partial(
            kernels.sparse_attention, q, k, v, KEEP, causal=True
        ),
    }
    if T <= NAIVE:
        fns["naive"] = partial(attention, q, k, v, causal=True)
    if T <= TOKENWISE:
        fns["a list for each token"] = partial(tokenwise, q, k, v)
    if T in FLEX:
        fns["FlexAttention"] = flexed(q, k, v)
    slow = {name: fns.pop(name) for name in SLOW if name in fns}
    samples = 12 if T <= 32_768 else 8
    if T in BETWEEN:  # the bar is 5% there, nearer than any other
        samples *= 2
    found = timed(fns, device, samples, calls=max(1, 16_384 // T))
    if slow:  # in turns of their own: they leave nothing in the cache
        slow["dense"] = fns["dense"]
        found |= {
            name: one for name, one in timed(slow, device, 3).items() if name in SLOW
        }
    return found


def doubling(T: int, device) -> dict:
    """How many times as long twice the tokens take, both lengths in turns."""
    fns = {}
    for n in (T, 2 * T):
        q, k, v = drawn(device, n)
        for rest in RESTS:
            fns[rest, n] = partial(sparse(rest=rest), q, k, v)
    taken = timing.measure_together(fns, device=device, samples=12, budget=math.inf)
    return {
        f"sparse, {rest}": {"ratio": ratio_of(taken[rest, 2 * T], taken[rest, T])}
        for rest in RESTS
    }


def shapes(T: int, device) -> dict:
    """Every size of blocks, and the window with the same: what speed each leaves."""
    q, k, v = drawn(device, T)
    fns = {"dense": partial(fused_attention, q, k, v, causal=True)}
    for size, rest in itertools.product(SHAPES, RESTS):
        fns[f"{size}, {rest}"] = partial(sparse(*size, rest=rest), q, k, v)
    for rest in RESTS:
        fns[f"window, {rest}"] = partial(window(rest=rest), q, k, v)
    return timed(fns, device, calls=2)


def decode(S: int, device) -> dict:
    """A token: its key and value appended, sums updated, pages chosen, attended to.

    Several caches and many queries take turns, so that no page is found in the
    processor's cache; the dense rival appends nothing and reads `S` tokens.
    """
    H, Hkv, D, dtype = settings(device)
    like = dict(device=device, dtype=dtype)
    size = 2 * Hkv * S * D * dtype.itemsize
    caches = [
        kernels.PagedCache(1, Hkv, D, S + 8192, **like)
        for _ in range(max(2, min(6, 2**28 // size)))
    ]
    for cache in caches:
        cache.append(*torch.randn(2, 1, Hkv, S, D, **like))
    asks = torch.randn(64, 1, H, 1, D, **like)
    new = torch.randn(2, 1, Hkv, 1, D, **like)
    turn = itertools.count()

    def dense():
        i = next(turn)
        cache = caches[i % len(caches)]
        return fused_attention(asks[i % 64], cache.k[:, :, :S], cache.v[:, :, :S])

    def step(**how):
        i = next(turn)
        cache = caches[i % len(caches)]
        cache.append(*new)
        return kernels.sparse_decode(asks[i % 64], cache, DECODE_KEEP, **how)

    fns = {
        "dense": dense,
        "sparse": partial(step, dense_below=0),
        "sparse, pooled": partial(step, dense_below=0, rest="pooled"),
        "as it is called": step,
    }
    if device.type != "cuda":
        torch._dynamo.reset()  # or it counts the shapes of all lengths together
        kernel = kernels.compiled_decode()
        fns["sparse, compiled"] = partial(step, dense_below=0, kernel=kernel)
    return timed(fns, device, calls=max(8, 2**20 // S))


def model(T: int, device) -> dict:
    """GPT-2 small's shape with random weights: T tokens read, the next one guessed."""
    torch.manual_seed(0)
    net = gpt.GPT(gpt.GPTConfig.gpt2(context=max(MODEL_LENGTHS))).to(device).eval()
    tokens = torch.randint(net.config.vocab, (1, T), device=device)

    def with_blocks(rest):
        attend = partial(kernels.sparse_attention, keep=KEEP, causal=True, rest=rest)
        with by(attend)(net):
            return read(net, tokens)

    fns = {"dense": partial(read, net, tokens)}
    fns |= {f"sparse, {rest}": partial(with_blocks, rest) for rest in RESTS}
    found = timed(fns, device, samples=max(3, 2**14 // T))
    for one in found.values():
        one["tokens per second"] = T / one["seconds"]
    return found


KINDS = {
    "quality": (quality, tuple(QUALITY)),
    "prompt": (prompt, tuple(PROMPT)),
    "shapes": (shapes, (4096,)),
    "prefill": (prefill, (*LENGTHS, *BETWEEN)),
    "doubling": (doubling, DOUBLED),
    "decode": (decode, CACHES),
    "model": (model, MODEL_LENGTHS),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=KINDS, action="append")
    parser.add_argument("--threads", type=int, choices=(1, 2), action="append")
    parser.add_argument("--most", type=int, help="the greatest length or cache")
    parser.add_argument("--part", default="1/1", help="I/N: every N-th point from I on")
    asked = parser.parse_args()
    part, parts = map(int, asked.part.split("/"))
    device = pick_device()
    path = RESULTS / f"speed-{slug(facts(device).name)}.json"
    for kind in asked.only or KINDS:
        run, points = KINDS[kind]
        plain = kind in ("quality", "prompt") or device.type != "cpu"
        points = points[part - 1 :: parts]
        for threads, point in itertools.product(asked.threads or (1, 2), points):
            if (plain and threads > 1) or (asked.most and point > asked.most):
                continue
            key = f"{kind} | {point}" + ("" if plain else f" | {threads} threads")
            with results_in(path) as results:
                if key in results["runs"]:
                    continue
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            found = run(point, device)
            with results_in(path) as results:
                results["device"] = str(facts(device))
                results["runs"][key] = found
            print(
                key, {k: v.get("ratio") for k, v in found.items() if hasattr(v, "get")}
            )


if __name__ == "__main__":
    main()
