"""Figures to plan a trial of token embeddings by: what the frequencies of tokens give,
what tables hold, and how many seeds will tell.

Knows closed forms alone; leaves what runs found to `trials`.
"""

import itertools
import math

import numpy as np
from matplotlib.patches import Patch

from sparse_attn import cost
from sparse_attn.checks import check_count, check_finite
from sparse_attn.corpus import entropy, zipf_probabilities
from sparse_attn.embeddings import SPLIT, FrequencyAnalysis, band_widths
from sparse_attn.figures.patterns import headline
from sparse_attn.figures.serving import mark
from sparse_attn.figures.speed import NARROW, few_ticks
from sparse_attn.figures.style import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PALE,
    PINK,
    Plot,
    power_of_two_axis,
    styled,
)
from sparse_attn.stats import detectable, half_width
from sparse_attn.units import plain, three

BANDS = {"frequent": BLUE, "middle": GREEN, "rare": ORANGE}
RANKS, BITS, RATIO = 10_000, 24.0, 2.6  # ends of axes that sliders leave alone
SEEDS = range(2, 41)
TICKS = (2, 3, 5, 7, 10, 20, 40)


@styled
def surprisal(V: int, exponent: float) -> Plot:
    """Bits of a token of each rank by Zipf's law, and what share of a text the three
    bands of ranks are.

    The bands are those of `embeddings.SPLIT`. The axes hold every law up to V = 10,000
    and exponent 1.4, so that lines move and they do not.
    Raises ValueError for a vocabulary too small for three bands.
    """
    law = zipf_probabilities(V, exponent)
    sizes = FrequencyAnalysis(range(V, 0, -1)).sizes
    bits = -np.log2(law)
    shares = [float(part.sum()) for part in np.split(law, np.cumsum(sizes)[:-1])]
    nats = entropy(law)
    mean = nats / math.log(2)

    plot = Plot(height=3.3, width=NARROW)
    left, right = plot.subplots(1, 2, width_ratios=(3, 2))
    ends = itertools.pairwise(np.cumsum([0, *sizes]))
    for (start, end), color in zip(ends, BANDS.values(), strict=True):
        ranks = np.arange(start, min(end + 1, V))  # up to where the next begins
        left.plot(ranks + 1, bits[ranks], color=color, lw=4, solid_capstyle="butt")
    for rank, color in ((1, BLUE), (V, ORANGE)):
        left.plot(rank, bits[rank - 1], "o", color=color, mec="white", ms=8, zorder=4)
    left.axhline(mean, color=INK, lw=1.4, ls="--", label=f"mean: {mean:.2f} bits")
    left.set(xscale="log", xlim=(0.7, 1.4 * max(RANKS, V)), ylabel="bits of a token")
    left.set_ylim(0, max(BITS, 1.1 * float(bits.max())))
    power_of_two_axis(left.xaxis, [1, 10, 100, 1000, 10_000], "rank")
    left.legend(loc="upper left")
    names = [f"{which} {share:.0%}\nof ranks" for which, share in
             zip(("top", "middle", "last"), SPLIT, strict=True)]  # fmt: skip
    _shares(right, shares, names)

    finding = (
        f"V = {plain(V)}, exponent {exponent:g}: rank 1 has {bits[0]:.1f} bits, "
        f"rank {plain(V)} {bits[-1]:.1f}"
    )
    headline(plot, finding)
    top, middle, last = (f"{share:.1%}" for share in shares)
    return plot.describe(
        caption=f"{finding}. No model of independent tokens gets below their mean, "
        f"{mean:.2f} bits or {nats:.3f} nats. The top {SPLIT[0]:.0%} of ranks are "
        f"{top} of a text, the last {SPLIT[2]:.0%} {last}.",
        alt="Left, bits of a token rise in a straight line with the logarithm of its "
        f"rank, from {bits[0]:.1f} to {bits[-1]:.1f}; a dashed line at {mean:.2f}. "
        f"Right, bars of the bands' shares of a text: {top}, {middle}, {last}.",
    )


def _shares(ax, shares: list[float], names: list[str]):
    for y, (share, color) in enumerate(zip(shares, BANDS.values(), strict=True)):
        ax.barh(y, share, color=color, height=0.5)
        ax.annotate(f"{share:.1%}", (share, y), (4, 0), textcoords="offset points",
                    va="center")  # fmt: skip
    ax.set_yticks(range(len(names)), names)
    ax.set(xlim=(0, 1.42), xticks=(0, 0.5, 1), ylim=(2.6, -0.6))
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    ax.set_xlabel("share of a text")
    ax.grid(axis="y", visible=False)


@styled
def table_parameters(V: int, top: float, spread: float, width: int = 128) -> Plot:
    """Weights of tables for three bands and their projections, over those of one table.

    top: the share of the V tokens in the first band; the last has 0.2, the middle the
    rest. Widths are 1 + spread, 1 and 1 - spread times `width`, as in `embeddings`.
    Raises ValueError for shares or widths that leave a band nothing.
    """
    check_finite("top", top)
    check_finite("spread", spread)
    split = (top, round(0.8 - top, 9), 0.2)
    multipliers = (round(1 + spread, 9), 1, round(1 - spread, 9))
    sizes = FrequencyAnalysis(range(V, 0, -1), split).sizes
    widths = band_widths(width, multipliers)
    whole = cost.embedding_parameters(V, width)
    tables, projections = cost.banded_parameters(sizes, widths, width)
    even = cost.banded_break_even(split, widths, width)
    held, ratio = tables + projections, (tables + projections) / whole

    plot = Plot(height=2.9, width=NARROW)
    ax = plot.add_subplot()
    ax.barh(0, 1, color=INK, height=0.36)
    parts = [n * own for n, own in zip(sizes, widths, strict=True)]
    parts = dict(zip(BANDS, parts, strict=True)) | {"projections": projections}
    colors, left = BANDS | {"projections": PINK}, 0.0
    for name, part in parts.items():
        ax.barh(1, part / whole, left=left, color=colors[name], height=0.36)
        left += part / whole
    of_bands = ", ".join(
        f"{plain(n)} x {plain(own)}" for n, own in zip(sizes, widths, strict=True)
    )
    rows = (
        f"one table, {plain(V)} x {plain(width)}: {_weights(whole)}",
        f"{of_bands}: {_weights(held)}",
    )
    for y, row in enumerate(rows):
        ax.text(0, y - 0.25, row, va="bottom", zorder=4,
                bbox=dict(facecolor="white", edgecolor="none", pad=1))  # fmt: skip
    ax.axvline(1, color=INK, lw=1, ls="--", zorder=3)
    ax.set(xlim=(0, max(RATIO, 1.05 * ratio)), ylim=(1.4, -0.7), yticks=[])
    ax.set_xlabel("weights, one table = 1")
    ax.spines["left"].set_visible(False)
    handles = [Patch(color=color, label=name) for name, color in colors.items()]
    plot.legend(handles=handles, loc="outside lower left", ncols=4, fontsize=10)

    shape = "/".join(f"{100 * share:g}" for share in split)
    times = "/".join(f"{one:g}" for one in multipliers)
    finding = f"V = {plain(V)}, {shape} x {times}: {ratio:.4g} times the weights"
    headline(plot, finding)
    when = f"from {even:,.0f} tokens on" if even < math.inf else "never"
    spoken = ", ".join(f"{name} {part / whole:.3f}" for name, part in parts.items())
    return plot.describe(
        caption=f"{finding} of one table {width} wide, {held:,} for {whole:,}. "
        f"Bands with top {top:g} and spread {spread:g} hold fewer {when}.",
        alt=f"Two bars: one table, of length 1, and three bands with projections, of "
        f"length {ratio:.4g}: {spoken}.",
    )


def _weights(n: int) -> str:
    return f"{n:,} weights" if n < 1e6 else f"{n / 1e6:.2f}M weights"


@styled
def seeds_needed(n: int, spread: float, matters: float) -> Plot:
    """How sure n paired seeds make us: half the 95% interval of their mean difference,
    and the true difference that they find with a power of 80%.

    spread: standard deviation of a seed's difference, in nats. matters: the least
    difference of interest. Raises ValueError for n outside 2 to 40.
    """
    check_count("n", n, least=SEEDS[0], most=SEEDS[-1])
    check_finite("matters", matters)
    lines = {
        "half of the 95% interval": (BLUE, [half_width(spread, m) for m in SEEDS]),
        "found four times in five": (ORANGE, [detectable(spread, m) for m in SEEDS]),
    }
    (_, halves), (_, found) = lines.values()
    enough = next((m for m, x in zip(SEEDS, found, strict=True) if x <= matters), None)

    plot = Plot(height=3.5, width=NARROW)
    ax = plot.add_subplot()
    low, high = min(halves[-1], matters) / 1.4, 1.4 * max(found[0], matters)
    for name, (color, values) in lines.items():
        ax.plot(SEEDS, values, color=color, label=name)
        at = values[SEEDS.index(n)]
        ax.plot(n, at, "o", color=color, mec="white", ms=9, zorder=4)
    ax.axhline(matters, color=INK, lw=1.4, ls="--", label=f"what matters: {matters:g}")
    mark(ax, n, low, found[SEEDS.index(n)])
    ax.set(xscale="log", yscale="log", xlim=(1.8, 44), ylim=(low, high))
    few_ticks(ax.yaxis, low, high, lambda y, _: f"{y:g}")
    power_of_two_axis(ax.xaxis, TICKS, "seeds")
    ax.set_ylabel("nats")
    ax.grid(axis="x", color=PALE)
    ax.legend(loc="upper right", fontsize=10)

    half, least = (three(values[SEEDS.index(n)]) for values in (halves, found))
    finding = f"{n} seeds: ± {half} nats, and {least} found four times in five"
    headline(plot, finding)
    needs = f"from {enough} seeds on" if enough else f"by more than {SEEDS[-1]} seeds"
    return plot.describe(
        caption=f"{finding}, where differences of seeds spread by {spread:g}. "
        f"A true difference of {matters:g} is found so often {needs}.",
        alt=f"Two falling lines against 2 to {SEEDS[-1]} seeds, log axes, and a dashed "
        f"one at {matters:g} nats. At {n}, half of the interval is {half} and the "
        f"difference found {least}.",
    )
