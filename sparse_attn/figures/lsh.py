"""Figures of measured LSH attention: full buckets, mass kept, and time."""

import numpy as np
from matplotlib.ticker import LogLocator, NullLocator

from sparse_attn.figures.style import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PINK,
    SKY,
    Plot,
    power_of_two_axis,
    styled,
)
from sparse_attn.timing import Ratio
from sparse_attn.units import plain, three

_COLORS = (BLUE, ORANGE, GREEN, PINK, SKY, INK)


@styled
def bucket_loads(named: dict[str, np.ndarray]) -> Plot:
    """name -> sizes of buckets, of one round or of several in a row."""
    loads = {
        name: np.sort(np.ravel(sizes))[::-1] / np.mean(sizes)
        for name, sizes in named.items()
    }
    worst = max(loads, key=lambda name: loads[name][0])
    finding = f"Largest bucket: {loads[worst][0]:.1f}x the mean, with {worst}"
    plot = Plot(height=3.4)
    ax = plot.add_subplot(title=finding)
    for (name, load), color in zip(loads.items(), _COLORS, strict=False):
        edges = np.linspace(0, 1, len(load) + 1)
        ax.stairs(load, edges, baseline=None, color=color, lw=2, label=name)
    ax.axhline(1, color=INK, lw=1, ls="--", label="all even")
    ax.set(xlim=(0, 1), ylim=(0, None), ylabel="tokens, mean = 1")
    ax.set_xlabel("buckets, fullest first")
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    ax.legend(loc="upper right")
    said = "; ".join(
        f"{name}: largest {load[0]:.1f}x the mean, {np.mean(load == 0):.1%} empty"
        for name, load in loads.items()
    )
    return plot.describe(
        caption=f"Sizes of buckets. {said}.",
        alt=f"Falling steps of bucket sizes around an even line at 1. {said}.",
    )


@styled
def recall_by_cost(curves: dict[str, list[tuple[float, float]]], title: str) -> Plot:
    """Attention mass kept: method -> [(share of causal pairs computed, mass kept)].

    Methods are compared where all have been measured, between points along the line.
    """
    curves = {name: sorted(points) for name, points in curves.items()}
    plot = Plot(height=3.8)
    ax = plot.add_subplot(title=title)
    for points, color, marker in zip(curves.values(), _COLORS, "osD^vP", strict=False):
        share, mass = zip(*points, strict=True)
        ax.plot(
            share, mass, marker + "-", color=color, ms=7, mec="white", clip_on=False
        )
    ends = {name: points[-1] for name, points in curves.items()}
    ax.set(xscale="log", ylim=(0, 1), ylabel="attention mass kept")
    ax.set_xlabel("causal pairs computed")
    _ticks(ax.xaxis, lambda x, _: f"{100 * x:g}%")
    _label_ends(ax, ends)
    said = "; ".join(_best(curves)) or "none was measured for all"
    return plot.describe(
        caption=f"{title}. Who keeps most, at shares of pairs: {said}.",
        alt="Lines of the attention mass kept against the share of pairs computed, log "
        f"axis, for {', '.join(curves)}. "
        + "; ".join(f"{name} ends at {y:.2f}" for name, (_, y) in ends.items())
        + ".",
    )


def _best(curves) -> list[str]:
    """Who keeps most, at the ends and in the middle of what all lines cover."""
    low = max(points[0][0] for points in curves.values())
    high = min(points[-1][0] for points in curves.values())
    if low > high:
        return []
    said = []
    for share in dict.fromkeys((low, (low * high) ** 0.5, high)):
        kept = {
            name: float(np.interp(np.log(share), np.log(x), y))
            for name, (x, y) in ((n, zip(*p, strict=True)) for n, p in curves.items())
        }
        best = max(kept, key=kept.get)
        said.append(f"at {100 * share:.3g}% {best}, {kept[best]:.2f}")
    return said


def _ticks(axis, label):
    """1, 2 and 5 of each power of ten, on a logarithmic axis."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(label)
    axis.set_minor_locator(NullLocator())


def _label_ends(ax, ends: dict[str, tuple[float, float]], gap: float = 0.075):
    """Names to the right of the axes, at the height of their ends if there is room."""
    names = sorted(ends, key=lambda name: ends[name][1])
    ys = np.array([ends[name][1] for name in names])
    for i in range(1, len(ys)):
        ys[i] = max(ys[i], ys[i - 1] + gap)
    ys -= max(0.0, ys[-1] - 1)
    for i in range(len(ys) - 2, -1, -1):
        ys[i] = min(ys[i], ys[i + 1] - gap)
    for name, y in zip(names, ys, strict=True):
        color = _COLORS[list(ends).index(name)]
        line = dict(arrowstyle="-", color=color, lw=0.7, shrinkA=0, shrinkB=4)
        ax.annotate("", ends[name], (1.03, y), textcoords="axes fraction",
                    annotation_clip=False, arrowprops=line)  # fmt: skip
        ax.text(1.04, y, name, color=color, va="center", transform=ax.transAxes)


@styled
def lsh_time(lengths: list[int], ratios: dict[str, list[Ratio]], device: str) -> Plot:
    """Time relative to fused causal attention: name -> one Ratio for each length."""
    since = {name: _faster_since(lengths, row) for name, row in ratios.items()}
    last = plain(lengths[-1])
    finding = f"Never faster than fused attention, up to {last} tokens"
    if any(since.values()):
        first = min((n, name) for name, n in since.items() if n)
        finding = (
            f"Faster than fused attention from {plain(first[0])} tokens: {first[1]}"
        )
    plot = Plot(height=3.6)
    ax = plot.add_subplot(title=finding)
    for (name, row), color in zip(ratios.items(), _COLORS, strict=False):
        ax.fill_between(lengths, [r.low for r in row], [r.high for r in row],
                        color=color, alpha=0.25, lw=0)  # fmt: skip
        ax.plot(lengths, [r.value for r in row], "o-", color=color, label=name)
    ax.axhline(1, color=INK, lw=1, ls="--")
    ax.set(xscale="log", yscale="log", ylabel="time, fused attention = 1")
    _ticks(ax.yaxis, lambda y, _: f"{y:g}x")
    power_of_two_axis(ax.xaxis, lengths, "tokens T")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    said = "; ".join(
        f"{name} {three(row[-1].value)}x at {last}, "
        + (f"faster from {plain(since[name])} on" if since[name] else "never faster")
        for name, row in ratios.items()
    )
    return plot.describe(
        caption=f"Time relative to fused causal attention on {device}: {said}.",
        alt="Lines of relative time against length on log axes, with intervals and a "
        f"line at 1. {said}.",
    )


def _faster_since(lengths: list[int], row: list[Ratio]) -> int | None:
    """The shortest length from which on every interval lies below 1."""
    since = None
    for n, ratio in sorted(zip(lengths, row, strict=True), key=lambda at: -at[0]):
        if ratio.high >= 1:
            break
        since = n
    return since
