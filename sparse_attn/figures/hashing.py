"""Figures of the hash: its sectors, how often buckets are shared, how full they are."""

import math
from functools import cache

import numpy as np
import torch
from matplotlib.patches import Arc, Wedge

from sparse_attn import hashing
from sparse_attn.figures.style import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PALE,
    PINK,
    SKY,
    Plot,
    styled,
)
from sparse_attn.units import three

DIRECTIONS = 191  # a seed under which 4 sectors are alike, and 16 buckets have 10
FIRST = 27  # degrees at which the first vector points


@styled
def hash_circle(angle: int, buckets: int) -> Plot:
    """Two vectors `angle` degrees apart among the sectors of one hash of the plane.

    Beside them, the probability that they share a bucket, over all directions that
    could have been drawn.
    """
    p = hashing.collision_probability(math.radians(angle), buckets)
    drawn = sectors(buckets)
    mine, theirs = (_bucket(buckets, FIRST + turn) for turn in (0, angle))
    owned = len({bucket for *_, bucket in drawn})

    plot = Plot(height=3.6)
    plane, ax = plot.subplots(1, 2, width_ratios=[1, 1.15])
    _disc(plane, drawn, {theirs: ORANGE, mine: BLUE})
    for turn, color, width in ((FIRST, BLUE, 3.5), (FIRST + angle, ORANGE, 2)):
        plane.annotate("", xytext=(0, 0), xy=_at(turn), arrowprops=dict(
            arrowstyle="-|>", color=color, lw=width, shrinkA=0, shrinkB=0))  # fmt: skip
    plane.add_patch(
        Arc((0, 0), 0.5, 0.5, theta1=FIRST, theta2=FIRST + angle, color=INK)
    )
    plane.text(-1.25, -1.55, f"bucket {mine}", color=BLUE, weight="bold")
    plane.text(1.25, -1.55, f"bucket {theirs}", color=ORANGE, weight="bold", ha="right")

    degrees, predicted = _curve(buckets)
    ax.plot(degrees, predicted, color=GREEN, label="random directions")
    if buckets == 4:
        turned = [hashing.rotation_collision_probability(a) for a in _radians()]
        ax.plot(degrees, turned, "--", color=INK, lw=1.5, label="random rotation")
    ax.plot(angle, p, "o", color=GREEN, ms=9, mec="white", zorder=4, clip_on=False)
    _angle_axis(ax, "probability of one bucket")
    ax.legend(loc="upper right")
    finding = f"{angle}° apart, {buckets} buckets"
    odds = f"shared with probability {three(p)}"
    plot.suptitle(f"{finding}: {odds}", x=0.01, ha="left", fontsize=11, weight="bold")
    here = f"buckets {mine} and {theirs}" if mine != theirs else f"one, bucket {mine}"
    return plot.describe(
        caption=f"{finding}: {odds}. The directions drawn here put them in {here}; "
        f"in the plane, {owned} of the {buckets} buckets have a sector.",
        alt=f"A disc cut into {len(drawn)} sectors and two arrows {angle}° apart, in "
        f"{here}. Beside it, the probability of a shared bucket falls from 1 at 0° to "
        f"0 at 180°, and is {three(p)} at {angle}°.",
    )


@cache
def sectors(buckets: int) -> list[tuple[float, float, int]]:
    """(from, to, bucket) of the plane in degrees, to a tenth, under DIRECTIONS."""
    steps = 3600
    found = _hashed(buckets, torch.arange(steps) / 10)
    starts = [i for i in range(steps) if found[i] != found[i - 1]]
    ends = [*starts[1:], starts[0] + steps]
    return [(a / 10, b / 10, found[a]) for a, b in zip(starts, ends, strict=True)]


def _bucket(buckets: int, turn: float) -> int:
    return _hashed(buckets, torch.tensor([float(turn)]))[0]


def _hashed(buckets: int, degrees: torch.Tensor) -> list[int]:
    turn = torch.deg2rad(degrees)
    R = hashing.rotations(2, buckets, seed=DIRECTIONS)
    return hashing.hash_buckets(torch.stack((turn.cos(), turn.sin()), -1), R)[
        0
    ].tolist()


def _disc(ax, drawn, tinted: dict[int, str]):
    for i, (a, b, bucket) in enumerate(drawn):
        ax.add_patch(Wedge((0, 0), 1, a, b, color=("white", PALE)[i % 2], lw=0))
        color = tinted.get(bucket, INK)
        if bucket in tinted:
            ax.add_patch(Wedge((0, 0), 1, a, b, color=color, alpha=0.3, lw=0))
        if b - a > 10:
            weight = "bold" if bucket in tinted else "normal"
            ax.text(*_at((a + b) / 2, 1.16), str(bucket), ha="center", va="center",
                    color=color, weight=weight)  # fmt: skip
    ax.add_patch(Wedge((0, 0), 1, 0, 360, fill=False, ec=INK, lw=0.8))
    ax.set(xlim=(-1.3, 1.3), ylim=(-1.6, 1.3), aspect="equal")
    ax.set_axis_off()


def _at(degrees: float, r: float = 1.0) -> tuple[float, float]:
    return r * math.cos(math.radians(degrees)), r * math.sin(math.radians(degrees))


@styled
def collisions(measured: dict[int, list[tuple[float, float]]]) -> Plot:
    """buckets -> [(degrees, measured share)], as dots on the predicted curves."""
    off = {
        (n, degrees): share - hashing.collision_probability(math.radians(degrees), n)
        for n, dots in measured.items()
        for degrees, share in dots
    }
    n, degrees = max(off, key=lambda key: abs(off[key]))
    worst = f"{abs(off[n, degrees]):.3f}"
    finding = f"Measured collisions are off by at most {worst}"

    plot = Plot(height=3.6)
    ax = plot.add_subplot(title=finding)
    levels = np.linspace(0.3, 0.7, len(measured)) if len(measured) > 1 else [0.5]
    for buckets, color, level in zip(sorted(measured), _COLORS, levels, strict=False):
        ax.plot(*_curve(buckets), color=color, lw=1.5)
        x, y = zip(*measured[buckets], strict=True)
        ax.plot(x, y, "o", color=color, mec="white", zorder=3, clip_on=False)
        _inline(ax, buckets, color, level, x)
    _angle_axis(ax, "share of pairs in one bucket")
    ax.text(0.98, 0.95, "lines predicted, dots measured\non the lines: buckets",
            transform=ax.transAxes, ha="right", va="top")  # fmt: skip
    said = ", ".join(
        f"{n} buckets {max(abs(d) for (m, _), d in off.items() if m == n):.3f}"
        for n in sorted(measured)
    )
    return plot.describe(
        caption=f"{finding}, at {degrees:g}° with {n} buckets, over {len(off)} dots. "
        f"At most: {said}.",
        alt=f"Curves for {', '.join(map(str, sorted(measured)))} buckets that fall "
        f"from 1 at 0° to 0 at 180°, and dots on them. Largest deviation {worst}.",
    )


_COLORS = (ORANGE, BLUE, GREEN, PINK, SKY, INK)


def _inline(ax, buckets: int, color: str, level: float, dots):
    """The number of buckets on its curve near `level`, between two dots."""
    degrees, predicted = _curve(buckets)
    wanted = np.interp(-level, -predicted, degrees)
    dots = np.unique([0, *dots, 180])
    gaps = (dots[1:] + dots[:-1]) / 2
    x = gaps[np.argmin(abs(gaps - wanted))]
    ax.text(x, np.interp(x, degrees, predicted), str(buckets), color=color, ha="center",
            va="center", weight="bold", fontsize=9, zorder=4,
            bbox=dict(color="white", pad=1))  # fmt: skip


@styled
def rounds_and_buckets(rounds: int, buckets: int) -> Plot:
    """Pairs that share a bucket in at least one of `rounds`, against their angle."""
    degrees, single = _curve(buckets)
    near, far = (
        hashing.collision_probability(math.radians(angle), buckets)
        for angle in (NEAR, FAR)
    )
    found = {angle: _any(p, rounds) for angle, p in ((NEAR, near), (FAR, far))}
    share = {angle: f"{three(100 * p)}%" for angle, p in found.items()}
    several = f"{rounds} round{'s' * (rounds > 1)} of {buckets} buckets"
    finding = f"{several}: {share[NEAR]} found at {NEAR}°, {share[FAR]} at {FAR}°"

    plot = Plot(height=3.6)
    ax, side = plot.subplots(1, 2, width_ratios=[2, 1])
    ax.plot(degrees, single, "--", color=INK, lw=1.5, label="one round")
    ax.plot(degrees, _any(single, rounds), color=BLUE, label="in any round")
    for angle, color in ((NEAR, BLUE), (FAR, ORANGE)):
        ax.axvline(angle, color=color, lw=1, ls=":")
        ax.plot(angle, found[angle], "o", color=color, ms=9, mec="white", zorder=4,
                clip_on=False)  # fmt: skip
    _angle_axis(ax, "probability of being found")
    ax.legend(loc="upper right")

    odds = [_any(near, n) / _any(far, n) for n in ROUNDS]
    odd = found[NEAR] / found[FAR]
    side.plot(ROUNDS, odds, color=INK, lw=1.5)
    side.plot(rounds, odd, "o", color=BLUE, ms=9, mec="white", zorder=4, clip_on=False)
    side.set(xscale="log", yscale="log", ylim=(0.8, 120), xlabel="rounds")
    side.set_xticks(ROUNDS, map(str, ROUNDS))
    side.set_yticks([1, 10, 100], ["1x", "10x", "100x"])
    side.minorticks_off()
    side.set_ylabel(f"found at {NEAR}° over {FAR}°")
    side.text(0.96, 0.95, f"{three(odd)}x", color=BLUE, weight="bold", ha="right",
              va="top", transform=side.transAxes)  # fmt: skip
    plot.suptitle(finding, x=0.01, ha="left", fontsize=11, weight="bold")
    return plot.describe(
        caption=f"{several}: of pairs {NEAR}° apart {share[NEAR]} share a bucket "
        f"in some round, of unrelated ones, {FAR}° apart, {share[FAR]}: "
        f"{three(odd)}x as likely, {three(near / far)}x in one round.",
        alt="Curves of the probability of being found against the angle, for one round "
        f"and for {rounds}; beside them, how much more often {NEAR}° is found than "
        f"{FAR}°, against rounds. {finding}.",
    )


NEAR, FAR = 30, 90
ROUNDS = [1, 2, 4, 8, 16]


def _any(p, rounds: int):
    """Probability of at least one success in so many independent rounds."""
    return 1 - (1 - p) ** rounds


@cache
def _curve(buckets: int) -> tuple[np.ndarray, np.ndarray]:
    p = [hashing.collision_probability(angle, buckets) for angle in _radians()]
    return np.arange(0, 181, 2), np.array(p)


def _radians() -> list[float]:
    return [math.radians(degrees) for degrees in range(0, 181, 2)]


def _angle_axis(ax, label: str):
    ax.set(xlim=(0, 180), ylim=(0, 1.03), xlabel="angle between them", ylabel=label)
    ax.set_xticks(range(0, 181, 45), [f"{x}°" for x in range(0, 181, 45)])
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
