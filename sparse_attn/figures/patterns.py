"""Figures of sparse patterns: who sees whom, and the blocks that hold them."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch, Rectangle

from sparse_attn.checks import check_count
from sparse_attn.figures.style import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PALE,
    PINK,
    SKY,
    WIDTH,
    Plot,
    styled,
)
from sparse_attn.patterns import (
    Causal,
    Pattern,
    Random,
    bigbird,
    blocks,
    fixed,
    sliding_window,
    strided,
)

LOOKS = (  # of the lines of a figure, up to six
    (BLUE, "o"),
    (ORANGE, "s"),
    (GREEN, "^"),
    (PINK, "D"),
    (SKY, "v"),
    (INK, "P"),
)
_HEADS = (BLUE, ORANGE, GREEN, PINK, SKY)
_ACROSS = 4  # masks in a row
_DEEP, _THROWN = "#00395a", "#f4bf97"  # pairs of full blocks; computed for nothing

KINDS = {
    "window 65": sliding_window(65),
    "strided 32": strided(32),
    "fixed 32, 4": fixed(32, 4),
    "random 32 keys": Random(32, among=Causal()),
    "random blocks": Random(2, among=Causal()).of_blocks(16) & Causal(),
    "BigBird 32": bigbird(32, 2) & Causal(),
}


@styled
def mask_gallery(named: dict[str, Pattern | tuple[Pattern, ...]], T: int = 48) -> Plot:
    """The masks of many patterns side by side, each with its share of the T² pairs.

    A tuple is a pattern for each head: equal heads share a color, a pair that several
    different heads see is dark, and the share is the mean of the heads.
    """
    heads = {n: (p,) if isinstance(p, Pattern) else tuple(p) for n, p in named.items()}
    shares = {
        name: sum(one.pairs(T) for one in each) / len(each) / T**2
        for name, each in heads.items()
    }
    rows, across = -(-len(heads) // _ACROSS), min(_ACROSS, max(3, len(heads)))
    side = WIDTH / _ACROSS
    plot = Plot(height=0.45 + (side + 0.2) * rows, width=across * side)
    few, many = min(shares, key=shares.get), max(shares, key=shares.get)
    finding = f"From {shares[few]:.1%} to {shares[many]:.1%} of the pairs"
    headline(plot, f"{finding}, {T} tokens")
    axes = plot.subplots(rows, across, squeeze=False).flatten()
    for ax, (name, each) in zip(axes, heads.items(), strict=False):
        draw_mask(ax, _by_head([one.mask(T).numpy() for one in dict.fromkeys(each)]))
        count = f", {len(each)} heads" if len(each) > 1 else ""
        ax.set_title(f"{name}\n{shares[name]:.1%}{count}", fontsize=9, loc="center")
    for ax in axes[len(heads) :]:
        ax.set_visible(False)
    said = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    colors = " Where heads differ, a color for each, dark for several, and the mean."
    return plot.describe(
        caption=f"Pairs allowed among {T} tokens: {said}."
        + colors * any(len(each) > 1 for each in heads.values()),
        alt=f"{len(heads)} squares, queries down and keys across, allowed pairs "
        f"filled. {finding}: {few} the fewest, {many} the most.",
    )


def headline(plot: Plot, text: str, size: float = 11):
    """A title over the whole figure, from its left edge."""
    plot.suptitle(text, x=0.01, ha="left", fontsize=size, fontweight="bold")


def _by_head(masks: Sequence[np.ndarray]) -> np.ndarray:
    """(T, T, 3) colors: white, each head's own, and ink where several see the pair."""
    picture = np.ones((*masks[0].shape, 3))
    for mask, color in zip(masks, _HEADS * len(masks), strict=False):
        picture[mask] = to_rgb(color)
    picture[np.sum(masks, axis=0) > 1] = to_rgb(INK)
    return picture


def draw_mask(ax, picture: np.ndarray):
    """A square of colors (T, T, 3), cell by cell, in a thin frame."""
    ax.imshow(picture, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    ax.spines[:].set(visible=True, linewidth=0.6)


@styled
def neighbors(named: dict[str, Pattern], words: list[str], token: int) -> Plot:
    """Which words the word at index `token` sees: a row of boxes for each pattern.

    At the right end, all allowed pairs of the sentence. Raises ValueError for a token
    that is not among the words.
    """
    n = len(words)
    check_count("token", token, least=0, most=n - 1)
    seen = {name: pattern.mask(n)[token].tolist() for name, pattern in named.items()}
    pairs = {name: pattern.pairs(n) for name, pattern in named.items()}

    plot = Plot(height=0.5 + 0.58 * len(named))
    counts = {name: sum(row) for name, row in seen.items()}
    few, many = min(counts.values()), max(counts.values())
    span = f"{few} to {many}" if few < many else f"{few}"
    finding = f"“{words[token]}” sees {span} of {n} words"
    headline(plot, finding)
    ax = plot.add_subplot()
    for y, (name, row) in enumerate(seen.items()):
        ax.text(-0.46, y - 0.37, name, fontsize=9, va="bottom")
        label = f"{pairs[name]:,} pairs"
        ax.text(n - 0.35, y, label, fontsize=10, va="center", fontweight="bold")
        for x, (word, sees) in enumerate(zip(words, row, strict=True)):
            _word(ax, x, y, word, sees=sees, asks=x == token)
    ax.set(xlim=(-0.5, n + 0.75), ylim=(len(named) - 0.6, -0.85))
    ax.set_axis_off()
    said = "; ".join(
        f"{name}: {', '.join(w for w, s in zip(words, row, strict=True) if s) or '-'}"
        for name, row in seen.items()
    )
    return plot.describe(
        caption=f"{finding}: {', '.join(f'{k} {v}' for k, v in counts.items())}. "
        "Pairs of the whole sentence: "
        + ", ".join(f"{name} {count:,}" for name, count in pairs.items())
        + ".",
        alt=f"A row of words for each pattern; “{words[token]}”, framed, asks, and the "
        f"words it sees are filled. {said}.",
    )


def _word(ax, x: float, y: float, word: str, *, sees: bool, asks: bool):
    box = dict(fc=BLUE if sees else PALE, ec=ORANGE if asks else "white")
    width = 3.0 if asks else 1.0
    place = (x - 0.46, y - 0.32)
    ax.add_patch(Rectangle(place, 0.92, 0.64, lw=width, zorder=2 + asks, **box))
    ax.text(
        x,
        y,
        word,
        color="white" if sees else INK,
        fontsize=9,
        ha="center",
        va="center",
        zorder=4,
    )


@styled
def block_waste(kind: str, block: int) -> Plot:
    """512 tokens in square blocks: the pairs allowed, the blocks computed for them.

    kind: a name from KINDS; block: the side of a block.
    Raises ValueError for another kind, or a block below 1.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: choose from {list(KINDS)}")
    T, pattern = 512, KINDS[kind]
    found = blocks(pattern, T, block, block)
    mask, share = pattern.mask(T).numpy(), found.pairs / T**2
    said = f"{share:.1%} of the square, listed blocks {found.share:.1%}"
    finding = f"{kind}, blocks of {block}: {found.waste:.0%} of the work is waste"

    plot = Plot(height=4.4)
    plot.set_layout_engine("none")
    headline(plot, finding)
    # A pixel for each token in the frames of an explorer, so that none is lost.
    ax = plot.add_axes((0.02, 0.02, T / 130 / WIDTH, T / 130 / 4.4))
    draw_mask(ax, _by_block(mask, found))
    bars = plot.add_axes((0.63, 0.5, 0.3, 0.36))
    rows = {"pairs": (share, 0), "listed blocks": (share, found.share - share)}
    for y, (name, (useful, thrown)) in enumerate(rows.items()):
        bars.barh(y, 1, color=PALE, height=0.35)
        bars.barh(y, useful, color=BLUE, height=0.35)
        bars.barh(y, thrown, left=useful, color=_THROWN, height=0.35)
        label = f"{name}: {useful + thrown:.1%}"
        bars.text(0, y - 0.26, label, va="bottom", fontsize=11)
    bars.set(xlim=(0, 1), ylim=(1.3, -0.6))
    bars.set_axis_off()
    full = int(found.full.sum())
    entries = {
        f"allowed, in {full:,} full block{'s' * (full != 1)}": _DEEP,
        f"allowed, in {found.listed - full:,} others": BLUE,
        "computed and thrown away": _THROWN,
    }
    plot.legend(
        handles=[Patch(color=color, label=name) for name, color in entries.items()],
        loc="upper left",
        bbox_to_anchor=(0.6, 0.42),
        fontsize=10,
    )
    return plot.describe(
        caption=f"{finding}. Pairs {said}: {found.listed:,} of "
        f"{(-(-T // block)) ** 2:,}, {full:,} of them full.",
        alt=f"Square of {T} queries by {T} keys: allowed pairs, and the blocks around "
        f"them shaded. {finding}: pairs {said}.",
    )


def _by_block(mask: np.ndarray, found) -> np.ndarray:
    """(T, T, 3) colors: allowed, in full blocks and others; thrown away; not listed."""
    kinds = np.zeros((len(found.counts), -(-found.T // found.block_k)), dtype=int)
    kinds[found.row, found.column] = 1 + found.full.numpy()
    kinds = kinds.repeat(found.block_q, 0).repeat(found.block_k, 1)
    kinds = kinds[: found.T, : found.T]
    colors = np.array([to_rgb(c) for c in ("white", _THROWN, _DEEP)])
    picture = colors[kinds]
    picture[mask & (kinds == 1)] = to_rgb(BLUE)
    return picture
