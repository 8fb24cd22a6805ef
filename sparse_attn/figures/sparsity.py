"""Figures of what sparse patterns cost in quality and save in time, as measured."""

import numpy as np

from sparse_attn.figures.patterns import LOOKS, headline
from sparse_attn.figures.seeds import dots_of
from sparse_attn.figures.style import INK, Plot, styled
from sparse_attn.timing import Ratio

_NEAR = 1.25  # shares up to this factor apart are compared with each other


@styled
def quality_by_share(
    curves: dict[str, list[tuple[float, float]]], base: float, title_prefix: str
) -> Plot:
    """Bits per byte lost against the share of causal pairs kept, a line per family.

    curves: family -> (share from 0 to 1, bits per byte); base: full attention's bits.
    Families are compared where their shares lie within 25% of each other.
    """
    plot = Plot(height=4.2)
    ax = plot.add_subplot()
    for i, (name, points) in enumerate(curves.items()):
        color, marker = LOOKS[i % len(LOOKS)]
        dashes = "--" if i >= len(LOOKS) else "-"
        shares, bits = zip(*sorted(points), strict=True)
        ax.plot(
            shares, np.subtract(bits, base), marker, ls=dashes, color=color, label=name
        )
    ax.set_yscale("symlog", linthresh=0.02)  # a pattern may also gain
    ax.set(xscale="log", xlabel="share of causal pairs kept")
    ax.set_ylabel(f"bits per byte lost; full attention needs {base:.2f}")
    _percent_axis(ax.xaxis, [share for c in curves.values() for share, _ in c])
    low, high = ax.get_ylim()
    ticks = [0, *(n * 10.0**power for power in (-2, -1, 0, 1) for n in (1, 2, 5))]
    ax.set_yticks([y for y in ticks if low <= y <= high])
    ax.set_yticks([], minor=True)
    ax.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=3)
    best = [
        (share, *min(group, key=lambda point: point[1]))
        for share, group in _alike(curves)
    ]
    at, winner, bits = best[0]
    finding = (
        f"{title_prefix}: at {_percent(at)}, {winner} loses least ({bits - base:+.2f})"
    )
    headline(plot, finding)
    said = ", ".join(
        f"{name} at {_percent(share)} ({bits:.2f})" for share, name, bits in best
    )
    lines = "; ".join(
        f"{name} " + ", ".join(f"{bits:.2f} at {_percent(s)}" for s, bits in sorted(c))
        for name, c in curves.items()
    )
    return plot.describe(
        caption=f"{title_prefix}, bits per byte. Best: {said}; full attention "
        f"{base:.2f}.",
        alt="Lines of bits per byte lost against the share of pairs, log axes. Bits "
        f"per byte: {lines}; full attention {base:.2f}.",
    )


def _alike(curves):
    """[(share, [(family, bits), ...])]: groups of shares that are nearly the same.

    Groups of a single family say nothing about which is best and are left out, unless
    there are no others.
    """
    points = sorted((s, name, bits) for name, c in curves.items() for s, bits in c)
    groups = []
    for share, name, bits in points:
        if not groups or share > _NEAR * groups[-1][0]:
            groups.append((share, []))
        groups[-1][1].append((name, bits))
    contested = [g for g in groups if len({name for name, _ in g[1]}) > 1]
    return contested or groups


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%" if share < 0.1 else f"{share:.0%}"


def _percent_axis(axis, shares):
    """Ticks at 1, 2, 5, 10, 20, 50 and 100%, as far as the shares go."""
    low, high = min(shares) / 1.15, max(shares) * 1.15
    steps = [n / 100 for n in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)]
    axis.axes.set_xlim(low, high)
    axis.set_ticks([s for s in steps if low <= s <= high])
    axis.set_ticks([], minor=True)
    axis.set_major_formatter(lambda share, _: _percent(share))


@styled
def trained_patterns(rows: dict[str, list[float]], shares: dict[str, float]) -> Plot:
    """name -> bits per byte of each seed of models trained with a pattern.

    The first row is full attention, whose seeds span the gray band. shares: name ->
    share of causal pairs kept; a name without one is labelled with its name alone.
    """
    labels = [
        f"{name} ({_percent(shares[name])} of pairs)" if name in shares else name
        for name in rows
    ]
    plot = dots_of(rows, labels, "bits per byte", next(iter(rows)), "pattern")
    plot.axes[0].set_xlabel("bits per byte on validation text, lower is better")
    return plot


@styled
def time_by_share(
    points: dict[str, list[tuple[float, Ratio]]], device: str, causal: float = 0.5
) -> Plot:
    """Time relative to the fused causal call, against the share of blocks listed.

    points: family -> (share of the square's blocks, Ratio of times). causal: the share
    that causal attention lists; from there at 1, time in proportion to blocks would
    follow the dashed line.
    """
    plot = Plot(height=3.9)
    ax = plot.add_subplot()
    taken = [point for family in points.values() for point in family]
    shares = [share for share, _ in taken] + [causal]
    for (name, family), (color, marker) in zip(
        points.items(), LOOKS * len(points), strict=False
    ):
        family = sorted(family, key=lambda point: point[0])
        x, y = [share for share, _ in family], [ratio.value for _, ratio in family]
        around = [
            [r.value - r.low for _, r in family],
            [r.high - r.value for _, r in family],
        ]
        ax.errorbar(x, y, around, fmt=f"{marker}-", color=color, capsize=3, label=name)
    line = np.array([min(shares), max(shares)])
    ax.plot(line, line / causal, "--", color=INK, lw=1.2, label="in proportion")
    ax.axhline(1, color=INK, lw=1)
    ax.plot(causal, 1, "*", color=INK, ms=11, label=f"fused causal, {causal:.1%}")
    ax.set(xscale="log", yscale="log", xlabel="share of the square's blocks listed")
    ax.set_ylabel("time, fused causal = 1")
    _percent_axis(ax.xaxis, shares)
    low, high = ax.get_ylim()
    steps = [n * 10.0**power for power in range(-3, 3) for n in (1, 2, 5)]
    ax.set_yticks([s for s in steps if low <= s <= high])
    ax.set_yticks([], minor=True)
    ax.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    handles, labels = ax.get_legend_handles_labels()
    families = [labels.index(name) for name in points]
    order = families + [i for i in range(len(labels)) if i not in families]
    ax.legend([handles[i] for i in order], [labels[i] for i in order])
    name, (share, ratio) = min(
        ((name, point) for name, family in points.items() for point in family),
        key=lambda found: found[1][1].value,
    )
    finding = f"Fastest: {name}, {_percent(share)} of the blocks in {ratio.value:.2f}"
    headline(plot, f"{finding} of the time")
    slower = sum(r.low > 1 for _, r in taken)
    said = "; ".join(
        f"{name} "
        + ", ".join(
            f"{r.value:.2f} at {_percent(s)}"
            for s, r in sorted(family, key=lambda p: p[0])
        )
        for name, family in points.items()
    )
    return plot.describe(
        caption=f"{finding} of fused causal attention's time on {device}, where "
        f"proportion would say {share / causal:.2f}. Slower than fused causal: "
        f"{slower} of {len(taken)}.",
        alt=f"Lines of relative time against the share of blocks, log axes: {said}.",
    )
