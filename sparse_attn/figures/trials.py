"""Figures of trials on the same seeds: each way's differences to the standard one.

Knows lists of numbers and their intervals; leaves plans to `frequency`.
"""

from collections.abc import Mapping, Sequence

from matplotlib.ticker import MaxNLocator

from sparse_attn.checks import check_finite
from sparse_attn.figures.patterns import LOOKS
from sparse_attn.figures.speed import NARROW, SIZE, legend_below, write_title
from sparse_attn.figures.style import BLUE, GREEN, INK, ORANGE, PALE, Plot, styled
from sparse_attn.stats import mean_interval
from sparse_attn.units import plain, three

BAND_LOOKS = ((BLUE, "o"), (GREEN, "^"), (ORANGE, "s"), *LOOKS[3:])


@styled
def paired_trials(
    groups: Mapping[str, Mapping[str, Sequence[float]]], matters: float, label: str
) -> Plot:
    """Differences of each seed, their mean and its 95% interval: a panel per language.

    groups: language -> {way: [difference of each seed]}, in nats, lower being better;
    the title names the first way. matters: half the width of the pale band. label: what
    the differences are. Panels have axes of their own.
    Raises ValueError for languages without the same ways, or fewer than two seeds.
    """
    check_finite("matters", matters)
    ways = list(next(iter(groups.values()), {}))
    for language, found in groups.items():
        if list(found) != ways or not ways:
            raise ValueError(
                f"groups[{language!r}] has {list(found)}: the same ways in every "
                f"language are needed, as {ways}"
            )
    plot = Plot(height=1.1 + len(groups) * (0.55 + 0.29 * len(ways)), width=NARROW)
    axes, said = plot.subplots(len(groups), 1, squeeze=False)[:, 0], {}
    for ax, (language, found) in zip(axes, groups.items(), strict=True):
        ax.axvspan(-matters, matters, color=PALE, lw=0, zorder=0)
        ax.axvline(0, color=INK, lw=1, zorder=1)
        for y, (way, values) in enumerate(found.items()):
            mean, half = mean_interval(values)
            said[language, way] = text = _within(mean, half)
            ax.plot(values, [y - 0.16] * len(values), "o", ms=5, color=BLUE, alpha=0.7)
            ax.hlines(y + 0.2, mean - half, mean + half, color=ORANGE, lw=2)
            ax.plot(mean, y + 0.2, "D", ms=5.5, color=ORANGE)
            ax.annotate(text, (1, y), (8, 0), va="center", fontsize=9.5,
                        xycoords=ax.get_yaxis_transform(), annotation_clip=False,
                        textcoords="offset points")  # fmt: skip
        ax.set_yticks(range(len(ways)), ways)
        ax.set_ylim(len(ways) - 0.4, -0.6)
        ax.set_title(language, fontsize=10, pad=5)
        _few(ax.xaxis)
        ax.grid(axis="y", visible=False)
    axes[-1].set_xlabel(f"{label}, lower is better")
    finding = f"{ways[0]}: " + "; ".join(
        f"{language} {said[language, ways[0]]}" for language in groups
    )
    write_title(plot, finding)
    spoken = "; ".join(f"{where}, {way}: {text}" for (where, way), text in said.items())
    return plot.describe(
        caption=f"{finding}. Dots are seeds, diamonds means with 95% intervals; inside "
        f"the band, ± {matters:g}, no difference matters.",
        alt=f"{len(groups)} panels, a row of dots and an interval for each way. Mean "
        f"{label}: {spoken}.",
    )


@styled
def by_band(
    found: Mapping[str, Sequence[Sequence[float]]], names: Sequence[str]
) -> Plot:
    """Where a way gains or loses: mean difference and 95% interval for each band.

    found: way -> a list for each seed of a difference in nats for each band, lower
    being better. names: of the bands. Raises ValueError where they do not fit.
    """
    intervals = {}
    for way, runs in found.items():
        for run in runs:
            if len(run) != len(names):
                raise ValueError(
                    f"found[{way!r}] has a seed of {len(run)} values: {len(names)} are "
                    "needed, one for each of names"
                )
        for i, name in enumerate(names):
            intervals[way, name] = mean_interval(run[i] for run in runs)
    plot = Plot(height=1.3 + 0.2 * len(found) * (len(names) + 0.6), width=NARROW)
    ax = plot.add_subplot()
    ax.axvline(0, color=INK, lw=1, zorder=1)
    step = 1 / (len(names) + 0.6)
    for y, way in enumerate(found):
        for i, (name, look) in enumerate(zip(names, BAND_LOOKS, strict=False)):
            color, marker = look
            mean, half = intervals[way, name]
            at = y + step * (i - (len(names) - 1) / 2)
            ax.hlines(at, mean - half, mean + half, color=color, lw=2)
            ax.plot(mean, at, marker, ls="", ms=6, color=color,
                    label=f"_{name}" if y else name)  # fmt: skip
        if y:
            ax.axhline(y - 0.5, color=PALE, lw=1)
    ax.set_yticks(range(len(found)), list(found))
    ax.set_ylim(len(found) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    _few(ax.xaxis)
    ax.margins(x=0.08)
    ax.set_xlabel("nats more than the standard, lower is better")
    plot.legend(loc="outside lower left", ncols=len(names), fontsize=SIZE)
    largest = max(intervals, key=lambda pair: abs(intervals[pair][0]))
    finding = (
        f"Largest: {largest[0]}, {largest[1]} tokens, {_within(*intervals[largest])}"
    )
    write_title(plot, finding)
    clear = sum(abs(mean) > half for mean, half in intervals.values())
    spoken = "; ".join(
        f"{way}: "
        + ", ".join(f"{name} {_within(*intervals[way, name])}" for name in names)
        for way in found
    )
    return plot.describe(
        caption=f"{finding} nats. Of {len(intervals)} intervals, 95% each, {clear} "
        f"{'leaves' if clear == 1 else 'leave'} out 0.",
        alt=f"Marks with intervals for {', '.join(names)} tokens, grouped by way. "
        f"{spoken}.",
    )


@styled
def leak_curve(
    steps: Sequence[int],
    losses: Mapping[str, Sequence[float]],
    floor: float,
    leak_floor: float,
) -> Plot:
    """Losses in nats against steps, with the floors of honest and of leaking models.

    losses: name -> one number for each of steps; the title names the first. floor: the
    entropy of the text; leak_floor: the least loss of a model that sees what it should
    not. Raises ValueError for lists of other lengths.
    """
    for name, values in losses.items():
        if len(values) != len(steps):
            raise ValueError(
                f"losses[{name!r}] has {len(values)} values: {len(steps)} are needed, "
                "one for each of steps"
            )
    plot = Plot(height=4.2, width=NARROW)
    ax = plot.add_subplot()
    for (name, values), (color, _) in zip(
        losses.items(), (LOOKS[1], LOOKS[0], *LOOKS[2:]), strict=False
    ):
        ax.plot(steps, values, color=color, label=name)
        ax.plot(steps[-1], values[-1], "o", color=color, ms=7, mec="white", zorder=4)
    ax.axhline(floor, color=INK, lw=1.4, zorder=1,
               label=f"entropy, {floor:.3f}: no honest model gets below")  # fmt: skip
    ax.axhline(leak_floor, color=INK, lw=1.4, ls="--", zorder=1,
               label=f"floor of a model with the leak: {leak_floor:.3f}")  # fmt: skip
    highest = max(floor, *(max(values) for values in losses.values()))
    ax.set_ylim(min(0, leak_floor) - 0.04 * highest, 1.05 * highest)
    ax.set_xlim(min(steps), steps[-1] + 0.02 * (steps[-1] - min(steps)))
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    ax.set(xlabel="steps", ylabel="nats per token")
    legend_below(ax)
    (name, first), *others = losses.items()
    after = f"after {plain(steps[-1])} steps"
    finding = (
        f"{name}: {three(first[-1])} nats {after}, {_from_floor(first[-1], floor)} "
        f"the floor of {floor:.3f}"
    )
    write_title(plot, finding)
    rest = [f" {other}: {three(values[-1])}, {_from_floor(values[-1], floor)} it."
            for other, values in others]  # fmt: skip
    spoken = "; ".join(f"{other} from {three(values[0])} to {three(values[-1])}"
                       for other, values in losses.items())  # fmt: skip
    return plot.describe(
        caption=f"{finding}.{''.join(rest)} With the leak the floor is "
        f"{leak_floor:.3f}.",
        alt=f"Lines of loss over {plain(steps[-1])} steps, horizontal ones at "
        f"{floor:.3f} and {leak_floor:.3f}. {spoken}.",
    )


def _from_floor(loss: float, floor: float) -> str:
    return f"{three(abs(loss - floor))} {'below' if loss < floor else 'above'}"


@styled
def signs_by_seed(differences: Sequence[float], label: str) -> Plot:
    """A dot for each seed, in order of value: which embedding it would favor alone.

    differences: bespoke minus standard, so that above 0 the bespoke one is worse.
    label: what they are. Raises ValueError for fewer than two.
    """
    mean, half = mean_interval(differences)
    ordered, n = sorted(differences), len(differences)
    plot = Plot(height=3.6, width=NARROW)
    ax = plot.add_subplot()
    sides = {"bespoke better": (BLUE, "o", -1), "standard better": (ORANGE, "s", 1)}
    count = {}
    for name, (color, marker, sign) in sides.items():
        x = [i for i, value in enumerate(ordered) if sign * value > 0]
        y = [ordered[i] for i in x]
        count[name] = len(x)
        ax.vlines(x, 0, y, color=color, lw=1.6)
        ax.plot(x, y, marker, color=color, ms=7, label=f"{name}: {len(x)}")
    ties = [i for i, value in enumerate(ordered) if value == 0]
    ax.plot(ties, [0] * len(ties), "D", color=INK, ms=6)
    at = 1.05 * n + 0.2
    ax.vlines(at, mean - half, mean + half, color=INK, lw=2)
    ax.plot(at, mean, "_", color=INK, ms=14, mew=2.5, label="mean and 95% interval")
    ax.axhline(0, color=INK, lw=1)
    ax.set(xticks=[], xlim=(-0.8, 1.1 * n + 1), xlabel="seeds, in order", ylabel=label)
    ax.margins(y=0.1)
    _few(ax.yaxis)
    legend_below(ax)
    standard, bespoke = count["standard better"], count["bespoke better"]
    finding = (
        f"{standard} of {n} seeds {'favors' if standard == 1 else 'favor'} the "
        f"standard embedding, {bespoke} the bespoke one"
        + f", {len(ties)} neither"
        * bool(ties)
    )
    write_title(plot, finding)
    lone = f"from {_signed(ordered[0])} to {_signed(ordered[-1])}"
    return plot.describe(
        caption=f"{finding}. One seed alone says anything {lone}; their mean is "
        f"{_within(mean, half)}, {label}.",
        alt=f"{n} dots on stems from a line at 0, rising {lone}: {bespoke} below it, "
        f"{standard} above. Beside them the mean, {_within(mean, half)}.",
    )


def _signed(x: float) -> str:
    return f"{x:+.4f}" if abs(x) < 1 else f"{x:+.2f}"


def _within(mean: float, half: float) -> str:
    digits = 4 if max(abs(mean), half) < 1 else 2
    return f"{mean:+.{digits}f} ± {half:.{digits}f}"


def _few(axis):
    """At most six ticks, at numbers that are short."""
    axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(lambda x, _: f"{x:.4g}")
