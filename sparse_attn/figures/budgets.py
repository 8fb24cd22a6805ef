"""Figures of budgets: how many keys at which rank, and which head needs how many.

Knows numbers of keys and bits lost; leaves FLOPs to `indexing`, the rest to `rest`.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from sparse_attn.checks import check_choice
from sparse_attn.figures.patterns import headline
from sparse_attn.figures.style import (
    BLUE,
    INK,
    ORANGE,
    SKY,
    Plot,
    power_of_two_axis,
    styled,
)
from sparse_attn.units import plain

_LOSS = LinearSegmentedColormap.from_list("paper_to_orange", ["#ffffff", "#ee9a62"])
_LEVELS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)  # of loss, where cells change color
_BASES = ("window", "oracle")  # beside every rank


@styled
def rank_and_keys(found: Mapping, rank: int | str, K: int) -> Plot:
    """Bits per byte lost by rank and K, all of them pooled; one cell beside its rivals.

    found: (rank, K) -> {"none": change, "pooled": change}, ranks being numbers, and
    "window" and "oracle". Raises ValueError for a pair that is not among them.
    """
    if (rank, K) not in found:
        raise ValueError(
            f"rank={rank!r}, K={K!r}: choose from {sorted(found, key=str)}"
        )
    ranks = {r for r, _ in found}
    ranks = sorted(ranks - {*_BASES}) + [base for base in _BASES if base in ranks]
    kept = sorted({k for _, k in found})
    pooled, dropped = found[rank, K]["pooled"], found[rank, K]["none"]
    plot = Plot(height=3.3)
    headline(
        plot, f"{_name(rank)}, K = {K}: {dropped:+.3f} dropped, {pooled:+.3f} pooled"
    )
    grid, ax = plot.subplots(1, 2, width_ratios=[1.35, 1])
    _cells(grid, found, ranks, kept, (rank, K))
    rows = list(dict.fromkeys((rank, *(b for b in _BASES if b in ranks))))
    every = [x for changes in found.values() for x in changes.values()]
    said = []
    for y, row in enumerate(rows):
        changes = found[row, K]
        said.append(f"{_name(row)} {changes['none']:+.3f} and {changes['pooled']:+.3f}")
        ax.text(0, y - 0.4, _name(row), va="bottom", fontsize=10)
        for shift, rest, color in ((-0.2, "none", SKY), (0.17, "pooled", BLUE)):
            x = changes[rest]
            ax.barh(y + shift, x, color=color, height=0.34)
            ax.text(max(x, 0) * 1.2 + 2e-4, y + shift, f"{x:+.3f}", va="center",
                    fontsize=9)  # fmt: skip
    ax.set_xscale("symlog", linthresh=1e-3, linscale=0.6)
    ax.set(xlim=(min(0, *every), 6 * max(every)), ylim=(len(rows) - 0.5, -0.85))
    ax.set_axis_off()
    handles = [Patch(color=SKY, label="dropped"), Patch(color=BLUE, label="pooled")]
    ax.legend(handles=handles, ncols=2, loc="upper left", bbox_to_anchor=(0, 0.03))
    said = "; ".join(said)
    return plot.describe(
        caption=f"Change in bits per byte, {_name(rank)}, K = {K}, dropped and pooled: "
        f"{said}.",
        alt=f"A grid of {len(ranks)} ranks by {len(kept)} budgets, the change with a "
        f"pooled rest in each cell, {_name(rank)} at K = {K} framed. Beside it bars, "
        f"rest dropped and pooled: {said}.",
    )


def _cells(ax, found, ranks, kept, framed):
    for (y, rank), (x, K) in (
        (a, b) for a in enumerate(ranks) for b in enumerate(kept)
    ):
        if (rank, K) not in found:
            continue
        change = found[rank, K]["pooled"]
        color = _LOSS(sum(change > level for level in _LEVELS) / len(_LEVELS))
        ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fc=color, ec="white", lw=1))
        ax.text(x, y, f"{change:+.3f}", ha="center", va="center", fontsize=9)
        if (rank, K) == framed:
            ax.add_patch(Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, ec=INK,
                                   lw=2.2, zorder=4))  # fmt: skip
    ax.set(xlim=(-0.55, len(kept) - 0.45), ylim=(len(ranks) - 0.45, -0.55))
    ax.set_xticks(range(len(kept)), [plain(K) for K in kept])
    ax.set_yticks(range(len(ranks)), [_name(rank) for rank in ranks])
    ax.set(xlabel="keys kept, K; in the cells: pooled")
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)


def _name(rank: int | str) -> str:
    return rank if isinstance(rank, str) else f"rank {rank}"


@styled
def keys_taken(counts: dict[float, dict[str, Tensor]], p: float) -> Plot:
    """How many keys each head takes, query by query, to hold `p` of its mass.

    counts: p -> head -> (queries,) keys kept. Whiskers from 5 to 95%, boxes from a
    quarter to three quarters, a bar at the median, a dot at the mean.
    Raises ValueError for a p that is not among them.
    """
    check_choice("p", p, counts)
    heads = {name: kept.cpu().numpy() for name, kept in counts[p].items()}
    means = {name: float(kept.mean()) for name, kept in heads.items()}
    few, many = min(means, key=means.get), max(means, key=means.get)
    mean = np.concatenate(list(heads.values())).mean()
    finding = f"p = {p:g}: {mean:.0f} keys"
    span = f"{means[few]:.0f} ({few}) to {means[many]:.0f} ({many})"
    plot = Plot(height=1.0 + 0.24 * len(heads))
    headline(plot, f"{finding}, from {span}", size=10.5)
    ax = plot.add_subplot()
    said = []
    for y, (name, kept) in enumerate(heads.items()):
        low, quarter, middle, most, high = np.quantile(
            kept, (0.05, 0.25, 0.5, 0.75, 0.95)
        )
        ax.hlines(y, low, high, color=BLUE, lw=1.2)
        ax.barh(y, most - quarter, left=quarter, color=SKY, height=0.6)
        ax.vlines(middle, y - 0.3, y + 0.3, color=INK, lw=2)
        ax.plot(means[name], y, "o", color=ORANGE, ms=5, mec="white")
        said.append(f"{name}: {low:.0f} to {high:.0f}, median {middle:.0f}")
    ends = [kept for named in counts.values() for kept in named.values()]
    top = max(int(kept.max()) for kept in ends)
    ticks = [2**n for n in range(top.bit_length() + 1) if 2**n <= 1.05 * top]
    ax.set(xscale="log", xlim=(0.9, 1.1 * top), ylim=(len(heads) - 0.4, -0.6))
    power_of_two_axis(ax.xaxis, ticks, "keys taken by a query")
    ax.set_yticks(range(len(heads)), list(heads), fontsize=9)
    ax.grid(axis="y", visible=False)
    handles = [Patch(color=SKY, label="half of the queries")]
    handles += ax.plot([], [], color=BLUE, lw=1.2, label="nine of ten")
    handles += ax.plot([], [], "|", color=INK, ms=10, mew=2, label="median")
    handles += ax.plot([], [], "o", color=ORANGE, ms=5, label="mean")
    ax.legend(handles=handles, ncols=4, loc="lower left", bbox_to_anchor=(0, 1),
              borderaxespad=0.1)  # fmt: skip
    return plot.describe(
        caption=f"{finding}, mean of {len(heads)} heads; theirs from {span}.",
        alt=f"A strip per head on a log axis of keys, 5 to 95% of its queries. "
        f"{'; '.join(said)}.",
    )
