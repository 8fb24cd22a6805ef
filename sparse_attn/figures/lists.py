"""Figures of listed blocks: which keys a block of queries meets, and how soon it has.

Knows maps of blocks and a model of time, so many seconds a query-key pair; leaves
measured ratios to `speed`.
"""

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch
from torch import Tensor

from sparse_attn import cost
from sparse_attn.checks import check_counts
from sparse_attn.figures.speed import NARROW, SIZE, few_ticks, write_title
from sparse_attn.figures.style import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PALE,
    PINK,
    SKY,
    Plot,
    power_of_two_axis,
    styled,
)
from sparse_attn.units import plain, seconds, three

_DOTS = 130  # pixels per inch of an explorer's frames: whole ones for every block
_SIDE = 512  # of the map, in such pixels
KINDS = ("selected", "first", "local", "own")  # 1, 2, 3 and 4 in a map
_COLORS = (BLUE, PINK, SKY, ORANGE)


def kinds_of(
    ids: Tensor, T: int, block_q: int, block_k: int, *, sinks: int = 1, local: int = 4
) -> np.ndarray:
    """The map for `block_lists` from one head's lists, as `select_blocks` gives them.

    ids (n_q, n), -1 for none. Returns (n_q, n_k) int: 0 where a block is not listed,
    else 1 + its place in KINDS; a block that is several things is the last of them.
    """
    rows, columns = -(-T // block_q), -(-T // block_k)
    if ids.ndim != 2 or len(ids) != rows:
        raise ValueError(f"ids has shape {tuple(ids.shape)}: ({rows}, n) is needed")
    listed = np.zeros((rows, columns + 1), dtype=int)  # the last column: none
    np.put_along_axis(listed, ids.cpu().numpy() % (columns + 1), 1, axis=1)
    listed = listed[:, :columns]
    per, column = block_q // block_k, np.arange(columns)
    own = np.arange(rows)[:, None] * per
    kinds = np.ones_like(listed)
    kinds[:, :sinks] = 2
    kinds[(column < own) & (column >= own - local)] = 3
    kinds[(column >= own) & (column < own + per)] = 4
    return listed * kinds


@styled
def block_lists(
    lists: np.ndarray | Tensor,
    T: int,
    block_q: int,
    block_k: int,
    mass: float,
    intensity: float,
) -> Plot:
    """Which blocks of keys each block of queries lists: a map, a row for each block.

    lists (⌈T/block_q⌉, ⌈T/block_k⌉): bool, or numbers as `kinds_of` gives them. mass:
    the share of the weights that is listed; intensity: FLOPs per byte of keys and
    values read. Raises ValueError for another shape.
    """
    check_counts(T=T, block_q=block_q, block_k=block_k)
    lists = np.asarray(lists.cpu() if isinstance(lists, Tensor) else lists).astype(int)
    fits = -(-T // block_q), -(-T // block_k)
    if lists.shape != fits:
        raise ValueError(f"lists has shape {lists.shape}: {fits} is needed")
    who = "Each query has a list" if block_q == 1 else f"{block_q} queries share a list"
    finding = f"{who}: {mass:.0%} of the mass, {three(intensity)} FLOPs per byte"
    plot = Plot(height=4.75, width=NARROW)
    plot.set_layout_engine("none")
    write_title(plot, finding)
    cells = fits[1]
    side = (_SIDE // cells * cells if cells <= _SIDE else _SIDE) / _DOTS
    ax = plot.add_axes((0.08, 0.1, side / NARROW, side / 4.75))
    ax.imshow(_painted(lists, T, block_q, block_k), interpolation="nearest",
              extent=(0, fits[1] * block_k, fits[0] * block_q, 0),
              aspect="auto")  # fmt: skip
    ax.set_xticks([0, T], ["0", plain(T)])
    ax.set_yticks([T], [plain(T)], rotation=90, va="bottom")
    ax.set_xlabel("key", fontsize=SIZE, labelpad=-8)
    ax.set_ylabel("query", fontsize=SIZE, labelpad=-8)
    ax.grid(visible=False)
    counts = {name: int((lists == i).sum()) for i, name in enumerate(KINDS, 1)}
    seen = _past(T, block_q, block_k)
    share = (lists > 0).sum() / seen.sum()
    one = sum(n > 0 for n in counts.values()) == 1  # a bool map
    handles = [
        Patch(color=color, label="listed" if one else name)
        for (name, n), color in zip(counts.items(), _COLORS, strict=True)
        if n
    ]
    handles.append(Patch(color=PALE, label="not listed"))
    plot.legend(handles=handles, loc="upper left", fontsize=SIZE, handlelength=1.2,
                bbox_to_anchor=(0.08 + side / NARROW, 0.1 + side / 4.75))  # fmt: skip
    said = f"{share:.1%} of the blocks of the past are listed"
    kinds = "" if one else ": " + ", ".join(f"{k} {n:,}" for k, n in counts.items())
    return plot.describe(
        caption=f"{finding}. Blocks of {block_k} keys, {plain(T)} tokens: {said}.",
        alt=f"Square of {fits[0]} blocks of queries, down, by {fits[1]} of keys, the "
        f"past shaded and listed blocks filled. {said}{kinds}.",
    )


def _past(T: int, block_q: int, block_k: int) -> np.ndarray:
    """(n_q, n_k) bool: blocks with a key that some query of the row may see."""
    last = np.minimum(np.arange(1, -(-T // block_q) + 1) * block_q, T)
    return np.arange(-(-T // block_k)) * block_k < last[:, None]


def _painted(lists: np.ndarray, T: int, block_q: int, block_k: int) -> np.ndarray:
    """(n_q, n_k, 3) colors: white for the future, a shade for the past, kinds."""
    colors = np.array([to_rgb(c) for c in ("white", *_COLORS, PALE)])
    shade = len(colors) - 1
    return colors[np.where((lists == 0) & _past(T, block_q, block_k), shade, lists)]


_LENGTHS = [2**n for n in range(10, 17)]
_GRID = [round(2 ** (n / 4)) for n in range(40, 65)]


@styled
def time_explorer(
    T: int,
    K: int,
    *,
    dense: Mapping[int, float],
    rate: Mapping[str, float],
    overhead: float | Callable[[int], float],
    measured: Mapping[tuple[int, int], float],
    device: str,
) -> Plot:
    """Seconds of causal attention, all pairs or K keys per query: predicted, measured.

    rate: seconds per query-key pair, of all heads together, under "dense" and "sparse".
    overhead: seconds of choosing blocks for T tokens, a number or a function of T.
    dense: T -> seconds measured; measured: (T, K) -> seconds of the sparse one. What
    lies at other K is not drawn. Raises ValueError for sizes that are none.
    """
    check_counts(T=T, K=K)
    choosing = overhead if callable(overhead) else lambda n: overhead

    def whole(n: int) -> float:
        return rate["dense"] * cost.pairs(n, causal=True)

    def sparse(n: int) -> float:
        pairs = cost.topk_pairs(n, min(K, n), causal=True)
        return rate["sparse"] * pairs + choosing(n)

    dots = {n: s for (n, keys), s in measured.items() if keys == K}
    plot = Plot(height=4.2, width=NARROW)
    ax = plot.add_subplot()
    said = []
    for name, line, found, color in (
        ("dense", whole, dense, INK),
        (f"K = {plain(K)}", sparse, dots, GREEN),
    ):
        text = f"{name}: {seconds(line(T))}"
        if T in found:
            text += f", measured {seconds(found[T])}"
        ax.plot(_GRID, [line(n) for n in _GRID], color=color, label=text)
        ax.plot(T, line(T), "o", color=color, mfc="none", mew=1.6, ms=13,
                clip_on=False)  # fmt: skip
        kept = {n: s for n, s in found.items() if _GRID[0] <= n <= _GRID[-1]}
        ax.plot(list(kept), list(kept.values()), "x", color=color, ms=8, mew=2,
                clip_on=False)  # fmt: skip
        said.append(text)
    gain = whole(T) / sparse(T)
    finding = f"T = {plain(T)}, K = {plain(K)}: {three(gain)}x predicted"
    if T in dense and T in dots:
        finding += f", {three(dense[T] / dots[T])}x measured"
    write_title(plot, finding)
    # Alike for every K, so that lines move and the axes do not.
    low = min([rate["sparse"] * cost.pairs(_GRID[0], causal=True) / 10,
               *dense.values(), *measured.values()])  # fmt: skip
    high = max([whole(_GRID[-1]), *dense.values(), *measured.values()])
    ax.axvline(T, color=INK, lw=1, zorder=1)
    ax.plot([], [], "x", color=INK, ms=8, mew=2, label="measured")
    ax.set(xscale="log", yscale="log", ylabel="time", xlim=(_GRID[0], _GRID[-1]))
    ax.set_ylim(low / 2, 3 * high)
    few_ticks(ax.yaxis, low / 2, 3 * high, seconds)
    power_of_two_axis(ax.xaxis, _LENGTHS, "tokens T")
    ax.legend(loc="upper left", fontsize=SIZE, frameon=True, edgecolor="white")
    return plot.describe(
        caption=f"{finding}. Predicted from a rate per pair and the time of choosing: "
        f"{'; '.join(said)}. {device}.",
        alt="Two rising lines of seconds against T on log axes, dense the steeper one, "
        f"and crosses where it was measured. {finding}. {'; '.join(said)}.",
    )
