"""Figures of time gained: by length, step by step, and in a whole model.

Knows ratios of measured times; leaves what they cost in quality to `tradeoff`, and
predicted times to `lists`.
"""

import textwrap
from collections.abc import Mapping, Sequence

from sparse_attn.figures.patterns import LOOKS, headline
from sparse_attn.figures.style import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PALE,
    Plot,
    power_of_two_axis,
    styled,
)
from sparse_attn.units import plain, three

NARROW = 6.0  # inches: on a telephone's screen its type shrinks less
SIZE = 10.5  # of its type, in points


@styled
def speedups(
    lengths: Sequence[int],
    series: Mapping[str, Mapping[int, tuple[float, float, float]]],
    bars: Mapping[int, float] | None = None,
    what: str = "tokens",
) -> Plot:
    """Times as fast as dense attention, by length, log axes, with their intervals.

    series: name -> {length: (ratio, low, high)}; bars: {length: the least promised},
    which the first series has to reach. what: the unit of lengths. The title names the
    first length from which on the first series' interval stays above 1.
    Raises ValueError for a series without any of the lengths.
    """
    entries = len(series) + 1 + bool(bars)
    rows = entries if _long(series) else -(-entries // 2)
    plot = Plot(height=4.0 + 0.21 * rows, width=NARROW)
    ax = plot.add_subplot()
    for (name, line), look in zip(series.items(), _looks(), strict=False):
        found = [(n, *line[n]) for n in lengths if n in line]
        if not found:
            raise ValueError(f"series[{name!r}] has none of lengths={list(lengths)}")
        x, y, low, high = zip(*found, strict=True)
        ax.vlines(x, low, high, color=look["color"], lw=1.2)
        ax.plot(x, y, label=name, lw=1.8, **look)
    if bars:
        ax.plot(*zip(*bars.items(), strict=True), "D", color=INK, mfc="none", ms=11,
                mew=1.6, label="promised at least", zorder=4)  # fmt: skip
    ax.axhline(1, color=INK, lw=1.4, zorder=1, label="as fast as dense")
    ax.set(xscale="log", yscale="log", ylabel="times as fast as dense")
    ends = [x for line in series.values() for value in line.values() for x in value]
    low, high = min(0.5, *ends), max(2, *ends)
    few_ticks(ax.yaxis, low, high, _times)
    ax.set_ylim(low / 1.15, 1.15 * high)
    power_of_two_axis(ax.xaxis, _labeled(lengths), what)
    legend_below(ax)
    name, line = next(iter(series.items()))
    finding = f"{name}: {_crossed(line, lengths, what)}"
    write_title(plot, finding)
    kept = [f"{three(line[n][0])}x at {plain(n)}, at least {three(least)}x promised"
            for n, least in (bars or {}).items() if n in line]  # fmt: skip
    spoken = "; ".join(
        f"{other} " + ", ".join(f"{three(ys[n][0])}x at {plain(n)}" for n in ys)
        for other, ys in series.items()
    )
    return plot.describe(
        caption=f"{finding}. Dense time over theirs, with 95% intervals."
        + f" {'; '.join(kept)}." * bool(kept),
        alt=f"Lines of speed over dense attention against {what}, log axes, and a line "
        f"at 1. {spoken}.",
    )


def _crossed(line: Mapping, lengths: Sequence[int], what: str) -> str:
    """From which length on the interval stays above 1, and the gain at the last."""
    there = sorted(n for n in lengths if n in line)
    ahead = None
    for n in reversed(there):
        if line[n][1] <= 1:
            break
        ahead = n
    last = f"{three(line[there[-1]][0])}x at {plain(there[-1])}"
    if ahead is None:
        return f"not surely faster at any of these lengths, {last}"
    return f"faster from {plain(ahead)} {what} on, {last}"


@styled
def speeds_of_model(
    lengths: Sequence[int],
    series: Mapping[str, Mapping[int, float]],
    gains: Mapping[int, tuple[float, float, float]],
) -> Plot:
    """Tokens per second of whole models against T, log axes.

    series: name -> {T: tokens per second}, the first being what the others are compared
    with. gains: {T: (ratio, low, high)} of the second, measured beside the first; the
    title names the first length from which on it stays above 1.
    Raises ValueError for fewer than two.
    """
    if len(series) < 2:
        raise ValueError(f"series has {list(series)}: at least two names are needed")
    plot = Plot(height=4.2, width=NARROW)
    ax = plot.add_subplot()
    looks = ({"color": INK, "marker": "P"}, *_looks())
    for (name, line), look in zip(series.items(), looks, strict=False):
        found = [(n, line[n]) for n in lengths if n in line]
        ax.plot(*zip(*found, strict=True), label=name, **look)
    ax.set(xscale="log", yscale="log", ylabel="tokens per second")
    speeds = [y for line in series.values() for y in line.values()]
    few_ticks(ax.yaxis, min(speeds), max(speeds), lambda y, _: plain(y))
    power_of_two_axis(ax.xaxis, _labeled(lengths), "tokens T")
    legend_below(ax)
    base, name = list(series)[:2]
    finding = f"{name} against {base}: {_crossed(gains, lengths, 'tokens')}"
    write_title(plot, finding)
    spoken = "; ".join(
        f"{each} " + ", ".join(f"{three(y)} at {plain(n)}" for n, y in line.items())
        for each, line in series.items()
    )
    return plot.describe(
        caption=f"{finding}. Tokens per second of the whole model.",
        alt=f"Lines of tokens per second against T, log axes. {spoken}.",
    )


@styled
def waterfall(steps: Sequence[tuple[str, float]]) -> Plot:
    """How much of a promised gain is left after each step: (name, ratio), in order.

    A log axis, so that equal factors are equal lengths; beside each bar what the step
    left of the one before. Raises ValueError for fewer than two, or a ratio below 0.
    """
    if len(steps) < 2 or min(ratio for _, ratio in steps) <= 0:
        raise ValueError(f"steps={steps!r}: two or more ratios above 0 are needed")
    plot = Plot(height=1.1 + 0.5 * len(steps), width=NARROW)
    ax = plot.add_subplot()
    ratios = [ratio for _, ratio in steps]
    said, before = [], None
    for y, (name, ratio) in enumerate(steps):
        color = (GREEN, *[BLUE] * (len(steps) - 2), ORANGE)[y]
        ax.barh(y, ratio - 1, left=1, color=color, height=0.56, zorder=2)
        left = ""
        if before is not None:
            ax.barh(y, before - ratio, left=ratio, color=PALE, height=0.56, zorder=1)
            left = f", {ratio / before:.0%} of it left"
        end = max(1, ratio, before or 0)
        label = f"{three(ratio)}x" + (f"  × {ratio / before:.2f}" if before else "")
        ax.annotate(label, (end, y), (5, 0), textcoords="offset points", va="center",
                    fontsize=SIZE)  # fmt: skip
        said.append(f"{name} {three(ratio)}x{left}")
        before = ratio
    low, high = min(1, *ratios), max(1, *ratios)
    span = max(high / low, 2)
    ax.set(xscale="log", xlim=(low / span**0.04, high * span**0.4))
    few_ticks(ax.xaxis, low, max(high, 2), _times)
    ax.set_yticks(range(len(steps)), [textwrap.fill(name, 22) for name, _ in steps],
                  fontsize=SIZE)  # fmt: skip
    ax.set_ylim(len(steps) - 0.5, -0.5)
    ax.axvline(1, color=INK, lw=1.4)
    ax.set_xlabel("times as fast as full attention")
    ax.grid(axis="y", visible=False)
    (first, promised), (last, reached) = steps[0], steps[-1]
    finding = f"{first} {three(promised)}x, {last} {three(reached)}x"
    write_title(plot, finding)
    return plot.describe(
        caption=f"{finding}. Step by step: {'; '.join(said)}.",
        alt=f"Bars from top to bottom on a log axis from 1, what each step took away "
        f"shaded. {'; '.join(said)}.",
    )


def _looks() -> list[dict]:
    """Color and marker of line after line: six, then the same six dashed and open."""
    filled = [dict(color=color, marker=marker) for color, marker in LOOKS]
    return filled + [look | dict(ls="--", mfc="white") for look in filled]


def write_title(plot: Plot, finding: str):
    headline(plot, textwrap.fill(finding, 66))


def legend_below(ax, handles=None):
    """Under the axis, in two columns where names are short: beside it, it takes the
    width."""
    if handles is None:
        handles = ax.get_legend_handles_labels()[0]
    across = 1 if _long(handle.get_label() for handle in handles) else 2
    ax.figure.legend(handles=handles, loc="outside lower left", ncols=across,
                     fontsize=SIZE)  # fmt: skip


def _long(names) -> bool:
    """Whether two of them may not fit side by side."""
    return max(map(len, names)) > 28


def _times(x: float, _=None) -> str:
    return f"{x:g}x"


def few_ticks(axis, low: float, high: float, show):
    """Ticks of a log axis from `low` to `high`: round numbers, three to eight of them
    where that can be."""
    decades = [10.0**n for n in range(-9, 13)]
    for steps in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 6, 8)):
        ticks = [step * decade for decade in decades for step in steps]
        ticks = [t for t in ticks if 0.99 * low <= t <= 1.01 * high]
        if len(ticks) > 3:
            break
    axis.set_ticks([float(f"{t:.6g}") for t in ticks])
    axis.set_ticks([], minor=True)
    axis.set_major_formatter(show)


def _labeled(lengths: Sequence[int]) -> list[int]:
    """All of the lengths, or every other one where labels would touch."""
    lengths = sorted(lengths)
    return lengths if len(lengths) <= 8 else lengths[::-2][::-1]
