"""Figures of runs repeated with other seeds: every run a dot, every mean a bar."""

from collections.abc import Sequence

import numpy as np

from sparse_attn.checks import check_choice
from sparse_attn.figures.patterns import headline
from sparse_attn.figures.rest import RESTS
from sparse_attn.figures.style import BLUE, GREEN, INK, ORANGE, PALE, Plot, styled


@styled
def seed_dots(groups: dict[str, list[float]], label: str, reference: str) -> Plot:
    """name -> the value of each seed, lower being better; the mean at the right.

    label: what the values are. reference: the name whose seeds span the gray band.
    Raises ValueError for a reference that is not among the names.
    """
    check_choice("reference", reference, groups)
    plot = dots_of(groups, list(groups), label, reference, "row")
    ax = plot.axes[0]
    for y, values in enumerate(groups.values()):
        ax.annotate(f"{np.mean(values):.3f}", (1, y), (6, 0), va="center", fontsize=9,
                    xycoords=ax.get_yaxis_transform(), textcoords="offset points",
                    annotation_clip=False)  # fmt: skip
    return plot


def dots_of(
    groups: dict[str, list[float]],
    names: Sequence[str],
    label: str,
    reference: str,
    row: str,
) -> Plot:
    """The drawing and what it says; `names` are written beside the rows, `row` is what
    one of them is called."""
    plot = Plot(height=1.1 + 0.36 * len(groups))
    ax = plot.add_subplot()
    base = groups[reference]
    mean = float(np.mean(base))
    ax.axvspan(min(base), max(base), color=PALE, lw=0)
    ax.axvline(mean, color=INK, lw=1)
    for y, reached in enumerate(groups.values()):
        ax.plot(reached, [y] * len(reached), "o", color=BLUE, alpha=0.75)
        ax.plot(np.mean(reached), y, "|", color=ORANGE, ms=16, mew=2.5)
    ax.set_yticks(range(len(groups)), names)
    ax.margins(y=0.5 / len(groups))
    ax.invert_yaxis()
    ax.set_xlabel(f"{label}, lower is better")
    gaps = {name: float(np.mean(x)) - mean for name, x in groups.items()}
    del gaps[reference]
    best, worst = min(gaps, key=gaps.get), max(gaps, key=gaps.get)
    finding = f"Best: {best} ({gaps[best]:+.3f}), worst: {worst} ({gaps[worst]:+.3f})"
    headline(plot, finding)
    said = "; ".join(
        f"{name} {np.mean(x):.3f}"
        for name, x in zip(names, groups.values(), strict=True)
    )
    return plot.describe(
        caption=f"{finding}, against a mean of {mean:.3f} for {reference}. Dots are "
        f"seeds, bars means; the gray band spans the seeds of {reference}.",
        alt=f"Dots per {row}, mean {label}: {said}.",
    )


@styled
def by_length(found: dict[tuple[int, int, str], list[float]]) -> Plot:
    """What indexers fitted at one length lose when they read texts of another.

    found: (fitted, read, rest) -> change in bits per byte of each seed; rests "none"
    and "pooled", a panel each, whose axes differ.
    """
    fits, reads = (sorted({key[i] for key in found}) for i in (0, 1))
    rests = [rest for rest in RESTS if any(key[2] == rest for key in found)]
    means = {key: float(np.mean(values)) for key, values in found.items()}
    ends = [means[fitted, reads[-1], rests[-1]] for fitted in (fits[0], fits[-1])]
    finding = (
        f"Read at {reads[-1]}, rest {RESTS[rests[-1]][0]}: fitted at {fits[0]} "
        f"{ends[0]:+.3f}, at {fits[-1]} {ends[1]:+.3f}"
    )
    plot = Plot(height=3.6)
    headline(plot, finding)
    for ax, rest in zip(
        plot.subplots(1, len(rests), squeeze=False)[0], rests, strict=True
    ):
        for i, (fitted, color) in enumerate(
            zip(fits, (ORANGE, BLUE, GREEN), strict=False)
        ):
            for x, read in enumerate(reads):
                if (fitted, read, rest) not in found:
                    continue
                at = x + 0.3 * (i - (len(fits) - 1) / 2)
                values = found[fitted, read, rest]
                ax.plot([at] * len(values), values, "o", color=color, alpha=0.75,
                        label=f"fitted at {fitted}" if x == 0 else None)  # fmt: skip
                ax.plot(at, np.mean(values), "_", color=INK, ms=16, mew=2)
        ax.axhline(0, color=INK, lw=0.8)
        ax.set_xticks(range(len(reads)), map(str, reads))
        ax.set(xlim=(-0.5, len(reads) - 0.5), xlabel="tokens of the texts read")
        ax.set_title(f"rest {RESTS[rest][0]}", fontsize=10)
        ax.grid(axis="x", visible=False)
    plot.axes[0].set_ylabel("change in bits per byte")
    plot.axes[0].legend(loc="upper left")
    said = "; ".join(
        f"fitted at {fitted}, read at {read}, {RESTS[rest][0]} {mean:+.3f}"
        for (fitted, read, rest), mean in means.items()
    )
    return plot.describe(
        caption=f"{finding}. Change in bits per byte: a dot for each seed, a bar for "
        "their mean.",
        alt=f"Dots of seeds and bars of means for each length, {len(rests)} panels. "
        f"Means: {said}.",
    )
