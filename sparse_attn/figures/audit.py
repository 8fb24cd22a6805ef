"""Figures of an audit: how many claims hold, and how far printed numbers are off."""

from collections.abc import Mapping, Sequence

import numpy as np

from sparse_attn.figures.style import (
    AMBER,
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PALE,
    Plot,
    styled,
)

COLORS = {
    "correct": GREEN,
    "misleading": AMBER,
    "wrong": ORANGE,
    "depends on device": BLUE,
    "cannot be checked": PALE,
}
DARK = ("wrong", "depends on device")  # bars on which white is read better than ink


@styled
def verdicts(counts: Mapping[str, Mapping[str, int]]) -> Plot:
    """A bar for each source: its claims by verdict. counts: source -> verdict -> n."""
    plot = Plot(height=1.3 + 0.5 * len(counts))
    ax = plot.add_subplot()
    names, left = list(counts), np.zeros(len(counts))
    for verdict, color in COLORS.items():
        n = np.array([counts[name].get(verdict, 0) for name in names])
        ax.barh(names, n, left=left, color=color, label=verdict)
        for y, (start, size) in enumerate(zip(left, n, strict=True)):
            if size:
                ink = "white" if verdict in DARK else INK
                ax.text(start + size / 2, y, size, color=ink, ha="center", va="center")
        left += n
    ax.invert_yaxis()
    ax.grid(visible=False)
    ax.spines["left"].set_visible(False)
    ax.tick_params(left=False)
    ax.set(xlabel="claims", xlim=(0, max(left.max(), 1)))
    plot.legend(loc="outside lower center", ncols=len(COLORS), handlelength=1)
    total, right = sum(left), sum(x.get("correct", 0) for x in counts.values())
    share = right / max(total, 1)
    ax.set_title(f"{right} of {total:.0f} claims are correct, {share:.0%}")
    said = "; ".join(
        f"{name}: " + ", ".join(f"{counts[name].get(v, 0)} {v}" for v in COLORS)
        for name in names
    )
    return plot.describe(
        caption=f"{right} of {total:.0f} claims are correct ({share:.0%}).",
        alt=f"Stacked bars, claims by verdict. {said}.",
    )


@styled
def factors_off(pairs: Sequence[tuple[str, float, float]], named: int = 6) -> Plot:
    """Printed over recomputed, on a log axis, from the smallest factor to the largest.

    pairs: (id, printed, ours), both of one sign and not 0. named: how many of the
    farthest off get their id.
    """
    pairs = sorted(pairs, key=lambda pair: pair[1] / pair[2])
    ids = [id for id, _, _ in pairs]
    factors = np.array([printed / ours for _, printed, ours in pairs])
    far = np.abs(np.log(factors))
    close = int((far <= np.log(1.05)).sum())
    plot = Plot(height=3.4)
    ax = plot.add_subplot()
    place = np.arange(len(ids))
    for mask, color, label in (
        (far <= np.log(1.05), GREEN, "within 5%"),
        (far > np.log(1.05), ORANGE, "farther off"),
    ):
        ax.plot(place[mask], factors[mask], "o", color=color, label=label, ms=5)
    ax.axhline(1, color=INK, lw=1)
    told = []
    for i in np.argsort(-far, kind="stable"):
        near = any(abs(np.log(factors[i] / factors[j])) < np.log(4) for j in told)
        if near or len(told) == named:  # dots beside each other would share a place
            continue
        told.append(i)
        above = factors[i] > 1
        ax.annotate(
            f"{ids[i]}, {_factor(factors[i])}",
            (place[i], factors[i]),
            (-6, 3) if above else (6, -3),  # away from the next dots
            ha="right" if above else "left",
            va="bottom" if above else "top",
            textcoords="offset points",
            fontsize=9,
        )
    top = max(float(np.exp(far.max(initial=0.0))), 2.0) ** 1.15
    ax.set(yscale="log", ylim=(1 / top, top), xticks=[], ylabel="printed / recomputed")
    ax.yaxis.set_major_formatter(lambda y, _: _factor(y))
    ax.set_xlabel("numbers, sorted by how far off they are")
    ax.legend(loc="upper left")
    worst = int(far.argmax())
    ax.set_title(f"{close} of {len(ids)} numbers are within 5% of ours")
    said = f"{ids[worst]} is farthest off, {_factor(factors[worst])} of ours"
    return plot.describe(
        caption=f"{close} of {len(ids)} printed numbers are within 5% of ours; {said}.",
        alt=f"Dots from the smallest factor, {_factor(factors[0])}, to the largest, "
        f"{_factor(factors[-1])}, on a log axis around the line of 1; {said}.",
    )


def _factor(x: float) -> str:
    """2.5 as "2.5x", 0.004 as "1/250"."""
    if x < 0.1:
        return f"1/{float(f'{1 / x:.3g}'):,.0f}"
    return f"{x:,.0f}x" if x >= 10 else f"{x:.3g}x"
