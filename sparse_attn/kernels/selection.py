"""Which blocks of keys each block of queries meets: chosen from means, never T x T.

Knows how means are scored and which blocks are always in; leaves what is computed with
the blocks to `sparse`.
"""

from __future__ import annotations

import math
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_attn.checks import check_count, check_counts, check_qkv

BLOCK_Q, BLOCK_K = 64, 16  # queries that share a selection; keys that come together
POOL = 64  # keys for which one mean stands where they are not selected, at least
GROUP = 16  # queries whose mean asks as one
EMPTY = -1  # in place of a block where a query block has fewer than `keep`
HELD = 2**20  # scores that are held at a time on a CPU, so that a cache holds them
ASKS = 128  # of one head at a time, rather than fewer of more heads: a product's height


@torch.no_grad()
def select_blocks(
    q: Tensor,
    k: Tensor,
    keep: int,
    *,
    causal: bool = False,
    block_q: int = BLOCK_Q,
    block_k: int = BLOCK_K,
    sinks: int = 1,
    local: int = 4,
) -> Tensor:
    """The `keep` blocks of keys that promise each block of queries most weight.

    q (B, H, T, D); k (B, Hkv, S, D), S = T if causal. Every 16 queries ask by their
    mean, every block of `block_k` keys answers by its own; a softmax over the blocks
    makes weights of the scores, which are added up over the queries' block. Always in:
    the blocks that the queries themselves are in, `local` before them and the first
    `sinks`, in this order where `keep` is less. All queries of a block have a say in
    its list: if causal, what a query sees is past, but later queries help choose it.
    Returns (B, H, ⌈T/block_q⌉, n) int64, n at most `keep`: ids in ascending order,
    then -1 where there are fewer. Memory: B·H·T/block_q·S/block_k scores, in parts.
    Raises ValueError for arguments that do not fit.
    """
    check_qkv(q, k, k)
    check_blocks(q, k, causal, block_q, block_k)
    asks, answers = block_means(q, min(GROUP, block_q)), block_means(k, block_k)
    return blocks_from_means(
        asks,
        answers,
        keep,
        causal=causal,
        block_q=block_q,
        block_k=block_k,
        sinks=sinks,
        local=local,
    )


@torch.no_grad()
def blocks_from_means(
    asks: Tensor,
    answers: Tensor,
    keep: int,
    *,
    causal: bool = False,
    block_q: int = BLOCK_Q,
    block_k: int = BLOCK_K,
    sinks: int = 1,
    local: int = 4,
    first: int = 0,
) -> Tensor:
    """`select_blocks` from the means alone, as a device has them that lacks the keys.

    asks (B, H, groups, D): means of every min(16, block_q) queries, from `block_means`;
    answers (B, Hkv, n_k, D): of every block of keys. first: the position of the first
    query among the keys, a multiple of block_q.
    """
    check_sizes(block_q, block_k)
    check_counts(keep=keep)
    check_count("sinks", sinks, least=0)
    check_count("local", local, least=0)
    check_count("first", first, least=0)
    if block_q % min(GROUP, block_q):
        raise ValueError(f"block_q={block_q} is not a multiple of {GROUP}, nor less")
    per = block_q // block_k
    if causal and keep < per:
        raise ValueError(
            f"keep={keep}: at least the {per} blocks that queries are in are needed"
        )
    if first % block_q:
        raise ValueError(f"first={first} is not a multiple of block_q={block_q}")
    B, H = asks.shape[:2]
    answers = _shared(answers.float(), H).flatten(0, 1)  # (B H, n_k, D)
    asks = asks.float().flatten(0, 1) / math.sqrt(asks.shape[-1])
    groups, columns = block_q // min(GROUP, block_q), answers.shape[1]
    rows = -(-asks.shape[1] // groups)
    asks = F.pad(asks, (0, 0, 0, rows * groups - asks.shape[1]))
    own = torch.arange(rows, device=asks.device) * per + first // block_k
    held = HELD if asks.device.type == "cpu" else 32 * HELD
    heads = max(1, min(B * H, held // (ASKS * columns)))  # at a time
    most = max(1, held // (heads * groups * columns))
    blocks = own.new_full((B * H, rows, min(keep, columns)), EMPTY)
    for h, i in product(range(0, B * H, heads), range(0, rows, most)):
        mine = asks[h : h + heads, i * groups : (i + most) * groups]
        mine = mine.unflatten(1, (-1, groups))  # (heads, R, groups, D)
        begin = first // block_k + i * per  # of the first row's own blocks
        end = min(columns, begin + most * per) if causal else columns
        theirs, at = answers[h : h + heads, :end], own[i : i + most]
        worth = _worth(mine, theirs, at, begin, causal)
        forced = sinks, local, per
        ids = _best(worth, blocks.shape[-1], at[:, None], begin, causal, *forced)
        blocks[h : h + heads, i : i + most, : ids.shape[-1]] = ids
    return blocks.unflatten(0, (B, H))


def _worth(asks, answers, own, begin: int, causal: bool) -> Tensor:
    """(heads, R, n_k): weights added up over the groups of each row of queries.

    asks (heads, R, groups, D). own (R,): the first of each row's own blocks; what is
    not before it is in anyway or hidden, and does not compete.
    """
    scores = (asks.flatten(1, 2) @ answers.mT).unflatten(1, asks.shape[1:3])
    if causal:
        column = torch.arange(begin, answers.shape[1], device=answers.device)
        scores[..., begin:].masked_fill_(column >= own[:, None, None], HIDDEN)
    return scores.softmax(dim=-1).sum(dim=2)


HIDDEN = -1e30  # not -inf: where all is hidden, the weights must still be numbers


def _best(worth, n, own, begin: int, causal: bool, sinks, local, per) -> Tensor:
    """(heads, R, n) ids in ascending order, -1 at the end. own: (R, 1), of which the
    first is `begin`."""
    last = worth.shape[-1]
    worth[..., :sinks] = SURE - torch.arange(min(sinks, last), device=worth.device)
    start = max(0, begin - local)  # what comes before is in for no place of its own
    column, ends = torch.arange(start, last, device=worth.device), worth[..., start:]
    near = (column < own) & (column >= own - local)
    ends.copy_(torch.where(near, 2 * SURE + (column - own), ends))  # the nearest first
    ends.masked_fill_((column >= own) & (column < own + per), 3 * SURE)
    if causal:
        ends.masked_fill_(column >= own + per, -1.0)
    best = worth.topk(min(n, last), dim=-1, sorted=False)
    ids = best.indices.masked_fill(best.values < 0, last).sort(dim=-1).values
    return ids.masked_fill(ids == last, EMPTY)


SURE = 1e6  # more than any sum of weights


def block_means(x: Tensor, size: int) -> Tensor:
    """(B, H, T, D) -> (B, H, ⌈T/size⌉, D): the mean of every `size` tokens, the last
    of those that there are."""
    T = x.shape[2]
    whole = T // size * size
    parts = [x[:, :, :whole].unflatten(2, (-1, size)).mean(dim=3)] if whole else []
    if whole < T:
        parts.append(x[:, :, whole:].mean(dim=2, keepdim=True))
    return torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]


def listed_pairs(
    blocks: Tensor, T: int, *, block_q: int = BLOCK_Q, block_k: int = BLOCK_K
) -> int:
    """Causal query-key pairs in the blocks (B, H, n_q, n) that T queries list."""
    at = torch.arange(blocks.shape[2] * block_q, device=blocks.device)
    at = at.where(at < T, -1).view(-1, 1, block_q)  # (n_q, 1, block_q), -1 sees nothing
    seen = (at + 1 - blocks[..., None] * block_k).clamp(0, block_k)
    return int((seen * (blocks >= 0)[..., None]).sum())


def check_blocks(q: Tensor, k: Tensor, causal: bool, block_q: int, block_k: int):
    """Sizes of blocks that fit each other, and as many keys as queries if causal."""
    check_sizes(block_q, block_k)
    if causal and q.shape[2] != k.shape[2]:
        raise ValueError(
            f"k has {k.shape[2]} keys: as many as the {q.shape[2]} queries are needed"
        )


def check_sizes(block_q: int, block_k: int):
    """Whole numbers, the first of them a multiple of the second."""
    check_counts(block_q=block_q, block_k=block_k)
    if block_q % block_k:
        raise ValueError(f"block_q={block_q} is not a multiple of block_k={block_k}")


def check_pool(pool: int, block_k: int):
    """Pooled entries of whole blocks of keys; or raises ValueError."""
    check_counts(pool=pool)
    if pool % block_k:
        raise ValueError(f"pool={pool} is not a multiple of block_k={block_k}")


def _shared(x: Tensor, heads: int) -> Tensor:
    """(B, Hkv, n, D) -> (B, H, n, D)."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)
