"""Figures of patterns as graphs: how far a token reaches, layer after layer."""

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch
from scipy.sparse import triu

from sparse_attn.checks import check_counts
from sparse_attn.figures.patterns import LOOKS, draw_mask, headline
from sparse_attn.figures.style import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    WIDTH,
    Plot,
    styled,
)
from sparse_attn.patterns import Globals, Pattern, Random, Window
from sparse_attn.patterns.graph import adjacency, hops, reach

_T, _LAYERS = 64, 6  # of the composer
_ENOUGH = 0.99
_OLD = "#a9cfe6"  # reached before


@styled
def composer(window: int, random: int, globals_: int) -> Plot:
    """A pattern of three parts over 64 tokens, its mask and its reach over 6 layers.

    window: keys on each side of the query; random: keys drawn for each query;
    globals_: first tokens that see all and are seen by all. Zero leaves a part out,
    except that a query always sees itself. Reach: mean share of all tokens.
    """
    near = "window" if window else "itself"
    parts = {near: (Window(window, window), BLUE)}
    if random:
        parts["random"] = (Random(random), ORANGE)
    if globals_:
        parts["global"] = (Globals(range(globals_)), GREEN)
    pattern, *others = (part for part, _ in parts.values())
    for part in others:
        pattern = pattern | part
    pairs = pattern.pairs(_T)
    share = reach(adjacency(pattern, _T), _LAYERS).mean(axis=1) / _T
    layers = _first(share)
    until = (
        f"{_layers(layers)} to 99%" if layers else f"not 99% within {_LAYERS} layers"
    )

    plot = Plot(height=3.3)
    plot.set_layout_engine("none")
    headline(plot, f"{pairs:,} pairs ({pairs / _T**2:.1%}): {until}")
    # Five pixels for a token in the frames of an explorer: even, and few bytes.
    left = plot.add_axes((0.02, 0.12, 5 * _T / 130 / WIDTH, 5 * _T / 130 / 3.3))
    right = plot.add_axes((0.47, 0.18, 0.49, 0.66))
    picture = np.ones((_T, _T, 3))
    for name in ("random", near, "global"):  # the later one on top
        if name in parts:
            part, color = parts[name]
            picture[part.mask(_T).numpy()] = to_rgb(color)
    draw_mask(left, picture)
    left.legend(
        handles=[Patch(color=color, label=name) for name, (_, color) in parts.items()],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.01),
        ncols=3,
        columnspacing=1,
        handlelength=1,
        borderpad=0,
    )
    right.plot(range(_LAYERS + 1), share, "o-", color=INK)
    right.axhline(_ENOUGH, color=INK, lw=1, ls=":")
    for at, side in ((0, "right"), (_LAYERS, "center")):
        below = -16 if share[at] > 0.5 else 8
        right.annotate(
            f"{share[at]:.0%}",
            (at, share[at]),
            (-7, -1) if at == 0 else (0, below),
            textcoords="offset points",
            ha=side,
            fontweight="bold",
        )
    right.set(xticks=range(_LAYERS + 1), ylim=(0, 1.04), xlabel="layers")
    right.set(xlim=(-0.9, _LAYERS + 0.4), yticks=[0, 0.5, 1])
    right.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
    right.set_title("share of tokens reached", fontsize=10, fontweight="normal")
    said = ", ".join(f"{x:.0%}" for x in share)
    made = f"Window {window} on each side, {random} random keys, {globals_} global"
    return plot.describe(
        caption=f"{made}: {pairs:,} of {_T**2:,} pairs, {until}, on average over "
        f"{_T} tokens.",
        alt=f"Left, the mask. Right, the mean share of tokens reached after 0 to "
        f"{_LAYERS} layers: {said}.",
    )


def _first(share: np.ndarray) -> int | None:
    """The first layer after which 99% are reached, None for not within these."""
    enough = np.flatnonzero(share >= _ENOUGH)
    return int(enough[0]) if len(enough) else None


def _layers(n: int) -> str:
    return f"{n} layer{'s' * (n != 1)}"


@styled
def reach_by_layers(named: dict[str, Pattern], T: int, layers: int) -> Plot:
    """Share of the pairs of tokens that 0..layers layers connect, a line per pattern.

    A pattern that never looks ahead is measured against the T (T+1) / 2 pairs that a
    causal one can connect at most, every other against T². Colors repeat after six.
    """
    check_counts(layers=layers)
    shares = {}
    for name, pattern in named.items():
        graph = adjacency(pattern, T)
        causal = triu(graph, 1).nnz == 0
        possible = T * (T + 1) / 2 if causal else T * T
        shares[name] = reach(graph, layers).sum(axis=1) / possible
    when = {name: _first(share) for name, share in shares.items()}
    best = min((n for n in when.values() if n is not None), default=None)
    if best is None:
        finding = f"None reaches 99% within {_layers(layers)}"
    else:
        first = [name for name, n in when.items() if n == best]
        finding = f"First to 99%: {', '.join(first)}, after {_layers(best)}"

    plot = Plot(height=3.8)
    headline(plot, finding)
    ax = plot.add_subplot()
    places = _spread([share[-1] for share in shares.values()], gap=0.085)
    for i, (name, share) in enumerate(shares.items()):
        color, marker = LOOKS[i % len(LOOKS)]
        ax.plot(range(layers + 1), share, f"{marker}-", color=color)
        end = f"{share[-1]:.0%}" if when[name] is None else _layers(when[name])
        leader = ([1.02 * layers, 1.1 * layers], [share[-1], places[i]])
        ax.plot(*leader, color=color, lw=1.5, clip_on=False)
        label = f"{name}: {end}"
        ax.text(1.12 * layers, places[i], label, va="center", fontsize=9)
    ax.axhline(_ENOUGH, color=INK, lw=1, ls=":")
    ax.set(xlim=(-0.05 * layers, 1.04 * layers), ylim=(0, 1.04))
    ax.set(xticks=range(layers + 1), xlabel="layers")
    ax.set_ylabel("share of pairs connected")
    ax.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
    ends = ", ".join(f"{name} {share[-1]:.0%}" for name, share in shares.items())
    said = "; ".join(
        f"{name} {', '.join(f'{x:.0%}' for x in share)}"
        for name, share in shares.items()
    )
    return plot.describe(
        caption=f"{finding} ({T:,} tokens). After {_layers(layers)}: {ends}.",
        alt=f"Lines of the share of pairs connected, layer by layer from 0: {said}.",
    )


def _spread(heights: list[float], gap: float) -> list[float]:
    """Heights moved down, as little as needed, until any two are `gap` apart."""
    order = sorted(range(len(heights)), key=lambda i: -heights[i])
    found, last = [0.0] * len(heights), np.inf
    for i in order:
        last = found[i] = min(heights[i], last - gap)
    lift = max(0, -last)  # none below the axis
    return [y + lift for y in found]


@styled
def receptive_field(named: dict[str, Pattern], T: int, layers: int) -> Plot:
    """Which of T tokens can influence the last one, a strip of rows for each pattern.

    Rows are layers 1 to `layers`; a token is dark in the layer that reaches it first,
    light in those after. The residual stream keeps what was reached.
    """
    check_counts(layers=layers)
    plot = Plot(height=0.8 + (0.32 + 0.17 * layers) * len(named))
    axes = plot.subplots(len(named), 1, sharex=True, squeeze=False).flatten()
    counts = {}
    for ax, (name, pattern) in zip(axes, named.items(), strict=True):
        far = hops(adjacency(pattern, T), T - 1)
        rows = np.arange(1, layers + 1)[:, None]
        picture = np.ones((layers, T, 3))
        picture[far < rows] = to_rgb(_OLD)
        picture[far == rows] = to_rgb(BLUE)
        picture[:, -1] = to_rgb(ORANGE)
        draw_mask(ax, picture)
        ax.set_aspect("auto")
        ax.hlines(rows[:-1, 0] - 0.5, -0.5, T - 0.5, color="white", lw=1.5)
        ax.set_yticks(range(layers), rows[:, 0], fontsize=8)
        counts[name] = (far <= rows).sum(axis=1).tolist()
        ax.tick_params(axis="x", length=0)
        ax.set_title(f"{name}: {', '.join(map(str, counts[name]))}", fontsize=9, pad=3)
    marks = sorted({*range(0, T - T // 16, max(1, T // 4)), T - 1})
    axes[-1].set(xticks=marks, xlabel="token; rows are layers")
    axes[-1].tick_params(axis="x", labelsize=9, length=3)
    most = max(count[-1] for count in counts.values())
    best = [name for name, count in counts.items() if count[-1] == most]
    finding = f"After {_layers(layers)} the last token knows at most {most:,} of {T:,}"
    headline(plot, finding)
    said = "; ".join(
        f"{name} {', '.join(f'{n:,}' for n in count)}" for name, count in counts.items()
    )
    return plot.describe(
        caption=f"{finding} ({', '.join(best)}). Tokens, itself included, layer by "
        f"layer: {said}.",
        alt=f"A strip for each pattern, a row for each of {_layers(layers)} and a "
        f"column for each of {T:,} tokens, filled where the last token, orange, is "
        f"reached by it: {said}.",
    )
