"""Figures of the top-K / MLP method: which keys it picks, and what is lost by them."""

import numpy as np
from matplotlib.ticker import MaxNLocator

from sparse_attn import topk
from sparse_attn.checks import check_choice
from sparse_attn.figures.patterns import headline
from sparse_attn.figures.style import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PALE,
    PINK,
    SKY,
    Plot,
    power_of_two_axis,
    styled,
)


@styled
def picked_keys(weights: np.ndarray, picks: dict[str, np.ndarray]) -> Plot:
    """The keys that two choosers pick, over the teacher's weights of one window.

    weights: (T, T); picks: name -> (T, K) indices. Picks of the future are orange.
    """
    T = len(weights)
    t = np.arange(T)[:, None]
    ahead = {name: float((index > t).mean()) for name, index in picks.items()}
    mass = {
        name: float(np.take_along_axis(weights, index, 1).sum(1).mean())
        for name, index in picks.items()
    }
    columns = {name: len(np.unique(index)) for name, index in picks.items()}
    finding = "Mass kept: " + ", ".join(f"{name} {x:.0%}" for name, x in mass.items())

    plot = Plot(height=4.1)
    for ax, (name, index) in zip(
        plot.subplots(1, len(picks), sharey=True, squeeze=False)[0],
        picks.items(),
        strict=True,
    ):
        ax.imshow(weights**0.5, cmap="Greys", vmin=0, vmax=1.6, origin="upper")
        rows = np.broadcast_to(t, index.shape)
        for chosen, color in ((index <= t, BLUE), (index > t, ORANGE)):
            ax.plot(index[chosen], rows[chosen], "s", color=color, ms=2.6, ls="none")
        ax.plot([-0.5, T - 0.5], [-0.5, T - 0.5], color=INK, lw=0.8)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.set(xlabel="key", xlim=(-0.5, T - 0.5), ylim=(T - 0.5, -0.5))
        ax.set_title(f"{name}, {ahead[name]:.0%} ahead", fontsize=10)
        ax.grid(False)
    plot.axes[0].set_ylabel("query")
    headline(plot, finding)
    said = "; ".join(
        f"{name}: mass {mass[name]:.2f}, {ahead[name]:.0%} ahead, "
        f"{columns[name]} of {T} positions ever picked"
        for name in picks
    )
    return plot.describe(
        caption=f"Picks of each query in one window. {said}.",
        alt="Squares of queries by keys, shaded by the teacher's weight, with a mark "
        f"for each pick, blue in the past and orange in the future. {said}.",
    )


_GROUPS = (BLUE, GREEN, INK, ORANGE, PINK, SKY)


@styled
def stand_in_errors(groups: dict[str, dict[str, float]], floor: str) -> Plot:
    """Relative error of the logits: group -> row -> error; `floor` is one of the rows.

    The floor's error is drawn as a line through all: what is to its right is worse.
    """
    rows = [(group, row, x) for group, of in groups.items() for row, x in of.items()]
    errors = {row: x for _, row, x in rows}
    check_choice("floor", floor, errors)
    line = errors[floor]
    worse = [row for row, x in errors.items() if x > line]
    best = min(errors, key=errors.get)
    finding = f"{len(worse)} of {len(rows) - 1} do worse than “{floor}”"

    plot = Plot(height=1.0 + 0.29 * len(rows))
    ax = plot.add_subplot(title=finding)
    colors = dict(zip(groups, _GROUPS, strict=False))
    for y, (group, _, x) in enumerate(rows):
        ax.barh(y, x, color=colors[group], height=0.62)
        ax.text(x + 0.01, y, f"{x:.2f}", va="center", fontsize=9, zorder=4,
                bbox=dict(fc="white", ec="none", pad=1))  # fmt: skip
    ax.axvline(line, color=INK, lw=1.2, ls="--")
    ax.set_yticks(range(len(rows)), [row for _, row, _ in rows], fontsize=9)
    ax.set(ylim=(len(rows) - 0.4, -0.6), xlim=(0, 1.12 * max(errors.values())))
    ax.set_xlabel("relative error of the logits")
    ax.grid(axis="y", visible=False)
    handles = [ax.barh(0, 0, color=colors[group]) for group in groups]
    ax.legend(handles, groups, loc="center left", bbox_to_anchor=(1.0, 0.5))
    said = "; ".join(f"{row} {x:.2f}" for _, row, x in rows)
    return plot.describe(
        caption=f"{finding} ({line:.2f}). Best: {best}, {errors[best]:.2f}.",
        alt=f"Bars of the logits' relative error with a line at {line:.2f}. {said}.",
    )


KS = (1, 2, 4, 8, 16, 32, 64)
TOP = 1.25  # of the axis: larger errors are not shown


@styled
def approximation_error(K: int, spread: float, T: int = 64) -> Plot:
    """What can be known from the K heaviest of T keys, in three states of knowledge.

    Logits are normal with deviation `spread`, values independent of them.
    """
    kept = [n for n in KS if n <= T]

    def blind(ordered: bool) -> list[float]:
        how = dict(ordered=ordered, T=T, spread=spread)
        return [topk.values_only_error(n, **how) for n in kept]

    ways = {
        "values, in no order": (ORANGE, blind(ordered=False)),
        "values, in order": (PINK, blind(ordered=True)),
        "exact softmax of them": (
            BLUE,
            [topk.exact_topk_error(n, T, spread=spread) for n in kept],
        ),
    }
    at = {name: errors[kept.index(K)] for name, (_, errors) in ways.items()}
    worst, best = at["values, in no order"], at["exact softmax of them"]
    finding = f"{K} of {T} keys: {worst:.2f} by values alone, {best:.2f} by softmax"
    plot = Plot(height=3.4)
    ax = plot.add_subplot(title=finding)
    for name, (color, errors) in ways.items():
        ax.plot(kept, errors, "o-", color=color, ms=4, label=name)
        if at[name] < TOP:  # one that is not clipped would push the axes away
            ax.plot(K, at[name], "o", color=color, ms=10, mec="white", clip_on=False)
    ax.axvline(K, color=PALE, lw=6, zorder=0)
    ax.axhline(1, color=INK, lw=1, ls="--", label="zeros")
    ax.set(xscale="log", ylim=(0, TOP), ylabel="least relative error")
    power_of_two_axis(ax.xaxis, kept, "keys picked, by an oracle, K")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    said = "; ".join(f"{name} {x:.3f}" for name, x in at.items())
    return plot.describe(
        caption=f"K = {K} of {T}, logits of deviation {spread:g}. Least error: {said}.",
        alt=f"Error against K for three states of knowledge, K = {K} marked: {said}. "
        "A dashed line at 1 for zeros.",
    )
