"""Figures of cost: FLOPs, seconds and bytes against the length of the sequence."""

import numpy as np

from sparse_attn import cost
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
from sparse_attn.units import seconds, size

LENGTHS = [2**n for n in range(7, 18)]  # 128 to 131,072


@styled
def block_share(T: int, C: int) -> Plot:
    """Share of a block's FLOPs that the scores take, at width C; length T marked."""
    lengths = np.geomspace(LENGTHS[0], LENGTHS[-1], 200)
    share = [cost.score_share(round(n), C) for n in lengths]
    at, half = cost.score_share(T, C), cost.half_share_length(C)
    finding = f"Width {C:,}, {T:,} tokens: scores take {at:.1%}, half at {half:,}"

    plot = Plot(height=3.5)
    ax = plot.add_subplot(title=finding)
    ax.fill_between(lengths, share, color=ORANGE, lw=0)
    ax.fill_between(lengths, share, 1, color=SKY, lw=0, alpha=0.55)
    ax.plot([T, T], [0, at], color=INK, lw=1)
    ax.plot(T, at, "o", color=INK, mec="white")
    if half <= LENGTHS[-1]:
        ax.plot([LENGTHS[0], half, half], [0.5, 0.5, 0], color=INK, lw=1, ls=":")
    inside = dict(transform=ax.transAxes, fontsize=10, fontweight="bold")
    ax.text(0.98, 0.06, "scores: q kᵀ and p v", ha="right", color="white", **inside)
    ax.text(0.02, 0.9, "projections and MLP", color=INK, **inside)
    ax.set(
        xscale="log",
        xlim=(LENGTHS[0], LENGTHS[-1]),
        ylim=(0, 1),
        ylabel="share of the block's FLOPs",
    )
    ax.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
    power_of_two_axis(ax.xaxis, LENGTHS[::2], "tokens T")
    return plot.describe(
        caption=f"{finding} tokens. Not causal; the share depends on T/C alone.",
        alt=f"Share of the scores rising with length in an S-curve. {finding} tokens.",
    )


@styled
def full_against_topk(T: int, K: int, D: int = 64, hidden: int = 64) -> Plot:
    """FLOPs of one head: full, exact over K keys, and the published top-K / MLP."""
    lengths = [n for n in LENGTHS if n >= K]
    lines = {
        "full attention": (BLUE, 2, lambda n: cost.scores(n, D, 1).flops),
        f"the {K} keys alone, found for free": (
            GREEN,
            2,
            lambda n: cost.topk_flops(n, D, K),
        ),
        "top-K / MLP as published, selector included": (
            ORANGE,
            3.5,
            lambda n: cost.topk_mlp_flops(n, D, hidden, K),
        ),
    }
    at = [flops(T) for _, _, flops in lines.values()]
    finding = (
        f"{T:,} tokens, K = {K}: promised {at[0] / at[1]:,.4g}x, "
        f"with its selector {at[0] / at[2]:.2f}x"
    )
    plot = Plot(height=3.8)
    ax = plot.add_subplot(title=finding)
    for (name, (color, width, flops)), y in zip(lines.items(), at, strict=True):
        ax.plot(lengths, [flops(n) for n in lengths], color=color, lw=width, label=name)
        ax.plot(T, y, "o", color=color, mec="white")
    ax.axvline(T, color=INK, lw=1, zorder=0)
    ax.set(
        xscale="log",
        yscale="log",
        xlim=(LENGTHS[0], LENGTHS[-1]),
        ylim=(1e5, 1e13),
        ylabel="FLOPs, one head, one sequence",
    )
    power_of_two_axis(ax.xaxis, LENGTHS[::2], "tokens T")
    ax.legend(loc="upper left")
    return plot.describe(
        caption=f"{finding}. One head of width {D}, selector hidden width {hidden}.",
        alt="Three lines on log axes: full attention and the published method climb "
        f"together with slope 2, the K keys alone with slope 1. {finding}.",
    )


@styled
def shares(rows: dict[str, dict[str, float]]) -> Plot:
    """Stacked bars: row name -> {part: amount}, each row scaled to 1."""
    plot = Plot(height=0.9 + 0.5 * len(rows))
    ax = plot.add_subplot()
    parts = list(next(iter(rows.values())))
    colors = dict(zip(parts, (ORANGE, SKY, BLUE, PALE, PINK), strict=False))
    said = []
    for name, row in rows.items():
        left, total = 0.0, sum(row.values())
        for part in parts:
            share = row[part] / total
            ax.barh(
                name,
                share,
                left=left,
                color=colors[part],
                height=0.62,
                label=part if name == next(iter(rows)) else None,
            )
            if share > 0.04:
                ax.text(
                    left + share / 2,
                    name,
                    f"{share:.0%}",
                    ha="center",
                    va="center",
                    color="white" if colors[part] in (BLUE, ORANGE) else INK,
                )
            left += share
        said.append(f"{name} {row[parts[0]] / total:.0%}")
    ax.set(xlim=(0, 1), xticks=[])
    ax.invert_yaxis()
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.legend(ncols=len(parts), loc="lower left", bbox_to_anchor=(-0.01, 1.0))
    finding = f"{parts[0]}: {', '.join(said)}"
    ax.set_title(finding, pad=28)
    return plot.describe(
        caption=f"Share of each part. Of {finding}.",
        alt=f"Stacked horizontal bars with the parts {', '.join(parts)}. {finding}.",
    )


@styled
def time_against_length(lengths, timings, flops, rate, device) -> Plot:
    """Points: name -> [Timing per length]; lines: FLOPs of each length over the rate.

    flops: name -> [FLOPs per length]; rate: FLOPs per second of a large product.
    """
    colors = dict(zip(timings, (ORANGE, BLUE, GREEN), strict=False))
    plot = Plot(height=4.0)
    ax = plot.add_subplot()
    gaps = {}
    for name, taken in timings.items():
        median = np.array([t.median for t in taken])
        spread = np.abs([[t.median - t.low, t.high - t.median] for t in taken]).T
        predicted = np.array(flops[name]) / rate
        ax.plot(lengths, predicted, color=colors[name], lw=1.2, ls="--")
        ax.errorbar(
            lengths, median, spread, color=colors[name], fmt="o-", lw=1.6, label=name
        )
        gaps[name] = median[-1] / predicted[-1]
    ax.plot([], [], color=INK, lw=1.2, ls="--", label="its FLOPs at full matmul rate")
    ax.set(xscale="log", yscale="log", ylabel="time per call")
    ax.yaxis.set_major_formatter(seconds)
    power_of_two_axis(ax.xaxis, lengths, "tokens T")
    ax.legend(loc="upper left")
    said = ", ".join(f"{name} {gap:.1f}x" for name, gap in gaps.items())
    ax.set_title(f"At {lengths[-1]:,} tokens, time over FLOP time: {said}", fontsize=10)
    return plot.describe(
        caption="Measured time (points) and the time its FLOPs alone would need "
        f"(dashed) on {device}. At {lengths[-1]:,} tokens the gap is {said}.",
        alt=f"Time against length, log axes: {' and '.join(timings)}, each with its "
        f"dashed prediction. Gap at {lengths[-1]:,} tokens: {said}.",
    )


@styled
def memory_against_length(lengths, measured, predicted, device) -> Plot:
    """Peak bytes, name -> [bytes]: measured as points, predicted as lines."""
    colors = dict(zip(measured, (ORANGE, BLUE, GREEN), strict=False))
    plot = Plot(height=3.8)
    ax = plot.add_subplot()
    for name, found in measured.items():
        if name in predicted:
            ax.plot(lengths, predicted[name], color=colors[name], lw=1.2, ls="--")
        ax.plot(lengths, found, "o", color=colors[name], label=name)
        ax.annotate(
            size(found[-1]),
            (lengths[-1], found[-1]),
            (7, -3),
            textcoords="offset points",
            color=colors[name],
        )
    ax.plot([], [], color=INK, lw=1.2, ls="--", label="predicted")
    ax.set(xscale="log", yscale="log", ylabel="peak bytes added")
    ax.yaxis.set_major_formatter(size)
    ax.margins(x=0.12)
    power_of_two_axis(ax.xaxis, lengths, "tokens T")
    ax.legend(loc="upper left")
    said = ", ".join(f"{name} {size(found[-1])}" for name, found in measured.items())
    ax.set_title(f"At {lengths[-1]:,} tokens: {said}")
    return plot.describe(
        caption=f"Peak memory of one call on {device}, {lengths[-1]:,} tokens: {said}.",
        alt=f"Peak memory against length, log axes. At {lengths[-1]:,} tokens: {said}.",
    )


@styled
def published_table(lengths, claimed, fair) -> Plot:
    """The source's speedups, and the same rows with one head divided by one head."""
    plot = Plot(height=3.6)
    ax = plot.add_subplot()
    for name, color, y, below in (
        ("as published: all heads over one", ORANGE, claimed, False),
        ("one head over one head", BLUE, fair, True),
    ):
        ax.plot(lengths, y, "o-", color=color, label=name)
        for T, value in zip(lengths, y, strict=True):
            ax.annotate(
                f"{value:.2f}",
                (T, value),
                (0, -15 if below else 8),
                ha="center",
                color=color,
                textcoords="offset points",
                fontsize=9,
                bbox=dict(fc="white", ec="none", pad=0.5),
            )
    ax.axhline(1, color=INK, lw=1)
    ax.text(lengths[-1], 1.08, "break-even", fontsize=9, ha="right")
    ax.set(xscale="log", yscale="log", ylabel="speedup by FLOPs", ylim=(0.05, 32))
    ax.yaxis.set_major_formatter(lambda y, _: f"{y:g}x")
    power_of_two_axis(ax.xaxis, lengths, "tokens T of each row")
    ax.legend(loc="upper left")
    finding = (
        f"Counted fairly, {sum(f > 1 for f in fair)} of {len(fair)} rows break even"
    )
    ax.set_title(finding)
    return plot.describe(
        caption=f"{finding}; the published column ends at {claimed[-1]:.2f}x, the fair "
        f"one at {fair[-1]:.2f}x.",
        alt="Two lines against length on log axes. The published speedup goes from "
        f"{claimed[0]:.2f} to {claimed[-1]:.2f}, the fair one from {fair[0]:.2f} to "
        f"{fair[-1]:.2f}. {finding}.",
    )
