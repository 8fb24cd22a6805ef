"""The published method: its tables, its memory, its claims about scale.

Knows how the documents counted; leaves what is right to `cost` and `topk`.
Source: github.com/MikeyBeez/sparse-attention-mlp, its README and its scripts.
"""

from __future__ import annotations

from collections.abc import Callable

from sparse_attn import cost
from sparse_attn.claims.entry import agrees

# Widths and tokens of the rows, heads 64 wide. The last is printed as width 2,048.
ROWS = ((128, 64), (256, 128), (512, 256), (768, 512), (1024, 1024), (1280, 2048))
SPARSE = ("5.8e6", "12.6e6", "29.4e6", "75.5e6", "218.1e6", "704.6e6")  # as printed
EFFICIENT = ROWS[2:]  # those that are marked so
HEAD = 64
MOST = 512  # the largest width and number of keys that are tried


def ratios(hidden: int = 128, K: int = 8) -> tuple[float, ...]:
    """The column of speedups: the scores of all heads over the networks of one."""
    return tuple(
        cost.scores(T, C, C // HEAD).flops / cost.topk_mlp_flops(T, HEAD, hidden, K)
        for C, T in ROWS
    )


def first_row_above_one() -> int:
    """Tokens of the first row that the table calls efficient: its crossover."""
    return next(T for (_, T), ratio in zip(ROWS, ratios(), strict=True) if ratio > 1)


def hidden_of_table(K: int = 8) -> int:
    """The hidden width that gives the sparse column, one operation a multiply-add.

    Raises ValueError unless there is just one.
    """
    return _only(lambda hidden: _gives_column(hidden, K))


def keys_of_each() -> tuple[int, ...]:
    """K in the table of FLOPs, in the text, in the table of memory, in the demo.

    Each is the only number that gives what is printed there: the sparse column, 16K
    pairs at 1,000 tokens, 4.2 MB at 512, and "~95%" as the share of pairs left out.
    """
    return (
        _only(lambda K: ROWS[0][1] >= K and _gives_column(128, K)),
        _only(lambda K: cost.topk_pairs(1000, K) == 16_000),
        _only(lambda K: agrees("4.2e6", cost.kept_bytes(512, K, H=8, B=8))),
        _only(lambda K: agrees("95", 100 * (1 - K / 64))),
    )


def layer_gain(
    T: int, C: int, *, replaced: int = 1, hidden: int = 128, K: int = 8
) -> float:
    """FLOPs of a layer's attention, projections included, over those with the method.

    `replaced` of its C/64 heads have both networks, the others attend to all pairs.
    """
    heads, linear = C // HEAD, cost.projections(T, C).flops
    exact = cost.scores(T, HEAD, 1).flops
    method = cost.topk_mlp_flops(T, HEAD, hidden, K)
    left = (heads - replaced) * exact + replaced * method
    return (heads * exact + linear) / (left + linear)


def _gives_column(hidden: int, K: int) -> bool:
    return all(
        agrees(printed, cost.topk_mlp_flops(T, HEAD, hidden, K) / 2)
        for printed, (_, T) in zip(SPARSE, ROWS, strict=True)
    )


def _only(fits: Callable[[int], bool]) -> int:
    found = [n for n in range(1, MOST + 1) if fits(n)]
    if len(found) != 1:
        raise ValueError(f"{len(found)} numbers fit: {found}")
    return found[0]
