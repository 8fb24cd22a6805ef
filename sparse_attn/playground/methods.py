"""What each method of the playground computes, moves and holds, for one layer.

Puts together formulas of `cost` and has none of its own for what they know; leaves
seconds to `estimate`. Every function takes a Choice, or symbols under the same names.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparse_attn import cost
from sparse_attn.cost.selection import INDEX_BYTES
from sparse_attn.gpt import GPTConfig
from sparse_attn.kernels import pool_for
from sparse_attn.kernels.selection import GROUP
from sparse_attn.playground.choice import (
    BLOCKS,
    FULL,
    POOLED,
    PUBLISHED,
    SQUARES,
    WINDOW,
)

HIDDEN = 64  # of both published networks


@dataclass(frozen=True)
class Work:
    """Attention of one layer, all heads: FLOPs and bytes.

    attending: those of `flops` that weigh kept keys and values; the others find keys
    and stand for the rest. moved: the least between slow memory and the processor,
    each input read once for each pass over it. extra: held beside q, k and v, output
    included. cache: keys and values that stay for later tokens. gathered: what the
    lists of a prefill read if no cache holds a key for the next list; else 0.
    """

    flops: int
    attending: int
    moved: int
    extra: int
    cache: int
    gathered: int = 0


def work(method: str, s) -> Work:
    """What `method` takes for the text and task of `s`, whatever method s names.

    K of T and more are all keys: then the sparse methods are full attention, except
    the published one, which has no such case.
    """
    if method in (WINDOW, BLOCKS, POOLED) and s.K >= s.T:
        method = FULL
    return _METHODS[method, s.task](s)


def other_work(s) -> cost.Cost:
    """Projections and the MLP of the layer: what no method of attention changes."""
    return _parts(s)["weights"]


def _full(s) -> Work:
    part = _parts(s)["attention"]
    return Work(part.flops, part.flops, part.moved, _output(s), _cache(s))


def _squares(s) -> Work:
    """As the formula is written: the whole square, its weights too, causal or not."""
    queries = s.T if s.task == "prefill" else 1
    flops = queries * cost.decode_work(_config(s), s.T)["attention"].flops
    shared = cost.naive_elements(s.H // s.Hkv * queries, s.C // s.H, S=s.T)
    square = cost.square_bytes(s.T, H=s.H, bytes_per_value=s.bytes) // s.T * queries
    moved = s.Hkv * shared.moved * s.bytes
    return Work(flops, flops, moved, 2 * square + _output(s), _cache(s))


def _window(s) -> Work:
    part = _parts(s, s.K)["attention"]
    kept = cost.kv_cache_bytes(_config(s).but(window=s.K), s.T, bytes_per_value=s.bytes)
    return Work(part.flops, part.flops, part.moved, _output(s), kept)


def _blocks(s) -> Work:
    """Means of queries and keys find the blocks; q and k are read once more for them,
    which is half of q, k, v and the output."""
    part = _parts(s, s.K)["attention"]
    finding, held = _lists(s)
    return Work(
        part.flops + finding,
        part.flops,
        part.moved + part.moved // 2,
        _output(s) + held,
        _cache(s),
        _gathered(s),
    )


def _pooled(s) -> Work:
    """And means of keys and values stand for the rest; q is read once more as well."""
    pool = pool_for(s.T, block_q=s.block_q, block_k=s.block_k, local=local(s.block_k))
    parts = _parts(s, s.K, page=pool)
    part, rest = parts["attention"], parts["summaries"]
    finding, held = _lists(s)
    return Work(
        part.flops + finding + rest.flops,
        part.flops,
        part.moved + rest.moved + _output(s),
        _output(s) + held + rest.held,
        _cache(s),
        _gathered(s),
    )


def local(block_k: int) -> int:
    """Blocks before a query's own that its list always has: 64 tokens, or a block."""
    return -(-64 // block_k)


def _lists(s) -> tuple[int, int]:
    """FLOPs of all scores of means, and bytes of the means and of the lists.

    A group of queries asks like one query whose keys are blocks: q kᵀ of means is half
    of `pooled_flops`, the other half would be p v.
    """
    groups, blocks = s.T // GROUP, s.T // s.block_k
    met = cost.pooled_flops(groups, s.C // s.H, s.block_k // GROUP, causal=True)
    means = groups * s.C + blocks * s.Hkv * (s.C // s.H)
    listed = s.H * (s.T // s.block_q) * (s.K // s.block_k)
    return s.H * met // 2, means * s.bytes + listed * INDEX_BYTES


def _gathered(s) -> int:
    """Keys and values of every list of every head; the first lists are shorter."""
    rows, keep = s.T // s.block_q, s.K // s.block_q
    keys = s.block_q * cost.topk_pairs(rows, keep, causal=True)
    return 2 * s.C * s.bytes * keys


def _pages(s) -> Work:
    """Sums of keys find the pages: half of what `decode_work` has for the summaries."""
    parts = _parts(s, s.K, page=s.block_k)
    part, sums = parts["attention"], parts["summaries"]
    return Work(
        part.flops + sums.flops // 2,
        part.flops,
        part.moved + sums.moved // 2,
        _output(s) + sums.held // 2,
        _cache(s),
    )


def _pooled_pages(s) -> Work:
    parts = _parts(s, s.K, page=s.block_k)
    part, sums = parts["attention"], parts["summaries"]
    return Work(
        part.flops + sums.flops,
        part.flops,
        part.moved + sums.moved,
        _output(s) + sums.held,
        _cache(s),
    )


def _published(s) -> Work:
    """Selector and approximator of every head: their tensors are written and read, and
    their weights read. Values are kept for later tokens, and no keys."""
    D, K = s.C // s.H, min(s.K, s.T)
    queries = s.T if s.task == "prefill" else 1
    flops = s.H * cost.topk_mlp_flops(s.T, D, HIDDEN, K) // s.T * queries
    tensors = cost.selection_bytes(s.T, D, K, H=s.H, bytes_per_value=s.bytes)
    held = sum(tensors.values()) // s.T * queries
    weights = published_weights(s) * s.bytes
    read = _cache(s) // 2 if s.task == "prefill" else 0  # the values
    return Work(
        flops,
        flops,
        2 * held + weights + read + 2 * _output(s),
        held + weights + _output(s),
        _cache(s) // 2,
    )


def published_weights(s) -> int:
    """Weights of both networks of all heads, which fit this T and this K alone."""
    D = s.C // s.H
    approximator = HIDDEN * D * (min(s.K, s.T) + 1)
    return cost.selector_parameters(s.T, D, hidden=HIDDEN, H=s.H) + s.H * approximator


_METHODS = {
    (FULL, "prefill"): _full,
    (FULL, "decode"): _full,
    (SQUARES, "prefill"): _squares,
    (SQUARES, "decode"): _squares,
    (WINDOW, "prefill"): _window,
    (WINDOW, "decode"): _window,
    (BLOCKS, "prefill"): _blocks,
    (BLOCKS, "decode"): _pages,
    (POOLED, "prefill"): _pooled,
    (POOLED, "decode"): _pooled_pages,
    (PUBLISHED, "prefill"): _published,
    (PUBLISHED, "decode"): _published,
}


def _config(s) -> GPTConfig:
    """One layer, its MLP four times as wide as the model; the vocabulary left out."""
    return GPTConfig(layers=1, heads=s.H, width=s.C, kv_heads=s.Hkv, vocab=1)


def _parts(s, K=None, page: int = 64) -> dict[str, cost.Cost]:
    """Parts of one layer by `cost.serving`, for a prompt or for its next token."""
    of = {"prefill": cost.prefill_work, "decode": cost.decode_work}[s.task]
    return of(_config(s), s.T, K=K, page=page, bytes_per_value=s.bytes)


def _output(s) -> int:
    """Bytes of one vector for each query."""
    queries = s.T if s.task == "prefill" else 1
    return cost.fused_scores(queries, s.C, bytes_per_value=s.bytes).held


def _cache(s) -> int:
    return cost.kv_cache_bytes(_config(s), s.T, bytes_per_value=s.bytes)
