"""What `demo` found, as lines of one screen: numbers in, text out.

Knows how each part is told, and that its last sentences follow from intervals; leaves
what is run to `demo`.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparse_attn import timing, topk
from sparse_attn.stats import mean_interval
from sparse_attn.units import seconds

WIDTH = 79
PUBLISHED, BEST, MEAN = "as published", "softmax, 3 best keys", "mean of the past"
WINDOW = "window and 4 sinks"
EACH, SHARED = "a list for each query", "64 queries to a list"
RESTS = {"none": "rest dropped", "pooled": "rest pooled"}


def published_lines(found: dict, steps: int, fits: tuple[int, int]) -> list[str]:
    """The first part: the published method beside its rows."""
    told = {row: f"{row} {mean(found[row]):.3f}" for row in (PUBLISHED, BEST)}
    guess = topk.chance_top1(topk.PUBLISHED.context)
    gain = difference(found[topk.DELETED], found[PUBLISHED])
    return [
        "1 The published method: selector and MLP for one head (chapter 9), one seed",
        f"  steps here: model {steps}, networks {fits[0]} + {fits[1]}; "
        "published: 300, 400 + 600",
        f"  error of the logits: {told[PUBLISHED]:29}"
        f"{topk.DELETED} {mean(found[topk.DELETED]):.3f}",
        f"{'':23}{told[BEST]:29}{MEAN} {mean(found[MEAN]):.3f}",
        f"  its first key is the right one {found['top-1']:.1%} of the time, "
        f"a guess {guess:.1%}",
        f"  So it {verdict(*gain, 'deleting the head')}.",
    ]


def repaired_lines(found: dict, keep: int, tokens: int) -> list[str]:
    """The second part: what selection loses, by what stands for the rest."""
    full = mean(found[WINDOW]["none"].teacher_bits)
    lines = [
        f"2 Keys chosen by block means in a trained model (chapter 10): "
        f"{keep} of {tokens}",
        f"  bits per byte, full attention {full:.3f}, and more than that:",
        f"  {'':30}" + "".join(f"{told:>16}" for told in RESTS.values()),
    ]
    for row, of in found.items():
        lines.append(f"  {row:30}" + "".join(f"{of[r].change:+16.4f}" for r in RESTS))
    for row in [row for row in found if row != WINDOW]:
        window, ours = (found[of]["pooled"].bits for of in (WINDOW, row))
        told = verdict(*difference(window, ours), "the window")
        lines.append(f"  So {row} {told}, pooled.")
    return lines


def clock_lines(found: dict, keep: int) -> list[str]:
    """The third part: seconds beside PyTorch's, by length."""
    lines = [f"3 The clock: PyTorch's causal attention, and {keep} keys (H=8, D=64)"]
    none, pooled = RESTS.values()
    lines.append(f"  {'tokens':>7}{'PyTorch':>9}{none:>30}{pooled:>30}")
    faster = {rest: {} for rest in RESTS}
    for T, taken in found.items():
        line = f"  {T:7,}{seconds(taken['dense'].median):>9}"
        for rest in RESTS:
            gain = timing.ratio(taken["dense"], taken[rest])
            faster[rest][T] = int(gain.low > 1) - int(gain.high < 1)
            told = f"{gain.value:.2f}x [{gain.low:.2f}, {gain.high:.2f}]"
            line += f"{seconds(taken[rest].median):>10}{told:>20}"
        lines.append(line)
    for rest, told in RESTS.items():
        lines.append(f"  So with the {told} it {by_length(faster[rest])}.")
    return lines


def by_length(faster: dict[int, int]) -> str:
    """What the intervals say of each length: 1 it wins, -1 it loses, 0 neither."""
    parts = []
    for sign, verb in ((1, "wins at"), (-1, "loses at"), (0, "is level at")):
        at = [f"{T:,}" for T, found in faster.items() if found == sign]
        if at:
            parts.append(f"{verb} {' and '.join(at)}")
    return "; ".join(parts)


def verdict(gain: float, half: float, rival: str) -> str:
    """wins over, loses to, or is level with: what an interval of a gain says."""
    if abs(gain) <= half:
        return f"is level with {rival}: {gain:+.3f} ± {half:.3f}"
    told = "wins over" if gain > 0 else "loses to"
    return f"{told} {rival} by {abs(gain):.3f} ± {half:.3f}"


def difference(theirs: Sequence[float], ours: Sequence[float]) -> tuple[float, float]:
    """How much less ours is, in the mean of pairs, and half of its 95% interval."""
    return mean_interval(a - b for a, b in zip(theirs, ours, strict=True))


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    return sum(values) / len(values)
