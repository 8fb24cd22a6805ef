"""Patterns as papers combined them, each with its number of pairs in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

from sparse_attn.checks import check_count, check_counts
from sparse_attn.patterns.catalog import (
    Causal,
    Columns,
    Every,
    First,
    Globals,
    SameBlock,
    Window,
    sliding_window,
    triangle,
)
from sparse_attn.patterns.drawn import Random
from sparse_attn.patterns.pattern import Named, Pattern


def strided(stride: int) -> Pattern:
    """The last `stride` keys before the query, itself, and every stride-th before.

    Two hops reach everything. Source: Child et al. 2019, section 4.3, with the two
    heads merged into one.
    """
    check_counts(stride=stride)
    local, far = Window(stride), Every(stride)

    def pairs(T: int) -> int:  # both see the query itself and the key one stride back
        return local.pairs(T) + far.pairs(T) - T - max(0, T - stride)

    return Named(f"strided {stride}", local | far, pairs)


def fixed(size: int, count: int = 1) -> Pattern:
    """Its own block up to the query, and the last `count` keys of all blocks before.

    Source: Child et al. 2019, section 4.3, with the two heads merged into one.
    """
    own, columns = SameBlock(size) & Causal(), Columns(size, count)

    def pairs(T: int) -> int:
        whole, rest = divmod(T, size)
        mine = whole * triangle(size) + triangle(rest)
        both = whole * triangle(count) + triangle(rest - (size - count))
        return mine + columns.pairs(T) - both

    return Named(f"fixed {size}, {count}", own | columns, pairs)


def lambda_shaped(window: int, sinks: int) -> Pattern:
    """The last `window` keys and the first `sinks`: the Λ of StreamingLLM.

    Source: Han et al. 2023; Xiao et al. 2023.
    """
    check_counts(window=window, sinks=sinks)
    pattern = sliding_window(window) | (First(sinks) & Causal())
    return Named(
        f"last {window}, first {sinks}",
        pattern,
        lambda T: triangle(T) - triangle(T - window - sinks),  # hidden: a triangle
    )


def global_local(positions: Sequence[int] | int, radius: int) -> Pattern:
    """A window of `radius` keys on both sides, and global tokens.

    positions: a number g stands for the first g tokens (closed form; the extended
    construction, ETC, if they were added), a list for those places (ITC).
    Source: Beltagy et al. 2020; Ainslie et al. 2020; Zaheer et al. 2020.
    """
    check_count("radius", radius, least=0)
    local = Window(radius, radius)
    if not isinstance(positions, Integral):
        return local | Globals(positions)
    check_counts(positions=positions)

    def pairs(T: int) -> int:  # all but a square, and in that the window
        rest = max(0, T - positions)
        return T * T - rest * rest + (local.pairs(rest) if rest else 0)

    name = f"window {2 * radius + 1}, first {positions} global"
    return Named(name, local | Globals(range(positions)), pairs)


def bigbird(block: int, random: int, *, seed: int = 0) -> Pattern:
    """Blocks of tokens: neighbors, first and last global, `random` drawn from the rest.

    Source: Zaheer et al. 2020, section 2 and appendix D; internal construction.
    """
    check_counts(block=block, random=random)
    core = Window(1, 1) | Globals((0, -1))
    drawn = Random(random, seed, among=~core)
    return (core | drawn).of_blocks(block)


def longformer_heads(
    heads: int, radius: int, *, dilated: int, gap: int
) -> tuple[Pattern, ...]:
    """A pattern per head: the last `dilated` heads look at every gap-th key.

    Source: Beltagy et al. 2020, section 4.1: two heads of the higher layers.
    """
    check_counts(heads=heads, gap=gap)
    check_count("radius", radius, least=0)
    check_count("dilated", dilated, least=0, most=heads)
    near, far = Window(radius, radius), Window(radius, radius, gap)
    return (near,) * (heads - dilated) + (far,) * dilated
