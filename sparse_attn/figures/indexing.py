"""Figures of what finding keys costs: FLOPs, and what is lost for so many of them.

Knows one causal head beside full attention; leaves the published method to `selection`.
"""

from collections.abc import Sequence

from sparse_attn import cost
from sparse_attn.figures.patterns import LOOKS, headline
from sparse_attn.figures.rest import two
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


@styled
def frontier(points: Sequence[tuple[str, float, float]]) -> Plot:
    """What is lost against the FLOPs of selection, attention and pooling together.

    points: (name, share of full causal attention's FLOPs, KL in bits per token). A name
    is a line; names that begin with "oracle" pay for no selection, and are dashed.
    """
    lines = {}
    for name, share, kl in sorted(points, key=lambda point: point[1]):
        lines.setdefault(name, []).append((share, kl))
    lines = {name: lines[name] for name, *_ in points}  # in the order given
    best = _least(points)
    names = list(dict.fromkeys(name for name, *_ in best))
    plot = Plot(height=4.0)
    headline(plot, f"Least lost, from cheap to dear: {', '.join(names)}")
    ax = plot.add_subplot()
    looks = iter(LOOKS)
    for name, line in lines.items():
        x, y = zip(*line, strict=True)
        if name.startswith("oracle"):
            ax.plot(x, y, "*--", color="#7b8491", lw=1.5, label=name)
        else:
            color, marker = next(looks)
            ax.plot(x, y, f"{marker}-", color=color, label=name)
    ax.set(xscale="log", yscale="log", ylabel="KL divergence, bits per token")
    low, high = ax.get_xlim()
    steps = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
    ax.set_xticks([s for s in steps if low <= s <= high])
    ax.set_xticks([], minor=True)
    ax.xaxis.set_major_formatter(lambda x, _: f"{100 * x:g}%")
    ax.set_xlabel("FLOPs, full causal attention = 100%")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    said = " to ".join(
        f"{name} ({two(kl)} for {share:.0%} of the FLOPs)"
        for name, share, kl in (best[0], best[-1])
    )
    spoken = "; ".join(
        f"{name} " + ", ".join(f"{two(kl)} at {share:.0%}" for share, kl in line)
        for name, line in lines.items()
    )
    return plot.describe(
        caption=f"{len(best)} of {len(points)} points lose less than all that are "
        f"cheaper, from {said}. They lie on {', '.join(names)}.",
        alt=f"Falling lines of KL against the share of FLOPs, log axes. {spoken}.",
    )


def _least(points) -> list[tuple[str, float, float]]:
    """The points that lose less than all that are cheaper; an oracle is no choice."""
    best = []
    for name, share, kl in sorted(points, key=lambda point: point[1:]):
        if not name.startswith("oracle") and (not best or kl < best[-1][2]):
            best.append((name, share, kl))
    return best


@styled
def indexer_bill(T: int, K: int, rank: int, D: int = 64, block: int = 16) -> Plot:
    """FLOPs of one causal head of width D that selects K keys, full attention = 100%.

    Below, how the sum falls with T: to rank/2D for finding and 1/block for pooling.
    """
    parts = cost.indexed_shares(T, D, K, rank, block=block)
    total = sum(parts.values())
    floor = rank / (2 * D) + 1 / block
    plot = Plot(height=3.5)
    headline(plot, f"T = {plain(T)}, K = {plain(K)}: {total:.1%} of full attention")
    bars, ax = plot.subplots(2, 1, height_ratios=[1, 1.7])
    left = 0.0
    for (name, share), color in zip(parts.items(), (BLUE, ORANGE, GREEN), strict=True):
        label = f"{name} {_percent(share)}"
        bars.barh(0, share, left=left, color=color, height=0.62, label=label)
        left += share
    bars.barh(1, 1, color=PALE, height=0.62, label="full attention 100%")
    bars.set(xlim=(0, max(1, total)), ylim=(1.5, -0.5))
    bars.set_axis_off()
    bars.legend(ncols=4, loc="lower left", bbox_to_anchor=(-0.02, 1), handlelength=1,
                columnspacing=1.2, borderaxespad=0.1)  # fmt: skip
    lengths = [2**n for n in range(9, 18)]
    sums = [
        sum(cost.indexed_shares(n, D, K, rank, block=block).values()) for n in lengths
    ]
    ax.plot(lengths, sums, color=BLUE)
    for level, name, va in (
        (rank / (2 * D), f"rank/2D = {_percent(rank / (2 * D))}", "top"),
        (floor, f"and 1/block: {_percent(floor)}", "bottom"),
    ):
        ax.axhline(level, color=INK, lw=1, ls="--")
        at = (3, 2 if va == "bottom" else -3)
        ax.annotate(name, (lengths[0], level), at, textcoords="offset points", va=va,
                    fontsize=9)  # fmt: skip
    ax.plot(T, total, "o", color=ORANGE, ms=9, mec="white", zorder=4, clip_on=False)
    ax.set(xscale="log", yscale="log", ylabel="share", xlim=(lengths[0], lengths[-1]))
    ax.set_yticks([0.02, 0.05, 0.1, 0.2, 0.5, 1])
    ax.set_ylim(0.4 * rank / (2 * D), 1.15 * max(1, *sums, total))
    ax.set_yticks([], minor=True)
    ax.yaxis.set_major_formatter(lambda y, _: f"{100 * y:g}%")
    power_of_two_axis(ax.xaxis, lengths, "tokens T")
    said = ", ".join(f"{name} {_percent(share)}" for name, share in parts.items())
    return plot.describe(
        caption=f"T = {plain(T)}, K = {plain(K)}, rank {rank}, D = {D}, blocks of "
        f"{block}: {total:.1%} of full causal attention's FLOPs; {said}. For ever "
        f"longer texts the sum falls to rank/2D + 1/block = {_percent(floor)}.",
        alt=f"A stacked bar beside one of 100%: {said}. Below, the sum against T from "
        f"512 to 128K at this K, {sums[0]:.0%} to {sums[-1]:.1%}, this T marked.",
    )


def _percent(share: float) -> str:
    return f"{three(100 * share)}%"
