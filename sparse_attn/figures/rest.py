"""Figures of the keys that are not selected: what is lost, and what stands for them.

Knows two rests, dropped and pooled into block means; leaves what they cost to `budgets`
and the spread between seeds to `seeds`.
"""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.lines import Line2D
from torch import Tensor

from sparse_attn.checks import check_count
from sparse_attn.figures.patterns import LOOKS, headline
from sparse_attn.figures.style import (
    BLUE,
    INK,
    ORANGE,
    SKY,
    Plot,
    power_of_two_axis,
    styled,
)

RESTS = {"none": ("dropped", "--"), "pooled": ("pooled", "-")}  # how each is drawn


@styled
def stand_ins(scores: Tensor, chosen: Tensor, block: int) -> Plot:
    """One query's weights by key, and what block means give to those not selected.

    scores (S,): the true ones; chosen (S,) bool. Each block of `block` keys stands with
    the mean score of its unselected keys: a step at the weight that gives each of them.
    Raises ValueError for shapes that do not fit.
    """
    check_count("block", block)
    if scores.ndim != 1 or scores.shape != chosen.shape:
        raise ValueError(
            f"scores has shape {tuple(scores.shape)} and chosen "
            f"{tuple(chosen.shape)}: both (S,) are needed"
        )
    log_weights, marks = scores.log_softmax(dim=0).cpu().numpy(), chosen.cpu().numpy()
    weights = np.exp(log_weights)
    S, K = len(weights), int(marks.sum())
    steps = _steps(log_weights, marks, block)
    held, seen = float(weights[marks].sum()), sum(n * level for *_, n, level in steps)
    finding = (
        f"{K} of {S} keys hold {held:.0%}; the rest has {1 - held:.0%}, "
        f"its block means say {seen:.0%}"
    )
    plot = Plot(height=3.6)
    ax = plot.add_subplot()
    headline(plot, finding)
    keys = np.arange(S)
    ax.bar(keys[~marks], weights[~marks], color=SKY, width=0.8, label="not selected")
    ax.bar(keys[marks], weights[marks], color=ORANGE, width=0.8, label="selected")
    for i, (first, last, _, level) in enumerate(steps):
        label = "each by its block's mean" if i == 0 else None
        ax.hlines(level, first - 0.5, last + 0.5, color=INK, lw=2, label=label)
    ax.set_xticks(range(0, S, block))
    ax.set(yscale="log", xlim=(-0.7, S - 0.3), xlabel="key", ylabel="weight")
    top = weights.max()
    ax.set_ylim(max(weights.min(), 1e-6 * top) / 1.5, top * 1.5)
    ax.grid(axis="x", visible=False)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
    said = ", ".join(f"{n * level:.1%}" for *_, n, level in steps) or "none"
    return plot.describe(
        caption=f"{finding}. Where scores of a block differ, the mean of their "
        "exponentials is larger than the exponential of their mean.",
        alt=f"Bars of the weight of each of {S} keys on a log axis, {K} of them "
        f"selected, and a step over each block of {block} keys. Mass by block means, "
        f"from the first block to the last: {said}.",
    )


def _steps(log_weights, marks, block: int) -> list[tuple[int, int, int, float]]:
    """(first key, last key, how many unselected, weight given to each) of each block.

    Weights are exp(score) up to a factor, so the mean score gives their geometric mean.
    """
    found = []
    for first in range(0, len(marks), block):
        others = log_weights[first : first + block][~marks[first : first + block]]
        if len(others):
            last = min(first + block, len(marks)) - 1
            found.append((first, last, len(others), float(np.exp(others.mean()))))
    return found


@styled
def quality_by_keys(curves: dict[str, dict[str, dict[int, float]]], of: str) -> Plot:
    """What is lost against the keys kept, the rest dropped (dashed) and pooled.

    curves: selector -> rest, "none" or "pooled" -> K -> loss, above 0. of: what it is
    and its unit. The title compares the first two selectors at the middle K.
    """
    kept = sorted({K for c in curves.values() for line in c.values() for K in line})
    K = kept[len(kept) // 2]
    plot = Plot(height=4.0)
    ax = plot.add_subplot()
    for rests, (color, marker) in zip(curves.values(), LOOKS, strict=False):
        for rest, line in rests.items():
            x, y = zip(*sorted(line.items()), strict=True)
            face = color if rest == "pooled" else "white"
            ax.plot(x, y, marker, ls=RESTS[rest][1], color=color, mfc=face, lw=1.8)
    ax.set(xscale="log", yscale="log", ylabel=of)
    power_of_two_axis(ax.xaxis, kept, "keys kept by each query, K")
    _legend(ax, list(curves))
    moves = [
        f"{name} from {two(rests['none'][K])} to {two(rests['pooled'][K])}"
        for name, rests in curves.items()
    ]
    finding = f"K={K}: pooling takes {', '.join(moves[:2])}"
    if len(finding) > 78:  # more than fits
        finding = f"K={K}: pooling takes {moves[0]}"
    headline(plot, finding, size=10.5)
    said = "; ".join(
        f"{name}, {RESTS[rest][0]}: "
        + ", ".join(f"{two(y)} at {K}" for K, y in sorted(line.items()))
        for name, rests in curves.items()
        for rest, line in rests.items()
    )
    return plot.describe(
        caption=f"{of}, at K={K}, dropped and pooled: {'; '.join(moves)}.",
        alt=f"Falling lines against K on log axes, dashed for a rest that is dropped, "
        f"solid for pooled. {said}.",
    )


def _legend(ax, names: Sequence[str]):
    """A color for each name; dashed and solid once, for all of them."""
    handles = [
        Line2D([], [], color=color, marker=marker, label=name)
        for name, (color, marker) in zip(names, LOOKS, strict=False)
    ]
    handles += [
        Line2D([], [], color=INK, ls=dash, label=f"rest {how}")
        for how, dash in RESTS.values()
    ]
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), handlelength=3)


def two(x: float) -> str:
    """Two significant digits and never a power of ten: 0.0083, 0.12, 250."""
    if x == 0:
        return "0"
    digits = max(0, 1 - math.floor(math.log10(abs(x))))
    return f"{x:.{digits}f}"


@styled
def pooling_gap(spreads: Sequence[float], measured: Sequence[float]) -> Plot:
    """The rest's mass as block means see it over its true mass, by spread of scores.

    spreads: standard deviations of the scores inside a block; measured: a share for
    each. The line is what normal scores would give: exp(mean) / mean(exp) = exp(-s²/2).
    """
    dots = sorted(zip(spreads, measured, strict=True))
    predicted = [math.exp(-(s**2) / 2) for s, _ in dots]
    off = [share - p for (_, share), p in zip(dots, predicted, strict=True)]
    worst = max(range(len(dots)), key=lambda i: abs(off[i]))
    s, share = dots[len(dots) // 2]
    finding = (
        f"Spread {s:.2g}: block means see {share:.0%} of the mass, "
        f"theory {predicted[len(dots) // 2]:.0%}"
    )
    plot = Plot(height=3.4)
    ax = plot.add_subplot()
    headline(plot, finding)
    most = 1.1 * dots[-1][0]
    x = np.linspace(0, most, 200)
    ax.plot(x, np.exp(-(x**2) / 2), color=BLUE, label="normal scores: exp(-s²/2)")
    ax.plot(*zip(*dots, strict=True), "o", color=ORANGE, mec="white", label="measured")
    ax.set(xlim=(0, most), ylim=(0, max(1.08, 1.05 * max(measured))))
    ax.set_xlabel("standard deviation s of the scores in a block")
    ax.set_ylabel("mass seen / true mass")
    ax.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
    ax.legend(loc="lower left")
    said = ", ".join(f"{share:.2f} at {s:.2g}" for s, share in dots)
    return plot.describe(
        caption=f"{finding}. {len(dots)} measured, {sum(d > 0 for d in off)} of them "
        f"above the line, the farthest by {abs(off[worst]):.2f}.",
        alt=f"A curve that falls from 1 as scores in a block differ more, and dots "
        f"near it. Measured: {said}.",
    )
