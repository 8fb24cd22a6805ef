"""What a pattern is: one rule of who sees whom, read as a mask, as blocks, as a number.

The patterns themselves are in `catalog`; blocks are listed in `blocks`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparse_attn.checks import check_counts

# (q, k) -> bool, for index tensors that broadcast. As FlexAttention's mask_mod.
Rule = Callable[[Tensor, Tensor], Tensor]


class Pattern(ABC):
    """Which keys each query may see, for a text of any length T.

    a & b: what both allow. a | b: what either allows. ~a: what a forbids.
    """

    @abstractmethod
    def rule(self, T: int) -> Rule:
        """The predicate for a text of T tokens: rule(T)(q, k) with indices below T."""

    @abstractmethod
    def near(self, T: int, block_q: int, block_k: int) -> Tensor:
        """(⌈T/block_q⌉, ⌈T/block_k⌉) bool: no allowed pair lies in any other block.

        Cheap, never T x T, and sometimes too generous: `blocks` looks closely.
        """

    def mask(self, T: int, device: torch.device | str = "cpu") -> Tensor:
        """(T, T) bool: True where query (row) may see key (column)."""
        check_counts(T=T)
        at = torch.arange(T, device=device)
        return self.rule(T)(at[:, None], at).broadcast_to(T, T)

    def pairs(self, T: int) -> int:
        """Allowed pairs of a text of T tokens, exact.

        A closed form where the pattern has one; counted block by block where not.
        """
        check_counts(T=T)
        return self._pairs(T)

    def _pairs(self, T: int) -> int:
        from sparse_attn.patterns.blocks import blocks

        return blocks(self, T).pairs

    def of_blocks(self, size: int) -> Pattern:
        """The same pattern between blocks of `size` tokens instead of tokens."""
        return _OfBlocks(self, size)

    def __and__(self, other: Pattern) -> Pattern:
        return _Both(self, check_pattern("other", other))

    def __or__(self, other: Pattern) -> Pattern:
        return _Either(self, check_pattern("other", other))

    def __invert__(self) -> Pattern:
        return _Not(self)


def check_pattern(name: str, value) -> Pattern:
    """`value` itself, if it is a pattern; anything else raises."""
    if not isinstance(value, Pattern):
        raise ValueError(f"{name}={value!r} is no pattern, and one is needed")
    return value


@dataclass(frozen=True)
class _Both(Pattern):
    a: Pattern
    b: Pattern

    def rule(self, T):
        a, b = self.a.rule(T), self.b.rule(T)
        return lambda q, k: a(q, k) & b(q, k)

    def near(self, T, block_q, block_k):
        return self.a.near(T, block_q, block_k) & self.b.near(T, block_q, block_k)

    def __str__(self):
        return f"({self.a} & {self.b})"


@dataclass(frozen=True)
class _Either(Pattern):
    a: Pattern
    b: Pattern

    def rule(self, T):
        a, b = self.a.rule(T), self.b.rule(T)
        return lambda q, k: a(q, k) | b(q, k)

    def near(self, T, block_q, block_k):
        return self.a.near(T, block_q, block_k) | self.b.near(T, block_q, block_k)

    def __str__(self):
        return f"({self.a} | {self.b})"


@dataclass(frozen=True)
class _Not(Pattern):
    a: Pattern

    def rule(self, T):
        a = self.a.rule(T)
        return lambda q, k: ~a(q, k)

    def near(self, T, block_q, block_k):
        return torch.ones(-(-T // block_q), -(-T // block_k), dtype=torch.bool)

    def _pairs(self, T):
        return T * T - self.a.pairs(T)

    def __str__(self):
        return f"~{self.a}"


@dataclass(frozen=True)
class _OfBlocks(Pattern):
    a: Pattern
    size: int

    def __post_init__(self):
        check_counts(size=self.size)

    def rule(self, T):
        a = self.a.rule(-(-T // self.size))
        return lambda q, k: a(q // self.size, k // self.size)

    def near(self, T, block_q, block_k):
        # A block of tokens touches a rectangle of the coarse square: count what is
        # allowed inside by differences of sums from the corner.
        n = -(-T // self.size)
        sums = torch.zeros(n + 1, n + 1, dtype=torch.int64)
        sums[1:, 1:] = self.a.near(n, 1, 1).cumsum(0).cumsum(1)
        q0, q1 = _touched(T, block_q, self.size)
        k0, k1 = _touched(T, block_k, self.size)
        q0, q1 = q0[:, None], q1[:, None]
        return sums[q1, k1] - sums[q0, k1] - sums[q1, k0] + sums[q0, k0] > 0

    def _pairs(self, T):
        if T % self.size:
            return super()._pairs(T)
        return self.size**2 * self.a.pairs(T // self.size)

    def __str__(self):
        return f"{self.a} of blocks of {self.size}"


def _touched(T: int, block: int, size: int) -> tuple[Tensor, Tensor]:
    """First coarse index that each block of tokens touches, and one past the last."""
    start = torch.arange(0, T, block)
    return start // size, (torch.clamp(start + block, max=T) - 1) // size + 1


@dataclass(frozen=True)
class Named(Pattern):
    """A pattern under its own name, with a closed form for its number of pairs."""

    name: str
    a: Pattern
    formula: Callable[[int], int] = field(compare=False, repr=False)

    def rule(self, T):
        return self.a.rule(T)

    def near(self, T, block_q, block_k):
        return self.a.near(T, block_q, block_k)

    def _pairs(self, T):
        return self.formula(T)

    def __str__(self):
        return self.name
