"""Figures of scale: promised ratios over the length, anything over many devices.

Knows closed forms of `cost` and lists of numbers; prices are in `serving`.
"""

from collections.abc import Mapping, Sequence

from sparse_attn import cost
from sparse_attn.checks import check_choice
from sparse_attn.figures.patterns import LOOKS, headline
from sparse_attn.figures.serving import GRID, LENGTHS, TICKS, mark
from sparse_attn.figures.style import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    Plot,
    power_of_two_axis,
    styled,
)
from sparse_attn.units import plain, seconds, size, three


@styled
def ratio_at_scale(
    T: int, K: int, hidden: int = 64, rank: int = 8, D: int = 128, block: int = 16
) -> Plot:
    """Full attention's FLOPs over those of a method: as printed, and all counted.

    Heads of width D; the published one over all pairs, the indexer causal and with a
    pooled rest, each against full attention over the same pairs.
    """

    def indexed(n: int) -> float:
        return 1 / sum(cost.indexed_shares(n, D, K, rank, block=block).values())

    lines = {
        "as printed: 2T/(K + 1)": (ORANGE, lambda n: cost.published_ratio(n, K)),
        f"rank {rank}, rest pooled": (GREEN, indexed),
        "as published, selector counted": (
            BLUE,
            lambda n: cost.topk_mlp_gain(n, D, hidden, K),
        ),
    }
    printed, found, counted = (ratio(T) for _, ratio in lines.values())
    limit = 2 * D / hidden
    finding = (
        f"T = {plain(T)}, K = {plain(K)}: printed {three(printed)}x, "
        f"counted {three(counted)}x"
    )
    plot = Plot(height=3.8)
    headline(plot, finding)
    ax = plot.add_subplot()
    lengths = [n for n in GRID if n >= K]
    for name, (color, ratio) in lines.items():
        ax.plot(lengths, [ratio(n) for n in lengths], color=color, label=name)
        ax.plot(T, ratio(T), "o", color=color, mec="white", zorder=4)
    ax.axhline(limit, color=BLUE, lw=1.2, ls="--", label=f"limit 2D/h = {three(limit)}")
    ax.axhline(1, color=INK, lw=1)
    mark(ax, T, 0.05, printed)
    ax.set(
        xscale="log",
        yscale="log",
        xlim=(LENGTHS[0], LENGTHS[-1]),
        ylim=(0.05, 3e5),
        ylabel="FLOPs, full over method",
    )
    ax.yaxis.set_major_formatter(lambda y, _: f"{plain(y)}x")
    power_of_two_axis(ax.xaxis, TICKS, "tokens T")
    ax.legend(loc="upper left")
    return plot.describe(
        caption=f"{finding}, and never {three(limit)}x. At rank {rank} with the rest "
        f"pooled {three(found)}x, causal. Heads of {D}, selector of {hidden} hidden.",
        alt="The printed ratio rises in proportion to T on log axes; that of the "
        f"published method levels off below {three(limit)}, that of rank {rank} below "
        f"{three(1 / (rank / (2 * D) + 1 / block))}. {finding}.",
    )


_SHOWN = {  # what -> (its format, the label of the axis)
    "bytes": (size, "bytes sent per rank and layer"),
    "seconds": (seconds, "seconds per layer"),
}


@styled
def by_devices(
    devices: Sequence[int], found: Mapping[str, Sequence[float]], what: str
) -> Plot:
    """Lines over the number of devices, log axes: name -> one number for each of them.

    what: "bytes" or "seconds". Zeros, as of one device that sends nothing, are left
    out. Raises ValueError for lists of other lengths.
    """
    check_choice("what", what, _SHOWN)
    for name, values in found.items():
        if len(values) != len(devices):
            raise ValueError(
                f"found[{name!r}] has {len(values)} values: {len(devices)} are needed, "
                "one for each of devices"
            )
    show, label = _SHOWN[what]
    plot = Plot(height=3.8)
    ax = plot.add_subplot()
    for i, ((name, values), (color, marker)) in enumerate(
        zip(found.items(), LOOKS, strict=False)
    ):
        x, y = zip(*((n, y) for n, y in zip(devices, values, strict=True) if y > 0),
                   strict=True)  # fmt: skip
        wide = max(1, 4 - i)  # the first shows around one that lies on it
        ax.plot(x, y, f"{marker}-", color=color, lw=wide, ms=4 + wide, label=name)
    ax.set(xscale="log", yscale="log", ylabel=label)
    ax.yaxis.set_major_formatter(show)
    ax.yaxis.set_minor_formatter(lambda *_: "")
    power_of_two_axis(ax.xaxis, _apart(devices), "devices")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    last = {name: values[-1] for name, values in found.items()}
    least = min(last, key=last.get)
    finding = f"{plain(devices[-1])} devices: {least} takes least, {show(last[least])}"
    headline(plot, finding)
    said = ", ".join(f"{name} {show(y)}" for name, y in last.items())
    spoken = "; ".join(
        f"{name} from {show(values[0])} to {show(values[-1])}"
        for name, values in found.items()
    )
    return plot.describe(
        caption=f"{label.capitalize()} on {plain(devices[-1])} devices: {said}.",
        alt=f"Lines against {plain(devices[0])} to {plain(devices[-1])} devices, log "
        f"axes. {spoken}.",
    )


def _apart(devices: Sequence[int]) -> list[int]:
    """Those of the numbers of devices that leave room for their labels."""
    step = (max(devices) / min(devices)) ** (1 / 9)
    kept = []
    for n in sorted(devices):
        if not kept or n >= step * kept[-1]:
            kept.append(n)
    return kept
