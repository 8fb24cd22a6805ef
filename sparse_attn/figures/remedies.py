"""Figures of chapter 2: shares of a whole GPT, remedies, losses, bytes of training."""

import numpy as np

from sparse_attn import cost
from sparse_attn.figures.style import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PALE,
    SKY,
    Plot,
    power_of_two_axis,
    styled,
)
from sparse_attn.gpt import GPTConfig
from sparse_attn.profiling import grouped
from sparse_attn.units import size

LENGTHS = [2**n for n in range(7, 15)]  # 128 to 16,384
_COLORS = dict(
    zip(
        ("scores", "projections", "MLP", "LM head"),
        (ORANGE, SKY, BLUE, PALE),
        strict=True,
    )
)


@styled
def model_shares(T: int, C: int) -> Plot:
    """FLOP shares of a GPT-2 of width C, full square, as T grows; length T marked."""
    config = GPTConfig.gpt2(width=C, attend="formula")
    rows = [grouped(cost.flops_by_part(config, n)) for n in LENGTHS]
    shares = {name: [row[name] / sum(row.values()) for row in rows] for name in _COLORS}
    at = grouped(cost.flops_by_part(config, T))
    said = ", ".join(f"{name} {at[name] / sum(at.values()):.0%}" for name in _COLORS)

    plot = Plot(height=3.6)
    ax = plot.add_subplot()
    _headline(plot, f"C = {C:,}, T = {T:,}: {said}")
    ax.stackplot(LENGTHS, *shares.values(), colors=_COLORS.values(), lw=0)
    ax.axvline(T, color=INK, lw=1)
    below = np.cumsum([0, *(row[-1] for row in shares.values())])
    for name, low, high in zip(shares, below, below[1:], strict=False):
        if high - low > 0.03:
            ax.annotate(
                name,
                (LENGTHS[-1], (low + high) / 2),
                (6, -3),
                textcoords="offset points",
                annotation_clip=False,
            )
    ax.set(
        xscale="log",
        xlim=(LENGTHS[0], LENGTHS[-1]),
        ylim=(0, 1),
        ylabel="share of FLOPs",
    )
    ax.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
    power_of_two_axis(ax.xaxis, LENGTHS, "tokens T")
    return plot.describe(
        caption=f"Width {C:,}, {T:,} tokens: {said}. Twelve layers, 50,257 words, "
        "full square.",
        alt=f"Stacked areas against length. At {T:,} tokens: {said}.",
    )


@styled
def shared_heads(kv_heads: int, T: int) -> Plot:
    """What is left of each part of GPT-2 small when its 12 heads share kv_heads."""
    old, new = (
        GPTConfig.gpt2(kv_heads=n, attend="formula", context=T) for n in (12, kv_heads)
    )
    parts = {
        "keys and values: projections, cache": ("key", "value"),
        "all four projections": ("query", "key", "value", "out"),
        "scores": ("scores",),
        "attention": ("query", "key", "value", "scores", "out"),
        "whole model": tuple(cost.flops_by_part(old, 1)),
    }
    work = [cost.flops_by_part(config, T) for config in (new, old)]
    left = {
        name: sum(work[0][p] for p in names) / sum(work[1][p] for p in names)
        for name, names in parts.items()
    }
    heads = f"{kv_heads} key-value head{'s' * (kv_heads > 1)}"
    finding = f"{heads}, {T:,} tokens: {left['whole model']:.0%} of the FLOPs remain"
    plot = Plot(height=2.9)
    ax = plot.add_subplot()
    _headline(plot, finding)
    names = list(left)
    ax.barh(names, [1] * len(names), color=PALE, height=0.6)
    colors = [BLUE, BLUE, ORANGE, BLUE, INK]
    ax.barh(names, list(left.values()), color=colors, height=0.6)
    for name, value in left.items():
        ax.text(1.01, name, f"{value:.1%}", va="center")
    ax.set(xlim=(0, 1.12), xticks=[])
    ax.invert_yaxis()
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.grid(visible=False)
    said = ", ".join(f"{name} {value:.1%}" for name, value in left.items())
    return plot.describe(
        caption=f"{finding}; of the scores, {left['scores']:.0%}.",
        alt=f"Bars, share that remains with {heads}: {said}.",
    )


@styled
def remedies(measured: dict, predicted: dict[str, float], device: str) -> Plot:
    """measured: name -> Ratio of times to the baseline; predicted: name -> ratio."""
    plot = Plot(height=1.2 + 0.36 * len(measured))
    ax = plot.add_subplot()
    for name, ratio in measured.items():
        ax.plot([ratio.low, ratio.high], [name, name], color=BLUE, lw=2.5)
        ax.plot(ratio.value, name, "o", color=BLUE)
        ax.plot(predicted[name], name, "D", color=ORANGE, mec="white")
    ax.plot([], [], "o-", color=BLUE, label="measured, with interval")
    ax.plot([], [], "D", color=ORANGE, ls="none", label="predicted from rates")
    ax.axvline(1, color=INK, lw=1)
    ax.invert_yaxis()
    ax.set_xlabel("time of a training step, baseline = 1")
    ax.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=2)
    best = min(measured, key=lambda name: measured[name].value)
    finding = f"Fastest: {best}, {measured[best].value:.2f} of the baseline's time"
    ax.set_title(finding, pad=28)
    said = "; ".join(
        f"{n} {r.value:.2f}, predicted {predicted[n]:.2f}" for n, r in measured.items()
    )
    return plot.describe(
        caption=f"{finding}, on {device}.",
        alt=f"Dots with intervals, one row per remedy: {said}.",
    )


@styled
def losses(runs: dict[str, list[float]]) -> Plot:
    """name -> bits per byte of each seed; the first row is the one to compare with."""
    plot = Plot(height=1.1 + 0.34 * len(runs))
    ax = plot.add_subplot()
    base, *_ = runs.values()
    mean = np.mean(base)
    ax.axvspan(min(base), max(base), color=PALE, lw=0)
    ax.axvline(mean, color=INK, lw=1)
    for name, reached in runs.items():
        ax.plot(reached, [name] * len(reached), "o", color=BLUE, alpha=0.75)
        ax.plot(np.mean(reached), name, "|", color=ORANGE, ms=16, mew=2.5)
    ax.invert_yaxis()
    ax.set_xlabel("bits per byte on validation text, lower is better")
    best = min(runs, key=lambda name: np.mean(runs[name]))
    worst = max(runs, key=lambda name: np.mean(runs[name]))
    finding = (
        f"Best: {best} ({np.mean(runs[best]) - mean:+.2f}), "
        f"worst: {worst} ({np.mean(runs[worst]) - mean:+.2f})"
    )
    _headline(plot, finding)
    said = "; ".join(f"{name} {np.mean(x):.3f}" for name, x in runs.items())
    return plot.describe(
        caption=f"{finding}, against a mean of {mean:.2f}. Dots are seeds, bars means; "
        "the gray band spans the baseline's seeds.",
        alt=f"Dots per variant, mean bits per byte: {said}.",
    )


def _headline(plot: Plot, text: str):
    """A title over the whole figure, where long labels push the axes to the right."""
    plot.suptitle(text, x=0.01, ha="left", fontsize=11, fontweight="bold")


@styled
def training_memory(rows: dict[str, dict[str, float]]) -> Plot:
    """Stacked bars of bytes: row name -> {kind: bytes}."""
    plot = Plot(height=1.2 + 0.5 * len(rows))
    ax = plot.add_subplot()
    kinds = list(next(iter(rows.values())))
    colors = dict(zip(kinds, (BLUE, SKY, GREEN, ORANGE), strict=False))
    for name, row in rows.items():
        left = 0.0
        for kind in kinds:
            ax.barh(name, row[kind], left=left, color=colors[kind], height=0.6)
            left += row[kind]
        ax.text(left, name, f" {size(left)}", va="center")
    for kind in kinds:
        ax.plot([], [], "s", color=colors[kind], label=kind)
    ax.invert_yaxis()
    ax.margins(x=0.15)
    ax.xaxis.set_major_formatter(size)
    ax.legend(ncols=len(kinds), loc="lower left", bbox_to_anchor=(-0.01, 1.0))
    totals = "; ".join(
        f"{name} {size(sum(row.values()))}" for name, row in rows.items()
    )
    kind = kinds[-1]
    said = "; ".join(f"{name} {size(row[kind])}" for name, row in rows.items())
    ax.set_title("Activations decide", pad=28)
    return plot.describe(
        caption=f"Bytes of a training step: {totals}. Of these, {kind}: {said}.",
        alt=f"Stacked bars of {', '.join(kinds)}. Totals: {totals}. {kind}: {said}.",
    )
