"""Random patterns: keys drawn once for each query, the same on every machine."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_attn.checks import check_count, check_counts
from sparse_attn.patterns.catalog import Full
from sparse_attn.patterns.pattern import Pattern, check_pattern

_ANY = Full()


@dataclass(frozen=True)
class Random(Pattern):
    """Each query sees `degree` keys, drawn evenly and without repetition.

    among: draw only pairs that this pattern allows, and all of them where they are
    fewer. seed: the draw, the same on every machine. It looks at T² random numbers
    once for each T: at great lengths, draw blocks, `Random(3).of_blocks(64)`.
    Source: Zaheer et al. 2020.
    """

    degree: int
    seed: int = 0
    among: Pattern = _ANY

    def __post_init__(self):
        check_counts(degree=self.degree)
        check_count("seed", self.seed, least=0)
        check_pattern("among", self.among)

    def rule(self, T):
        keys = self.drawn(T)

        def allows(q: Tensor, k: Tensor) -> Tensor:  # pointwise, as kernels need it
            drawn, columns = keys.to(q.device), range(keys.shape[1])
            return functools.reduce(operator.or_, (drawn[q, j] == k for j in columns))

        return allows

    def near(self, T, block_q, block_k):
        keys = self.drawn(T)
        found = torch.zeros(-(-T // block_q), -(-T // block_k), dtype=torch.bool)
        row = (torch.arange(T) // block_q)[:, None].expand_as(keys)
        real = keys >= 0
        found[row[real], keys[real] // block_k] = True
        return found

    def _pairs(self, T):
        return int((self.drawn(T) >= 0).sum())

    def drawn(self, T: int) -> Tensor:
        """(T, degree) int64: each query's keys, -1 where there are no more."""
        return _drawn(self, T)

    def __str__(self):
        return f"random {self.degree}"


@functools.lru_cache(maxsize=64)
def _drawn(pattern: Random, T: int) -> Tensor:
    generator = torch.Generator().manual_seed(pattern.seed)
    allowed, rows = pattern.among.rule(T), max(1, 2**22 // T)
    keys = torch.arange(T)
    found = []
    for q in torch.arange(T)[:, None].split(rows):
        lots = torch.rand(len(q), T, generator=generator)
        lots = lots.masked_fill(~allowed(q, keys), -1.0)
        best, at = lots.topk(min(pattern.degree, T), dim=1)
        found.append(at.masked_fill(best < 0, -1))
    return torch.cat(found)
