"""Figures of what attention moves between slow and fast memory, by order of loops."""

import numpy as np

from sparse_attn import cost
from sparse_attn.figures.style import (
    BLUE,
    GREEN,
    ORANGE,
    Plot,
    power_of_two_axis,
    styled,
)
from sparse_attn.units import plain, three


@styled
def tile_traffic(N: int, M: int, D: int = 64) -> Plot:
    """Elements read and written for N tokens: plain, and both orders of loops.

    Tiles by the paper's rule for M elements of fast memory, N rows at most.
    """
    block_q, block_k = (min(b, N) for b in cost.flash_blocks(M, D))
    rows = {
        "plain": cost.naive_elements(N, D),
        "outer keys": cost.outer_kv_elements(N, D, block_q, block_k),
        "outer queries": cost.outer_q_elements(N, D, block_q, block_k),
    }
    base = rows["plain"].moved
    said = ", ".join(
        f"{name} {three(n.moved / base)}x"
        for name, n in rows.items()
        if name != "plain"
    )
    longest = max(n.moved for n in rows.values())
    plot = Plot(height=2.5)
    ax = plot.add_subplot()
    for name, n in rows.items():
        ax.barh(name, n.read, 0.6, color=BLUE)
        ax.barh(name, n.written, 0.6, left=n.read, color=ORANGE)
        ax.text(n.moved + 0.01 * longest, name, _short(n.moved), va="center")
    for color, label in ((BLUE, "read"), (ORANGE, "written")):
        ax.plot([], [], "s", color=color, label=label)
    ax.set(xlim=(0, 1.15 * longest), xlabel="elements moved, one head")
    ax.xaxis.set_major_formatter(lambda x, _: _short(x))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.legend(ncols=2, loc="lower left", bbox_to_anchor=(-0.01, 1.0))
    finding = f"N = {N:,}, M = {M:,}: {said} of plain"
    plot.suptitle(finding, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return plot.describe(
        caption=f"{finding}, which moves {base:,}. D = {D}, tiles of {block_q} queries "
        f"by {block_k} keys.",
        alt="Bars of elements read and written: "
        + "; ".join(
            f"{name} {n.read:,} read, {n.written:,} written" for name, n in rows.items()
        )
        + f". {finding}.",
    )


def _short(n: float) -> str:
    unit, scale = next(
        ((u, s) for u, s in (("G", 1e9), ("M", 1e6), ("k", 1e3)) if n >= s), ("", 1)
    )
    return f"{n / scale:.3g}{unit}"


@styled
def traffic_scaling(counted: dict[str, tuple[list, dict[str, list]]]) -> Plot:
    """Elements moved against M, N, D: axis -> (values, name -> elements), log axes.

    A line is the fitted power of the axis, its slope on log axes: 2 is quadratic.
    """
    plot = Plot(height=3.8)
    axes = plot.subplots(1, len(counted), sharey=True, squeeze=False)[0]
    slopes: dict[str, list[str]] = {}
    for ax, (axis, (values, series)) in zip(axes, counted.items(), strict=True):
        looks = zip(series.items(), (ORANGE, BLUE, GREEN), "osD", strict=False)
        for (name, moved), color, marker in looks:
            x = np.log(values)
            line = np.polynomial.Polynomial.fit(x, np.log(moved), 1)
            slope = f"{line.convert().coef[1]:.1f}".replace("-0.0", "0.0")
            slopes.setdefault(name, []).append(f"{axis} {slope}")
            ax.plot(values, np.exp(line(x)), color=color, lw=1)
            ax.plot(values, moved, marker, color=color, label=f"{name}, slope {slope}")
        ax.set(xscale="log", yscale="log")
        power_of_two_axis(ax.xaxis, [values[0], values[-1]], axis)
        ax.legend(loc="upper left", bbox_to_anchor=(-0.1, -0.2), fontsize=8,
                  handletextpad=0.2)  # fmt: skip
    axes[0].set_ylabel("elements moved")
    axes[0].yaxis.set_major_formatter(lambda y, _: _short(y))
    axes[0].yaxis.set_minor_formatter(lambda y, _: "")
    rows = [f"{name}: {', '.join(each)}" for name, each in slopes.items()]
    said = "; ".join(rows)
    title = f"Slopes of {said}" if len(said) < 62 else "Slopes of " + "\n".join(rows)
    plot.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    ranges = ", ".join(
        f"{axis} {plain(v[0])} to {plain(v[-1])}" for axis, (v, _) in counted.items()
    )
    return plot.describe(
        caption=f"Elements moved, fitted slopes on log axes: {said}.",
        alt=f"Panels of elements moved against {ranges}, log axes. Slopes: {said}.",
    )
