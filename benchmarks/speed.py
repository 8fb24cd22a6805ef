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
from pathlib import Path

import torch
import torch.nn.functional as F
from sweep import RESULTS, results_in
from torch.nn.attention import flex_attention

from sparse_attn import corpus, gpt, indexer, kernels, metrics, timing
from sparse_attn.attention import attention
from sparse_attn.device import facts, peak_memory, pick_device
from sparse_attn.kernels.selection import GROUP, block_means, blocks_from_means
from sparse_attn.kernels.sparse import RESTS
from sparse_attn.layers import fused_attention, window_mask
from sparse_attn.patterns.flex import BLOCK, listed_mask
from sparse_attn.units import slug

ROOT = Path(__file__).resolve().parent.parent
KEEP, DECODE_KEEP = 512, 1024
SHAPES = ((16, 16), (32, 16), (64, 16), (64, 64), (128, 64))  # queries, keys of a block
LENGTHS = tuple(2**n for n in range(10, 17))
BETWEEN = (1536, 1600)  # the last dense length for 512 keys, and one beyond
CACHES = tuple(2**n for n in range(12, 19, 2))
MODEL_LENGTHS = tuple(2**n for n in range(10, 15))
SLOW = ("naive", "a list for each token")
NAIVE, TOKENWISE = 4096, 2048  # lengths up to which these are run
FLEX = (4096, 16_384)  # lengths for which FlexAttention is compiled
LAST = 512  # bytes of a text that are judged when only reading is sparse
WINDOWS = 24  # texts of 4,096 bytes on which quality is judged


def settings(device):
    """(H, Hkv, D, dtype): what a model of such a device would have."""
    if device.type == "cuda":
        return 16, 4, 128, torch.bfloat16
    return 8, 8, 64, torch.float32


def drawn(device, T: int):
    H, Hkv, D, dtype = settings(device)
    like = dict(device=device, dtype=dtype)
    return torch.randn(1, H, T, D, **like), *torch.randn(2, 1, Hkv, T, D, **like)


def timed(fns: dict, device, samples=None, calls: int = 1) -> dict:
    """Seconds of each, times as fast as "dense", and memory beyond what was given.

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
    )
    found = {}
    for name, one in taken.items():
        with peak_memory(device) as peak:
            fns[name]()
        gain = timing.ratio(taken["dense"], one)
        found[name] = {
            "seconds": one.median / calls,
            "interval": [float(x) / calls for x in (one.low, one.high)],
            "ratio": [float(x) for x in (gain.value, gain.low, gain.high)],
            "bytes": peak.bytes,
        }
    return found


def sparse(block_q=64, block_k=16, **how):
    """`kernels.sparse_attention` as it is timed and judged, never dense."""
    sizes = dict(block_q=block_q, block_k=block_k, pool=min(64, block_q))
    sizes |= dict(local=64 // block_k, dense_below=0)
    return partial(kernels.sparse_attention, keep=KEEP, causal=True, **sizes | how)


def window(block_q=64, block_k=16, **how):
    """The same engine with a list that is all window and sink."""
    return sparse(block_q, block_k, local=(KEEP - block_q) // block_k - 1, **how)


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
    calls = max(3 if T < 32_768 else 1, 8192 // T)
    found = timed(fns, device, samples=2 if T > 32_768 else None, calls=calls)
    if slow:  # in turns of their own: they leave nothing in the cache
        slow["dense"] = fns["dense"]
        found |= {
            name: one for name, one in timed(slow, device, 3).items() if name in SLOW
        }
    return found


def tokenwise(q, k, v):
    """The obvious top-K: all scores, the best keys of each query, each row gathered."""
    out = torch.empty_like(q)
    groups = q.shape[1] // k.shape[1]
    for h in range(q.shape[1]):
        near, far = k[:, h // groups], v[:, h // groups]
        scores = q[:, h] @ near.mT / math.sqrt(q.shape[-1])  # (B, T, T)
        hidden = torch.ones_like(scores, dtype=torch.bool).triu(1)
        best = scores.masked_fill_(hidden, -torch.inf).topk(KEEP, dim=-1)
        near, far = (x[0, best.indices[0]] for x in (near, far))  # (T, K, D)
        weights = (near @ q[0, h, :, :, None]).squeeze(-1) / math.sqrt(q.shape[-1])
        weights = weights.masked_fill(best.values[0] == -torch.inf, -torch.inf)
        out[0, h] = (weights.softmax(-1)[:, None] @ far).squeeze(1)
    return out


def flexed(q, k, v):
    """FlexAttention on blocks of 128 keys chosen alike, compiled."""
    blocks = kernels.select_blocks(
        q, k, KEEP // BLOCK, causal=True, block_q=BLOCK, block_k=BLOCK, local=1
    )
    mask = listed_mask(blocks, q.shape[2])
    attend = torch.compile(flex_attention.flex_attention, dynamic=False)
    how = dict(block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
    return partial(attend, q, k, v, **how)


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
    return timed(fns, device, calls=16)


def model(T: int, device) -> dict:
    """GPT-2 small's shape with random weights: T tokens read, the next one guessed."""
    torch.manual_seed(0)
    net = gpt.GPT(gpt.GPTConfig.gpt2(context=max(MODEL_LENGTHS))).to(device).eval()
    tokens = torch.randint(net.config.vocab, (1, T), device=device)

    @torch.no_grad()
    def read():
        x = net.embed(tokens)
        for block in net.blocks:
            x = block(x)
        return net.head(net.norm(x[:, -1]))

    def with_blocks(rest):
        attend = partial(kernels.sparse_attention, keep=KEEP, causal=True, rest=rest)
        with indexer.attending(net, lambda layer, q, k, v: attend(q, k, v)):
            return read()

    fns = {"dense": read}
    fns |= {f"sparse, {rest}": partial(with_blocks, rest) for rest in RESTS}
    found = timed(fns, device, samples=1 if T > 2048 else 3)
    for one in found.values():
        one["tokens per second"] = T / one["seconds"]
    return found


def quality(name: str, device) -> dict:
    """Bits per byte of book/data/long_teacher.safetensors, 512 of 4,096 keys kept."""
    net, _ = gpt.load(ROOT / "book" / "data" / "long_teacher.safetensors")
    net.to(device)
    T = net.config.context
    x, y = (z.to(device) for z in corpus.windows(corpus.load().validation, T, WINDOWS))
    exact = metrics.teacher_logits(net, x, batch=2)
    with torch.no_grad(), QUALITY[name](net):
        found = metrics.compare(exact, net, x, y)
    return {
        "bits_per_byte": found.bits_per_token,
        "changes": [a - b for a, b in zip(found.bits, found.teacher_bits, strict=True)],
        "logit_error": found.logit_error,
    }


def by(attend):
    return lambda net: indexer.attending(net, lambda layer, q, k, v: attend(q, k, v))


def asked_before(q, k, v, rest: str):
    """Lists that the 64 queries before would make: nothing of them lies ahead."""
    asks = block_means(q, GROUP)
    asks = torch.cat((asks[:, :, : 64 // GROUP], asks[:, :, : -64 // GROUP]), dim=2)
    blocks = blocks_from_means(asks, block_means(k, 16), KEEP // 16, causal=True)
    return kernels.block_attention(q, k, v, blocks, causal=True, rest=rest)


def prompt(name: str, device) -> dict:
    """Reading alone: all but the last bytes by `name`, the last with all keys, judged.

    No choice can look ahead of what is judged.
    """
    net, _ = gpt.load(ROOT / "book" / "data" / "long_teacher.safetensors")
    net.to(device)
    T, texts = net.config.context, corpus.load().validation
    x, y = (z.to(device) for z in corpus.windows(texts, T, WINDOWS))
    start = T - LAST

    def attend(q, k, v):
        past = PROMPT[name](*(z[:, :, :start] for z in (q, k, v)))
        last = fused_attention(q[:, :, start:], k, v, causal=True)
        return torch.cat((past, last), dim=2)

    def bits() -> torch.Tensor:
        with torch.no_grad():
            parts = [
                F.cross_entropy(
                    net(a)[:, start:].transpose(1, 2), b[:, start:], reduction="none"
                ).mean(dim=1)
                for a, b in zip(x.split(2), y.split(2), strict=True)
            ]
        return torch.cat(parts) / math.log(2)

    full = bits()
    with by(attend)(net):
        changes = bits() - full
    return {
        "bits_per_byte": float((full + changes).mean()),
        "changes": changes.tolist(),
    }


def each_query(q, k, v, choose, size: int):
    """A list of blocks of `size` keys for each query; the choice made dense, to judge.

    choose(scores of means (B, H, T, n), own block (T, 1)) -> ids (B, H, T, keep).
    """
    T, n = q.shape[2], -(-k.shape[2] // size)
    own = torch.arange(T, device=q.device)[:, None] // size
    ids = choose(q @ block_means(k, size).mT, own)
    listed = torch.zeros(*q.shape[:3], n + 1, dtype=torch.bool, device=q.device)
    listed = listed.scatter(-1, ids.where(ids >= 0, n), True)[..., :n]
    pairs = listed.repeat_interleave(size, dim=-1)[..., :T]
    return fused_attention(q, k, v, causal=True, mask=pairs)


def by_means(scores, own, keep: int, local: int):
    """The rule of the lists: the own block, `local` before it, the first, the best."""
    column = torch.arange(scores.shape[-1], device=scores.device)
    forced = (column < 1) | (column >= own - local)
    scores = scores.masked_fill(forced, torch.inf)
    best = scores.masked_fill(column > own, -torch.inf).topk(keep, dim=-1)
    return best.indices.masked_fill(best.values == -torch.inf, -1)


def oracle(q, k, v):
    """The keys of the highest scores, each query for itself."""
    T = q.shape[2]
    future = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(1)
    scores = (q @ k.mT).masked_fill(future, -torch.inf)
    least = scores.topk(KEEP, dim=-1).values[..., -1:]
    return fused_attention(q, k, v, causal=True, mask=scores >= least)


def recent(q, k, v):
    T = q.shape[2]
    mask = window_mask(T, T, KEEP - 4, sinks=4, device=q.device)
    return fused_attention(q, k, v, mask=mask)


QUALITY = {"full": by(partial(fused_attention, causal=True))}
for each, rest in itertools.product(SHAPES, RESTS):
    QUALITY[f"{each}, {rest}"] = by(sparse(*each, rest=rest))
for rest in RESTS:
    QUALITY[f"window, {rest}"] = by(window(rest=rest))
    QUALITY[f"asked before, {rest}"] = by(partial(asked_before, rest=rest))
MEANS = partial(by_means, keep=KEEP // 16, local=4)
PAGES = partial(by_means, keep=DECODE_KEEP // 128, local=1)
QUALITY |= {
    "each query, means of 16": by(partial(each_query, choose=MEANS, size=16)),
    "each query, window": by(recent),
    "each query, oracle": by(oracle),
    "pages of 128": by(partial(each_query, choose=PAGES, size=128)),
}
PROMPT = {  # how all but the last 512 bytes are read
    "(64, 16), none": sparse(),
    "(64, 16), pooled": sparse(rest="pooled"),
    "window, none": window(),
    "window, pooled": window(rest="pooled"),
}

KINDS = {
    "quality": (quality, tuple(QUALITY)),
    "prompt": (prompt, tuple(PROMPT)),
    "shapes": (shapes, (4096,)),
    "prefill": (prefill, (*LENGTHS, *BETWEEN)),
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
