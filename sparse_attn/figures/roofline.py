"""Figures of work under a roof: what bandwidth and arithmetic allow, and what happens.

A roof is anything with `copy`, `matmul` and `ridge`, as in `roofline.Roof`.
"""

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
from sparse_attn.roofline import PUBLISHED
from sparse_attn.units import plain, seconds

INTENSITIES = np.geomspace(0.05, 20_000, 300)
BYTES = {"FP32": 4, "TF32": 4, "BF16": 2}


def _draw_roof(ax, roof, **look):
    heights = np.minimum(roof.matmul, INTENSITIES * roof.copy)
    ax.plot(INTENSITIES, heights, **look)


def _rate_axes(ax, low, high, left=0.05, right=20_000):
    ax.set(xscale="log", yscale="log", xlim=(left, right), ylim=(low, high))
    ax.set(xlabel="arithmetic intensity, FLOP per byte", ylabel="FLOP/s")
    ax.yaxis.set_major_formatter(lambda y, _: _rate(y))
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")


def _rate(y: float) -> str:
    unit, scale = next((u for u in (("T", 1e12), ("G", 1e9), ("M", 1e6)) if y >= u[1]),
                       ("k", 1e3))  # fmt: skip
    return f"{y / scale:g}{unit}"


@styled
def roofline(placed: dict, device: str, others: dict | None = None) -> Plot:
    """Calls under their one roof: name -> `Placed`; others: name -> `Roof`, for scale.

    Points are numbered in order of intensity; the list beside them has names, and how
    much of the roof each reached.
    """
    ordered = sorted(placed.items(), key=lambda item: item[1].intensity)
    roof = ordered[0][1].roof
    plot = Plot(height=4.4)
    ax = plot.add_subplot()
    for (name, other), color in zip(
        (others or {}).items(), (GREEN, PINK, SKY), strict=False
    ):
        _draw_roof(ax, other, color=color, lw=1, ls="--")
        ax.text(900, other.matmul * 1.3, name, fontsize=8, color=color)
    _draw_roof(ax, roof, color=INK)
    ax.axvline(roof.ridge, color=PALE, lw=1.2)
    taken = []  # where a marker already has its number inside
    for i, (name, p) in enumerate(ordered, 1):
        color = BLUE if p.bound == "memory" else ORANGE
        x, y = p.intensity, p.attained
        ax.plot(x, y, "o", ms=14, color=color, mec="white",
                label=f"{i}  {name}, {p.fraction:.0%}")  # fmt: skip
        beside = 9 * sum(abs(np.log([x / u, y / v])).max() < 0.6 for u, v in taken)
        ax.annotate(str(i), (x, y), (1.5 * beside, 0), textcoords="offset points",
                    color=color if beside else "white", fontsize=8.5, weight="bold",
                    ha="center", va="center_baseline")  # fmt: skip
        taken.append((x, y))
    top = max([roof.matmul, *(o.matmul for o in (others or {}).values())])
    _rate_axes(ax, min(p.attained for _, p in ordered) / 4, 4 * top, 0.08, 4000)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=0.45,
              title="operation, share of its roof", alignment="left",
              title_fontsize=9, handletextpad=0.1)  # fmt: skip
    bound = sum(p.bound == "memory" for p in placed.values())
    finding = f"{bound} of {len(placed)} operations lie left of the ridge"
    ax.set_title(f"{finding}, {roof.ridge:.1f} FLOP/byte")
    said = ", ".join(f"{name} {p.fraction:.0%}" for name, p in ordered)
    return plot.describe(
        caption=f"{device}: {finding} at {roof.ridge:.1f} FLOP per byte (blue), where "
        f"memory is the lower limit. Share of the roof reached: {said}.",
        alt="A roofline on log axes, rising and then flat, with a numbered point for "
        f"each operation. {finding}. Shares of the roof: {said}.",
    )


@styled
def matmul_on_roofs(n: int, dtype: str) -> Plot:
    """An n x n product among the published roofs of one dtype: FP32, TF32 or BF16."""
    roofs = {
        name.split(",")[0]: roof
        for name, roof in PUBLISHED.items()
        if name.endswith(dtype)
    }
    work = cost.matmul(n, n, n, bytes_per_value=BYTES[dtype])
    plot = Plot(height=3.6)
    ax = plot.add_subplot()
    for (name, roof), color in zip(roofs.items(), (BLUE, ORANGE, GREEN), strict=False):
        _draw_roof(ax, roof, color=color, label=f"{name}, ridge {roof.ridge:.3g}")
        height = min(roof.matmul, work.intensity * roof.copy)
        ax.plot(work.intensity, height, "o", color=color, mec="white", ms=9)
    ax.axvline(work.intensity, color=INK, lw=1)
    _rate_axes(ax, 1e11, 4e15, 0.5)
    ax.legend(loc="lower right")
    waits = [name for name, roof in roofs.items() if work.intensity < roof.ridge]
    said = " and ".join(waits) if waits else "none of these"
    finding = f"n = {n:,}, {dtype}: {work.intensity:.3g} FLOP/byte"
    short = said.replace(" 80 GB", "").replace(" SXM", "")
    ax.set_title(f"{finding}; waits for memory: {short}", fontsize=10)
    return plot.describe(
        caption=f"{finding}, the result's write included. It waits for memory on: "
        f"{said}. Roofs from published peaks.",
        alt=f"Rooflines of {', '.join(roofs)} on log axes and a vertical line at the "
        f"intensity of the product. {finding}; below the ridge of: {said}.",
    )


@styled
def attention_on_roof(T: int, D: int, *, roof, device: str, b: int = 4) -> Plot:
    """One head's attention, three ways, under `roof`: the most that each may reach.

    b: bytes per value.
    """
    naive = cost.scores(T, D, 1, bytes_per_value=b)
    ideal = cost.fused_scores(T, D, bytes_per_value=b)
    decode = cost.Cost(4 * T * D, 2 * (T + 1) * D * b, 0)
    points = {
        "plain, the square in memory": (naive, ORANGE),
        "fused, each number moved once": (ideal, BLUE),
        "decoding, one query": (decode, GREEN),
    }
    plot = Plot(height=3.6)
    ax = plot.add_subplot()
    _draw_roof(ax, roof, color=INK)
    ax.axvline(roof.ridge, color=PALE, lw=1.2)
    said = []
    for name, (work, color) in points.items():
        x = work.intensity
        ax.plot(x, min(roof.matmul, x * roof.copy), "o", ms=10, color=color,
                mec="white", label=f"{name}: {x:.3g} FLOP/byte")  # fmt: skip
        said.append(f"{name} {x:.3g}")
    _rate_axes(ax, roof.copy / 20, 4 * roof.matmul)
    ax.legend(loc="lower right")
    finding = f"T = {T:,}, D = {D}: plain {naive.intensity:.3g} FLOP/byte"
    ax.set_title(f"{finding}, ridge {roof.ridge:.3g}")
    return plot.describe(
        caption=f"{finding}; ridge of {device} at {roof.ridge:.3g}. FLOP per byte: "
        f"{', '.join(said)}. Points lie on the roof: the most that is possible.",
        alt="A roofline on log axes with three points on it. FLOP per byte: "
        f"{', '.join(said)}; the ridge is at {roof.ridge:.3g}.",
    )


@styled
def bound_and_time(work: dict, timings: dict, roof, what: str, device: str) -> Plot:
    """Memory time, arithmetic time and the clock: n -> Cost and n -> Timing."""
    ns = list(work)
    memory = np.array([work[n].moved for n in ns]) / roof.copy
    arithmetic = np.array([work[n].flops for n in ns]) / roof.matmul
    taken = np.array([timings[n].median for n in ns])
    ends = np.array(
        [(timings[n].median - timings[n].low, timings[n].high - timings[n].median)
         for n in ns]
    ).T  # fmt: skip
    plot = Plot(height=3.6)
    ax = plot.add_subplot()
    ax.plot(ns, memory, color=BLUE, ls="--", lw=1.4, label="bytes over bandwidth")
    ax.plot(ns, arithmetic, color=ORANGE, ls="--", lw=1.4, label="FLOPs over peak")
    ax.errorbar(ns, taken, ends, fmt="o-", color=INK, lw=1.2, label="measured")
    ax.set(xscale="log", yscale="log", ylabel="time per call")
    ax.yaxis.set_major_formatter(seconds)
    power_of_two_axis(ax.xaxis, ns, what)
    ax.legend(loc="best")
    over = taken / np.maximum(memory, arithmetic)
    worst = int(over.argmax())
    said = f"{over.min():.2g} to {over.max():.2g} times the larger of the two"
    ax.set_title(f"Measured: {said}")
    return plot.describe(
        caption=f"{what[0].upper()}{what[1:]}, on {device}: the clock shows {said}; "
        f"furthest off at {plain(ns[worst])}.",
        alt=f"Two dashed lines, memory time and arithmetic time, and measured points "
        f"against {what}, log axes. Measured {said}.",
    )
