"""Bits per byte under the rules that benchmarks/speed.py times; run from there.

The model is book/data/long_teacher.safetensors, all heads of all layers.
"""

from __future__ import annotations

import itertools
import math
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from ways import DECODE_KEEP, KEEP, SHAPES, by, sparse, window

from sparse_attn import corpus, gpt, kernels, metrics
from sparse_attn.kernels.selection import GROUP, block_means, blocks_from_means
from sparse_attn.kernels.sparse import RESTS
from sparse_attn.layers import fused_attention, window_mask

ROOT = Path(__file__).resolve().parent.parent
LAST = 512  # bytes of a text that are judged when only reading is sparse
WINDOWS = 24  # texts of 4,096 bytes on which quality is judged


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
QUALITY["(64, 16), pooled by 128"] = by(sparse(rest="pooled", pool=128))
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
