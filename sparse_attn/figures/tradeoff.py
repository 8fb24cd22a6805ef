"""Figures of the trade: bits per byte lost against the time that is left.

Knows points with names and families, and finds room for their labels; leaves lines by
length to `speed`.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from sparse_attn.checks import check_choice
from sparse_attn.figures.speed import NARROW, few_ticks, legend_below, write_title
from sparse_attn.figures.style import BLUE, GREEN, INK, ORANGE, Plot, styled

FAMILIES = {  # name -> color, marker, filled where the rest is pooled
    "blocks": (BLUE, "o", False),
    "blocks, pooled": (BLUE, "o", True),
    "window": (ORANGE, "s", False),
    "window, pooled": (ORANGE, "s", True),
    "each query": (GREEN, "^", True),
}


@styled
def time_and_quality(
    points: Sequence[tuple[str, float, float, float, str]], full: float
) -> Plot:
    """Bits per byte lost against time: what speed each way of selecting leaves.

    points: (name, time, change, half of its 95% interval, family of FAMILIES); full:
    the time of full attention in the same unit, 1 for shares.
    Raises ValueError for another family.
    """
    for *_, family in points:
        check_choice("family", family, FAMILIES)
    plot = Plot(height=5.0, width=NARROW)
    ax = plot.add_subplot()
    ax.axhline(0, color=INK, lw=1)
    ax.axvline(1, color=INK, lw=1)
    ax.plot(1, 0, "*", color=INK, ms=15, zorder=4)
    named = [("full attention", 1.0, 0.0, 0.0)]
    for name, time, change, half, family in points:
        color, marker, filled = FAMILIES[family]
        ax.errorbar(time / full, change, half, color=color, marker=marker,
                    mfc=color if filled else "white", ms=7, lw=1)  # fmt: skip
        named.append((name, time / full, change, half))
    shares = sorted(share for _, share, *_ in named)
    ax.set(xscale="log", ylabel="bits per byte lost")
    span = max(shares[-1] / shares[0], 2)
    ax.set_xlim(shares[0] / span**0.16, shares[-1] * span**0.2)
    ax.margins(y=0.12)
    few_ticks(ax.xaxis, *ax.get_xlim(), lambda x, _: f"{100 * x:g}%")
    ax.set_xlabel("time, full attention = 100%")
    seen = {family for *_, family in points}
    handles = [
        Line2D([], [], color=color, marker=marker, mfc=color if filled else "white",
               ls="", ms=7, label=family)
        for family, (color, marker, filled) in FAMILIES.items()
        if family in seen
    ]  # fmt: skip
    legend_below(ax, handles)
    faster = [p for p in points if p[1] < full] or points
    least, fastest = min(faster, key=lambda p: p[2]), min(faster, key=lambda p: p[1])
    ends = {"least lost": least, "fastest": fastest}
    if least is fastest:
        ends = {"least lost and fastest": least}
    finding = "; ".join(
        f"{which}: {_full_name(p)}, {p[1] / full:.0%} of the time, {p[2]:+.3f}"
        for which, p in ends.items()
    )
    finding = finding[0].upper() + finding[1:]
    write_title(plot, finding)
    _name_points(plot, ax, named)
    spoken = "; ".join(
        f"{_full_name(p)} {p[1] / full:.0%} {p[2]:+.3f} ± {p[3]:.3f}" for p in points
    )
    return plot.describe(
        caption=f"{finding} bits per byte. Bars: 95% intervals.",
        alt=f"Dots by time, log axis, and bits per byte lost; a star where full "
        f"attention is. {spoken}.",
    )


def _full_name(point) -> str:
    """Its name, with its family unless the name begins with it."""
    name, *_, family = point
    kind, _, rest = family.partition(", ")
    said = name if name.startswith(kind) else f"{kind} {name}"
    return said if not rest or rest in said else f"{said}, {rest}"


def _name_points(plot: Plot, ax, named: Sequence[tuple[str, float, float, float]]):
    """A label near each point, at the first place that is free; the further ones with
    a line. named: (name, x, y, half of the bar through it)."""
    for _ in range(2):  # places are in pixels: the axes must have theirs
        plot.draw_without_rendering()
    renderer, points = plot.canvas.get_renderer(), 72 / plot.dpi
    place = ax.transData.transform
    at = [place((x, y)) for _, x, y, _ in named]
    (x, y), *_ = at  # of full attention, where two lines cross
    taken = [Bbox.from_bounds(ax.bbox.x0, y - 2, ax.bbox.width, 4)]
    taken.append(Bbox.from_bounds(x - 2, ax.bbox.y0, 4, ax.bbox.height))
    taken += [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in at]
    taken += [Bbox([place((x, y - bar)), place((x, y + bar))]).padded(1)
              for _, x, y, bar in named]  # fmt: skip
    labels = sorted(zip(named, at, strict=True), key=lambda pair: -pair[1][1])
    for (name, *point, _), spot in labels:  # from the top, or lines would cross
        label = ax.annotate(name, point, (0, 0), textcoords="offset points",
                            fontsize=10, va="bottom")  # fmt: skip
        label.set_in_layout(False)
        size = label.get_window_extent(renderer).size
        shift, box, far = _free(spot, size, taken, ax.bbox)
        label.set_position(shift * points)
        taken.append(box)
        if far:
            near = np.clip(spot, box.p0, box.p1) - spot  # where the label is nearest
            ax.annotate("", point, near * points, textcoords="offset points",
                        arrowprops=dict(arrowstyle="-", color=INK, lw=0.6, shrinkA=0,
                                        shrinkB=4)).set_in_layout(False)  # fmt: skip


def _free(place, size, taken: list, frame: Bbox):
    """(offset in pixels, box, whether it is far) of the nearest free place."""
    (x, y), (w, h) = place, size
    for r in range(8, 240, 6):
        near = 0.7 * r
        across = ((r, 0.5), (near, 1), (near, -1), (-r - w, 0.5), (-near - w, 1),
                  (-near - w, -1), (-w / 2, 1), (-w / 2, -1))  # fmt: skip
        for dx, side in across:
            dy = -h / 2 if side == 0.5 else near if side > 0 else -near - h
            box = Bbox.from_bounds(x + dx, y + dy, w, h)
            inside = all(frame.contains(*corner) for corner in (box.p0, box.p1))
            if inside and not any(box.padded(2).overlaps(other) for other in taken):
                return np.array([dx, dy]), box, r > 14
    return np.array([8, -h / 2]), Bbox.from_bounds(x + 8, y - h / 2, w, h), False
