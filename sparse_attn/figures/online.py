"""Figures of softmax in one pass: the running maximum and sum, passes, and errors."""

import math
from itertools import pairwise

import numpy as np
import torch

from sparse_attn import flash
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
def running_maximum(scores, block: int) -> Plot:
    """Scores (N,), and after each block their maximum m and sum l, in one pass.

    Where m rises, what l held is multiplied by exp(m before - m after): written there.
    """
    scores = torch.as_tensor(scores, dtype=torch.float32)
    m, l = (
        [float(x) for x in column]
        for column in zip(*flash.running_blocks(scores, block), strict=True)
    )
    N, blocks = len(scores), len(m)
    ends = [*range(0, N, block), N]
    jumps = {i: a - b for i, (a, b) in enumerate(pairwise(m), 1) if b > a}
    times = _count(len(jumps), "time")
    finding = f"the maximum jumps {times} in {_count(blocks, 'block')}"

    plot = Plot(height=4.2)
    top, low = plot.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    for ax in (top, low):
        for a, b in zip(ends[::2], ends[1::2], strict=False):
            ax.axvspan(a, b, color=PALE, alpha=0.45, lw=0)
        ax.grid(axis="x", visible=False)
    top.bar(np.arange(N) + 0.5, _finite(scores), 0.7, color=SKY, label="score")
    top.stairs(_finite(m), ends, baseline=None, color=ORANGE, lw=2,
               label="maximum so far, m")  # fmt: skip
    top.axhline(0, color=INK, lw=0.8)
    top.set(ylabel="score", xlim=(0, N))
    top.set_title(f"Block {block}: {finding}, l ends at {l[-1]:.2f}", pad=28)
    top.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=2)

    low.stairs(l, ends, color=BLUE, fill=True, alpha=0.85)
    low.set(ylim=(0, 1.6 * max(l)), ylabel="sum so far, l")
    low.set_xlabel("position of the score; stripes are blocks")
    narrow = N / block > 12
    for i, power in jumps.items():
        middle = (ends[i] + ends[i + 1]) / 2
        low.axvline(ends[i], color=ORANGE, lw=1.2)
        low.text(middle, 0.96, f"×{math.exp(power):.2g}", color=ORANGE, fontsize=9,
                 ha="center", va="top", weight="bold", rotation=90 if narrow else 0,
                 transform=low.get_xaxis_transform())  # fmt: skip
    said = "; ".join(
        f"at block {i + 1} from {m[i - 1]:.2f} to {m[i]:.2f}, l times {math.exp(p):.2g}"
        for i, p in jumps.items()
    )
    return plot.describe(
        caption=f"{N} scores in blocks of {block}: {finding}, and l ends at "
        f"{l[-1]:.2f}. Where it jumps, the sum so far is multiplied by the orange "
        "factor, exp(m before - m after).",
        alt=f"Bars of {N} scores under a staircase, their maximum so far, and below "
        f"it the sum so far after each block of {block}. The maximum ends at "
        f"{m[-1]:.2f}; it jumps {times}{': ' + said if said else ''}.",
    )


def _finite(x) -> np.ndarray:
    """-inf has no height: nothing is drawn."""
    x = np.asarray(x, dtype=float)
    return np.where(np.isfinite(x), x, np.nan)


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


@styled
def softmax_passes(rows: dict[str, tuple[int, int]]) -> Plot:
    """name -> (passes that read the data, elements moved per score)."""
    moved = {name: n for name, (_, n) in rows.items()}
    said = {
        name: f"{passes} {'pass' if passes == 1 else 'passes'}, {n:g} moved"
        for name, (passes, n) in rows.items()
    }
    most, fewest = max(moved.values()), min(moved.values())
    finding = f"From {most:g} elements moved per score to {fewest:g}"
    plot = Plot(height=1.1 + 0.42 * len(rows))
    ax = plot.add_subplot()
    colors = [BLUE if n == fewest else SKY for n in moved.values()]
    ax.barh(list(moved), list(moved.values()), 0.6, color=colors)
    for name, n in moved.items():
        ax.text(n, name, f" {said[name]}", va="center")
    ax.set(xlim=(0, 1.45 * most), xlabel="elements moved per score")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    plot.suptitle(finding, x=0.01, ha="left", fontsize=11, fontweight="bold")
    listing = "; ".join(f"{name}: {words}" for name, words in said.items())
    return plot.describe(
        caption=f"{finding}. {listing}.",
        alt=f"Horizontal bars of elements moved per score. {listing}.",
    )


@styled
def softmax_error(lengths: list[int], errors: dict[str, list[float]]) -> Plot:
    """Largest error against float64: "format, program" -> one for each length.

    Programs "formula" and "online" of one format are compared: how much more the one
    is off, at the length where that is most.
    """
    lines = {name: np.array(e, dtype=float) for name, e in errors.items()}
    plot = Plot(height=3.6)
    ax = plot.add_subplot()
    formats = list(dict.fromkeys(_split(name)[0] for name in lines))
    colors = dict(zip(formats, (ORANGE, BLUE, GREEN, PINK, INK), strict=False))
    for name, e in lines.items():
        kind, program = _split(name)
        look = dict(ls="--", marker="s", mfc="white") if program == "formula" else {}
        ax.plot(lengths, np.where(e > 0, e, np.nan), label=name,
                color=colors.get(kind, INK), **({"marker": "o"} | look))  # fmt: skip
    ax.set(xscale="log", yscale="log", ylabel="largest error")
    power_of_two_axis(ax.xaxis, lengths, "scores in a row")
    ax.yaxis.set_minor_formatter(lambda y, _: "")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    ratios = {
        kind: _ratio(lines[f"{kind}, online"], lines[f"{kind}, formula"])
        for kind in formats
        if {f"{kind}, online", f"{kind}, formula"} <= lines.keys()
    }
    last = ", ".join(f"{name} {e[-1]:.1e}" for name, e in lines.items())
    said = ", ".join(f"{kind} {ratio:.2g}x" for kind, ratio in ratios.items())
    finding = f"Largest error at {lengths[-1]:,} scores"
    if ratios:
        worst = max(ratios.values())
        finding = f"Online is off by at most {worst:.2g}x what the formula is off"
    ax.set_title(finding)
    return plot.describe(
        caption=f"{finding}{f' in the same format: {said}' if said else ''}. At "
        f"{lengths[-1]:,} scores: {last}.",
        alt="Lines of the largest error against the length of the row, log axes. "
        f"At {lengths[-1]:,} scores: {last}."
        + (f" Online over formula, at most: {said}." if said else ""),
    )


def _split(name: str) -> tuple[str, str]:
    """ "fp16, online" -> ("fp16", "online"); a name of one part is its own format."""
    kind, _, program = name.rpartition(", ")
    return (kind, program) if kind else (name, "")


def _ratio(some: np.ndarray, others: np.ndarray) -> float:
    """The largest some / others; 1 where neither is off."""
    both = zip(some, others, strict=True)
    return max(1.0 if a == b else a / b if b else math.inf for a, b in both)
