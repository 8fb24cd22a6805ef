"""The patterns of the literature, from single rules to published combinations.

Classes are single rules; functions build what a paper proposed out of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral

import torch

from sparse_attn.checks import check_count, check_counts
from sparse_attn.patterns.spans import Span, Spans


@dataclass(frozen=True)
class Full(Spans):
    """Every query sees every key."""

    def spans(self, q, T):
        return [Span(torch.zeros_like(q), torch.full_like(q, T))]

    def _pairs(self, T):
        return T * T

    def __str__(self):
        return "full"


@dataclass(frozen=True)
class Causal(Spans):
    """Every query sees itself and what came before."""

    def spans(self, q, T):
        return [Span(torch.zeros_like(q), q + 1)]

    def _pairs(self, T):
        return triangle(T)

    def __str__(self):
        return "causal"


def triangle(n: int) -> int:
    """1 + 2 + ... + n, and 0 for a negative n."""
    return n * (n + 1) // 2 if n > 0 else 0


@dataclass(frozen=True)
class Window(Spans):
    """`left` keys before the query, itself, and `right` keys after it.

    gap: look at every gap-th key only, the dilated window. Source: Beltagy et al. 2020.
    """

    left: int
    right: int = 0
    gap: int = 1

    def __post_init__(self):
        check_count("left", self.left, least=0)
        check_count("right", self.right, least=0)
        check_counts(gap=self.gap)

    def spans(self, q, T):
        left, right = self.gap * self.left, self.gap * self.right
        return [Span(q - left, q + right + 1, self.gap)]

    def _pairs(self, T):
        # A shift by n tokens loses n pairs, as long as any are left.
        return T + sum(self._shifts(self.left, T)) + sum(self._shifts(self.right, T))

    def _shifts(self, count: int, T: int) -> range:
        """Pairs on the diagonals of one side: T - gap, T - 2 gap, ..."""
        count = min(count, (T - 1) // self.gap)
        return range(T - self.gap, T - self.gap * count - 1, -self.gap)

    def __str__(self):
        dilated = f", every {self.gap}th" if self.gap > 1 else ""
        return f"window {self.left}+1+{self.right}{dilated}"


def sliding_window(keys: int) -> Window:
    """The causal window: the last `keys` keys, the query's own included.

    Source: Beltagy et al. 2020; as in Mistral 7B, Jiang et al. 2023.
    """
    check_counts(keys=keys)
    return Window(keys - 1)


@dataclass(frozen=True)
class Every(Spans):
    """Causal: the query's own key and every `stride`-th before it."""

    stride: int

    def __post_init__(self):
        check_counts(stride=self.stride)

    def spans(self, q, T):
        return [Span(q % self.stride, q + 1, self.stride)]

    def _pairs(self, T):
        return sum(range(T, 0, -self.stride))

    def __str__(self):
        return f"every {self.stride}th"


@dataclass(frozen=True)
class Columns(Spans):
    """Causal: the last `count` keys of each block of `size`, for all who follow."""

    size: int
    count: int = 1

    def __post_init__(self):
        check_counts(size=self.size)
        check_count("count", self.count, most=self.size)

    def spans(self, q, T):
        starts = range(self.size - self.count, self.size)
        return [Span(torch.full_like(q, at), q + 1, self.size) for at in starts]

    def _pairs(self, T):
        starts = range(self.size - self.count, self.size)
        return sum(sum(range(T - at, 0, -self.size)) for at in starts)

    def __str__(self):
        return f"last {self.count} of each {self.size}"


@dataclass(frozen=True)
class Blockwise(Spans):
    """The text in `n` equal blocks; block i sees block i + shift, and that one only.

    A head per shift, and together they see everything. n blocks of ⌈T/n⌉ tokens, so
    a ragged last one is shorter. Source: Qiu et al. 2020.
    """

    n: int
    shift: int = 0

    def __post_init__(self):
        check_counts(n=self.n)
        check_count("shift", self.shift, least=0, most=self.n - 1)

    def spans(self, q, T):
        size = -(-T // self.n)
        start = (q // size + self.shift) % self.n * size
        return [Span(start, start + size)]

    def _pairs(self, T):
        size = -(-T // self.n)
        sizes = [min(size, max(0, T - i * size)) for i in range(self.n)]
        seen = sizes[self.shift :] + sizes[: self.shift]
        return sum(a * b for a, b in zip(sizes, seen, strict=True))

    def __str__(self):
        return f"block i sees i+{self.shift} of {self.n}"


@dataclass(frozen=True)
class SameBlock(Spans):
    """Blocks of `size` tokens; a query sees its own block, what follows it included."""

    size: int

    def __post_init__(self):
        check_counts(size=self.size)

    def spans(self, q, T):
        start = q // self.size * self.size
        return [Span(start, start + self.size)]

    def _pairs(self, T):
        whole, rest = divmod(T, self.size)
        return whole * self.size**2 + rest**2

    def __str__(self):
        return f"own block of {self.size}"


@dataclass(frozen=True)
class First(Spans):
    """The first `count` tokens are seen by every query."""

    count: int

    def __post_init__(self):
        check_counts(count=self.count)

    def spans(self, q, T):
        return [Span(torch.zeros_like(q), torch.full_like(q, self.count))]

    def _pairs(self, T):
        return T * min(self.count, T)

    def __str__(self):
        return f"first {self.count}"


@dataclass(frozen=True)
class Globals(Spans):
    """The tokens at `positions` see everything and are seen by everything.

    Negative positions count from the end; those past the text are ignored.
    ITC, the internal construction: positions among the text's own tokens. ETC, the
    extended one: tokens added in front, range(g), and T counts them.
    Source: Ainslie et al. 2020 (ETC); Zaheer et al. 2020.
    """

    positions: tuple[int, ...]

    def __init__(self, positions: Sequence[int]):
        at = tuple(positions) if isinstance(positions, Iterable) else ()
        if not at or not all(isinstance(p, Integral) for p in at):
            raise ValueError(f"positions={positions!r}: a list of whole numbers needed")
        object.__setattr__(self, "positions", tuple(int(p) for p in at))

    def _at(self, T: int) -> list[int]:
        at = {p + T if p < 0 else p for p in self.positions}
        return sorted(p for p in at if 0 <= p < T)

    def spans(self, q, T):
        at, zero = self._at(T), torch.zeros_like(q)
        seen = [Span(zero + p, zero + p + 1) for p in at]
        own = sum((q == p for p in at), start=zero.bool())
        return [*seen, Span(zero, T * own)]

    def _pairs(self, T):
        return T * T - (T - len(self._at(T))) ** 2

    def __str__(self):
        return f"globals {', '.join(map(str, self.positions))}"
