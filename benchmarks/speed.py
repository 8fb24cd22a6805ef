"""Block-sparse attention against PyTorch's own: prefill, decoding, a model, quality.

    python benchmarks/speed.py [--part I/N] [--only prefill]

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

from sparse_attn import corpus, gpt, indexer, kernels, metrics, timing
from sparse_attn.attention import attention
from sparse_attn.compiling import compiled
from sparse_attn.device import facts, peak_memory, pick_device
from sparse_attn.kernels.selection import GROUP, block_means, blocks_from_means
from sparse_attn.kernels.sparse import RESTS
from sparse_attn.layers import fused_attention
from sparse_attn.patterns.flex import BLOCK, listed_mask
from sparse_attn.units import slug

ROOT = Path(__file__).resolve().parent.parent
KEEP, DECODE_KEEP = 512, 1024
SHAPES = ((16, 16), (32, 16), (64, 16), (64, 64), (128, 64))  # queries, keys of a block
LENGTHS = tuple(2**n for n in range(10, 17))
BETWEEN = (1536, 3072)  # around the crossover
CACHES = tuple(2**n for n in range(12, 19))
MODEL_LENGTHS = tuple(2**n for n in range(10, 15))
NAIVE, TOKENWISE = 4096, 2048  # lengths up to which these are run
FLEX = (4096, 16_384)  # lengths for which FlexAttention is compiled
LAST = 512  # bytes of a text that are judged when only reading is sparse
WINDOWS = 12  # texts of 4,096 bytes on which quality is judged


def settings(device):
    """(H, Hkv, D, dtype): what a model of such a device would have."""
    if device.type == "cuda":
        return 16, 4, 128, torch.bfloat16
    return 8, 8, 64, torch.float32


def drawn(device, T: int):
    H, Hkv, D, dtype = settings(device)
    like = dict(device=device, dtype=dtype)
    return torch.randn(1, H, T, D, **like), *torch.randn(2, 1, Hkv, T, D, **like)


def timed(fns: dict, device, against: str = "dense", samples=None) -> dict:
    """Seconds of each, its ratio to `against`, and memory beyond inputs and outputs."""
    taken = timing.measure_together(fns, device=device, samples=samples)
    found = {}
    for name, one in taken.items():
        with peak_memory(device) as peak:
            fns[name]()
        gain = timing.ratio(taken[against], one)
        found[name] = {
            "seconds": one.median,
            "interval": [float(one.low), float(one.high)],
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
    flex, why = (None, "not run at this length") if T not in FLEX else flexed(q, k, v)
    if flex is not None:
        fns["FlexAttention"] = flex
    return timed(fns, device) | {"flex": why}


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
    """FlexAttention on blocks of 128 keys chosen alike, compiled; or None and why."""
    blocks = kernels.select_blocks(
        q, k, KEEP // BLOCK, causal=True, block_q=BLOCK, block_k=BLOCK, local=1
    )
    mask = listed_mask(blocks, q.shape[2])
    attend = torch.nn.attention.flex_attention.flex_attention
    run = partial(attend, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
    kernel, why = compiled(run, q, k, v)
    return (None, why) if kernel is None else (partial(kernel, q, k, v), "")


def shapes(T: int, device) -> dict:
    """Every size of blocks, and the window with the same: what speed each leaves."""
    q, k, v = drawn(device, T)
    fns = {"dense": partial(fused_attention, q, k, v, causal=True)}
    for size, rest in itertools.product(SHAPES, RESTS):
        fns[f"{size}, {rest}"] = partial(sparse(*size, rest=rest), q, k, v)
    for rest in RESTS:
        fns[f"window, {rest}"] = partial(window(rest=rest), q, k, v)
    return timed(fns, device)


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
        kernel = kernels.compiled_decode()
        fns["sparse, compiled"] = partial(step, dense_below=0, kernel=kernel)
    return timed(fns, device)


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


def by_token(selector, rest, keep=KEEP, block=64):
    return lambda net: indexer.selecting(net, selector, keep, rest=rest, block=block)


def asked_before(q, k, v, rest: str):
    """Lists that the 64 queries before would make: nothing of them lies ahead."""
    asks = block_means(q, GROUP)
    asks = torch.cat((asks[:, :, : 64 // GROUP], asks[:, :, : -64 // GROUP]), dim=2)
    blocks = blocks_from_means(asks, block_means(k, 16), KEEP // 16, causal=True)
    return kernels.block_attention(q, k, v, blocks, causal=True, rest=rest)


def prompt(name: str, device) -> dict:
    """Reading alone: all but the last bytes by `name`, the last with all keys, judged.

    No choice can look ahead of what is judged. Twice as many texts, as fewer bytes of
    each count.
    """
    net, _ = gpt.load(ROOT / "book" / "data" / "long_teacher.safetensors")
    net.to(device)
    T, texts = net.config.context, corpus.load().validation
    x, y = (z.to(device) for z in corpus.windows(texts, T, 2 * WINDOWS))
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


class Pages(indexer.BlockMean):
    """Decoding's choice: pages by their means, the last two and the first for sure."""

    def scores(self, q, k, at=None):
        key = torch.arange(k.shape[2], device=k.device) // self.size
        query = indexer.selector.positions(q, k, at) // self.size
        forced = (key < 1) | (key >= query[:, None] - 1)
        return super().scores(q, k, at).masked_fill(forced, 1e9)


QUALITY = {"full": by(partial(fused_attention, causal=True))}
for each, rest in itertools.product(SHAPES, RESTS):
    QUALITY[f"{each}, {rest}"] = by(sparse(*each, rest=rest))
for rest in RESTS:
    QUALITY[f"window, {rest}"] = by(window(rest=rest))
    QUALITY[f"asked before, {rest}"] = by(partial(asked_before, rest=rest))
for name, selector in {
    "means of 16": indexer.BlockMean(16),
    "oracle": indexer.Oracle(),
    "window": indexer.Recent(4),
}.items():
    QUALITY[f"each query, {name}"] = by_token(selector, "none")
QUALITY["pages of 128"] = by_token(Pages(128), "none", DECODE_KEEP)
PROMPT = {  # how all but the last 512 bytes are read
    "(64, 16), none": sparse(),
    "(64, 16), pooled": sparse(rest="pooled"),
    "window, none": window(),
    "window, pooled": window(rest="pooled"),
}

KINDS = {
    "quality": (quality, tuple(QUALITY)),
    "prompt": (prompt, tuple(PROMPT)),
    "shapes": (shapes, (4096, 16_384)),
    "prefill": (prefill, (*LENGTHS, *BETWEEN)),
    "decode": (decode, CACHES),
    "model": (model, MODEL_LENGTHS),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=KINDS, action="append")
    parser.add_argument("--threads", type=int, choices=(1, 2), action="append")
    parser.add_argument("--most", type=int, help="the greatest length or cache")
    asked = parser.parse_args()
    device = pick_device()
    path = RESULTS / f"speed-{slug(facts(device).name)}.json"
    for kind in asked.only or KINDS:
        run, points = KINDS[kind]
        plain = kind in ("quality", "prompt") or device.type != "cpu"
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
