"""Patterns made of spans: each query sees a few runs of evenly spaced keys.

One definition, `spans`, gives the predicate and the blocks.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from sparse_attn.patterns.pattern import Pattern


class Span(NamedTuple):
    """Keys start, start + step, ... below stop: a tensor each, one entry per query.

    Keys below 0 or past the text do not exist and need not be cut off here.
    """

    start: Tensor
    stop: Tensor
    step: int = 1


class Spans(Pattern):
    """A pattern that says which spans of keys the queries at indices q see."""

    @abstractmethod
    def spans(self, q: Tensor, T: int) -> list[Span]:
        """q: int64 indices of any shape, below T; the spans have the shape of q."""

    def rule(self, T: int):
        def allows(q: Tensor, k: Tensor) -> Tensor:
            seen = torch.zeros((), dtype=torch.bool, device=q.device)
            for start, stop, step in self.spans(q, T):
                inside = (k >= start) & (k < stop)
                if step > 1:
                    inside = inside & ((k - start) % step == 0)
                seen = seen | inside
            return seen

        return allows

    def near(self, T: int, block_q: int, block_k: int) -> Tensor:
        q = torch.arange(T)
        row, columns = q // block_q, -(-T // block_k)
        found = torch.zeros(-(-T // block_q), columns + 1, dtype=torch.int32)
        for start, stop, step in self.spans(q, T):
            start = torch.where(start < 0, start % step, start)  # the first from 0 on
            stop = stop.clamp(max=T)
            if step <= block_k:  # from its first block to its last
                first, end = start // block_k, (stop - 1) // block_k + 1
                one = (start < stop).to(torch.int32)
                found.index_put_((row, first.clamp(max=columns)), one, accumulate=True)
                found.index_put_((row, end.clamp(0, columns)), -one, accumulate=True)
            else:  # key by key, each as a run of one block
                for ahead in range(0, T, step):
                    key = start + ahead
                    one = (key < stop).to(torch.int32)
                    at = (key // block_k).clamp(max=columns)
                    found.index_put_((row, at), one, accumulate=True)
                    after = (at + 1).clamp(max=columns)
                    found.index_put_((row, after), -one, accumulate=True)
        return found.cumsum(dim=1)[:, :-1] > 0
