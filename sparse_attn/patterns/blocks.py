"""The blocks of a pattern: which tiles of queries and keys hold an allowed pair.

Built from the rule, by looking only at blocks that may hold one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from sparse_attn.checks import check_counts
from sparse_attn.patterns.pattern import Pattern, check_pattern

BLOCK_Q, BLOCK_K = 128, 64  # queries and keys of a block; chapter 7 measures others
_AT_ONCE = 2**22  # pairs that are looked at together


@dataclass(frozen=True, eq=False)
class Blocks:
    """Blocks with at least one allowed pair, by row and then by column.

    row, column: (n,) int64. full: (n,) bool, every pair of the block is allowed.
    inside: (p, block_q, block_k) bool, the allowed pairs of the p blocks not full.
    pairs: allowed pairs altogether. Keys past the text are never allowed; queries
    past it, in the last row, count as the last query so that a block can be full.
    """

    T: int
    block_q: int
    block_k: int
    row: Tensor
    column: Tensor
    full: Tensor
    inside: Tensor
    pairs: int

    @property
    def listed(self) -> int:
        return len(self.row)

    @cached_property
    def counts(self) -> Tensor:
        """(rows,) int64: listed blocks of each row."""
        return torch.bincount(self.row, minlength=-(-self.T // self.block_q))

    @cached_property
    def first(self) -> Tensor:
        """(rows,) int64: where the blocks of each row begin in the list."""
        return self.counts.cumsum(0) - self.counts

    @cached_property
    def partial(self) -> Tensor:
        """(n,) int64: where a block that is not full lies in `inside`."""
        return self.full.logical_not().cumsum(0) - 1

    @cached_property
    def blind(self) -> Tensor:
        """(T,) bool: queries that see no key."""
        sees = torch.zeros(len(self.counts), self.block_q, dtype=torch.int32)
        sees[self.row[self.full]] = 1
        sees.index_add_(0, self.row[~self.full], self.inside.any(2).to(sees.dtype))
        return (sees == 0).flatten()[: self.T]

    @cached_property
    def is_full(self) -> bool:
        return self.pairs == self.T**2

    @cached_property
    def is_causal(self) -> bool:
        """Exactly the keys up to each query: what fused kernels know by name."""
        if self.pairs != self.T * (self.T + 1) // 2:
            return False
        q, k = self.row * self.block_q, self.column * self.block_k
        if (self.full & ((k + self.block_k).clamp(max=self.T) - 1 > q)).any():
            return False
        ahead = (k - q)[~self.full, None, None] + torch.arange(self.block_k)
        return not (self.inside & (ahead > torch.arange(self.block_q)[:, None])).any()

    @property
    def share(self) -> float:
        """Listed blocks over all blocks of the square."""
        return self.listed / (-(-self.T // self.block_q) * -(-self.T // self.block_k))

    @property
    def waste(self) -> float:
        """Share of the pairs in listed blocks that are computed and thrown away."""
        if not self.listed:
            return 0.0
        q = (self.T - self.row * self.block_q).clamp(max=self.block_q)
        k = (self.T - self.column * self.block_k).clamp(max=self.block_k)
        return 1 - self.pairs / int((q * k).sum())

    def edges(self) -> tuple[Tensor, Tensor]:
        """Every allowed pair as two lists of indices: queries and keys, (pairs,)."""
        seen = torch.ones(self.listed, self.block_q, self.block_k, dtype=torch.bool)
        seen[~self.full] = self.inside
        block, q, k = seen.nonzero().unbind(1)
        q, k = q + self.row[block] * self.block_q, k + self.column[block] * self.block_k
        real = (q < self.T) & (k < self.T)
        return q[real], k[real]


@lru_cache(maxsize=64)
def blocks(
    pattern: Pattern, T: int, block_q: int = BLOCK_Q, block_k: int = BLOCK_K
) -> Blocks:
    """The blocks of `pattern` for T tokens, kept for the next call.

    Time and memory grow with the blocks that may hold a pair, not with T x T.
    """
    check_pattern("pattern", pattern)
    check_counts(T=T, block_q=block_q, block_k=block_k)
    rule = pattern.rule(T)
    row, column = pattern.near(T, block_q, block_k).nonzero().unbind(1)
    full, some, inside, pairs = [], [], [], 0
    chunk = max(1, _AT_ONCE // (block_q * block_k))
    for r, c in zip(row.split(chunk), column.split(chunk), strict=True):
        q = (r[:, None] * block_q + torch.arange(block_q))[:, :, None]
        k = (c[:, None] * block_k + torch.arange(block_k))[:, None, :]
        seen = rule(q.clamp(max=T - 1), k.clamp(max=T - 1)) & (k < T)
        seen = seen.broadcast_to(len(r), block_q, block_k)
        pairs += int((seen & (q < T)).sum())
        whole = seen.flatten(1).all(1)
        some.append(seen.flatten(1).any(1))
        full.append(whole)
        inside.append(seen[~whole & some[-1]])
    if not full:
        nothing = torch.zeros(0, dtype=torch.bool)
        full, some = [nothing], [nothing]
        inside = [nothing.view(0, 1, 1).expand(0, block_q, block_k)]
    some, full = torch.cat(some), torch.cat(full)
    return Blocks(
        T,
        block_q,
        block_k,
        row[some],
        column[some],
        full[some],
        torch.cat(inside),
        pairs,
    )
