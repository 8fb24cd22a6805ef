"""Figures of who sees whom: squares of queries by keys."""

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from sparse_attn.figures.style import BLUE, INK, PALE, WIDTH, Plot, styled

_BLUES = LinearSegmentedColormap.from_list("paper_to_blue", ["#ffffff", BLUE])


@styled
def weight_grid(weights: np.ndarray, words: list[str]) -> Plot:
    """Attention weights as a square, (T, T) for T words: a row per query, sums to 1."""
    query, key = np.unravel_index(np.argmax(weights), weights.shape)
    finding = (
        f"“{words[query]}” gives most: {weights[query, key]:.2f} to “{words[key]}”"
    )
    plot = Plot(height=4.0, width=5.2)
    ax = plot.add_subplot(title=finding)
    _square(ax, weights, words, cmap=_BLUES, vmin=0, vmax=1)
    for (t, s), w in np.ndenumerate(weights):
        ax.text(
            s,
            t,
            f"{w:.2f}",
            ha="center",
            va="center",
            fontsize=9,
            color="white" if w > 0.6 else INK,
        )
    ax.set(xlabel="key: the word looked at", ylabel="query: the word that looks")
    rows = "; ".join(
        f"{word}: " + ", ".join(f"{w:.2f}" for w in row)
        for word, row in zip(words, weights, strict=True)
    )
    return plot.describe(
        caption=f"Every row is one word's attention and sums to 1. {finding}.",
        alt=f"Square of attention weights, one row per word. {rows}.",
    )


@styled
def pair_grids(masks: dict[str, np.ndarray], words: list[str]) -> Plot:
    """The pairs that each pattern computes: name -> (T, T) bool, side by side."""
    plot = Plot(height=2.3, width=WIDTH)
    axes = plot.subplots(1, len(masks))
    counts = {name: int(mask.sum()) for name, mask in masks.items()}
    for ax, (name, mask) in zip(np.atleast_1d(axes), masks.items(), strict=True):
        T = len(mask)
        _square(
            ax,
            mask,
            words[-T:] if len(words) >= T else None,
            cmap=_BLUES,
            vmin=0,
            vmax=1.3,
        )
        ax.set_title(f"{name}\n{counts[name]} of {T * T}", fontsize=9, loc="center")
        ax.set(xticks=[], yticks=[])
    listing = ", ".join(f"{name} {n}" for name, n in counts.items())
    return plot.describe(
        caption=f"Pairs to compute, counted from the masks: {listing}.",
        alt=f"{len(masks)} squares of queries by keys, filled pairs: {listing}.",
    )


def _square(ax, values, words, **colors):
    T = len(values)
    ax.imshow(values, **colors)
    ax.grid(False)
    ax.hlines(np.arange(T + 1) - 0.5, -0.5, T - 0.5, color=PALE, lw=0.8)
    ax.vlines(np.arange(T + 1) - 0.5, -0.5, T - 0.5, color=PALE, lw=0.8)
    ax.spines[:].set_visible(False)
    if words is not None:
        ax.set_xticks(range(T), words)
        ax.set_yticks(range(T), words)
    ax.tick_params(length=0)
