"""The steps of LSH attention on a few tokens: hash, sort, cut, hide, and back."""

import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle

from sparse_attn import hashing
from sparse_attn.figures.hashing import DIRECTIONS, sectors
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


@styled
def sort_and_chunk_steps(step: int) -> Plot:
    """24 tokens on their way through LSH attention, step 1 to 5; causal, one round.

    Hash, sort, cut, hide, and back to text order. Counted are pairs of a token and an
    earlier one; scores within reach are all that chunks compute.
    """
    if step not in range(1, 6):
        raise ValueError(f"step={step!r}: from 1 to 5 is needed")
    example = _Example()
    title, draw = (
        (f"{example.earlier} pairs of a token and an earlier one", _hash),
        (f"{example.shared.sum()} pairs share a bucket", _sort),
        (f"{example.reach.sum()} scores within reach", _cut),
        (f"{example.kept.sum()} pairs of one bucket stay", _hide),
        (f"{example.kept.sum()} pairs seen, {example.lost.sum()} lost", _back),
    )[step - 1]
    name = (
        "Hash",
        "Sort by bucket",
        f"Chunks of {CHUNK}",
        "Hide",
        "Back in text order",
    )
    plot = Plot(height=4.2)
    finding = f"{step}. {name[step - 1]}: {title}"
    plot.suptitle(finding, x=0.01, ha="left", fontsize=11, weight="bold")
    happened = draw(plot, example)
    sizes = ", ".join(map(str, np.bincount(example.bucket)))
    return plot.describe(
        caption=f"{finding}. {happened}",
        alt=f"Step {step} of 5 with {TOKENS} tokens in buckets of {sizes}. {finding}. "
        f"{happened}",
    )


TOKENS, BUCKETS, CHUNK = 24, 4, 6
_BUCKET_COLORS = (SKY, GREEN, PINK, INK)


class _Example:
    """Vectors around a few directions, and what `hashing` makes of them.

    Squares are (T, T) bool by query and key; `reach` is in sorted order, of places.
    """

    def __init__(self):
        generator = torch.Generator().manual_seed(618)  # uneven, and far from borders
        centers = torch.randn(6, 2, generator=generator)
        around = torch.randint(6, (TOKENS,), generator=generator)
        x = centers / centers.norm(dim=-1, keepdim=True)
        x = x[around] + 0.25 * torch.randn(TOKENS, 2, generator=generator)

        R = hashing.rotations(2, BUCKETS, seed=DIRECTIONS)
        found = hashing.hash_buckets(x, R)[0]
        chunks = hashing.sort_and_chunk(found, CHUNK)
        rule = dict(buckets=BUCKETS, causal=True, seed=DIRECTIONS)
        seen = hashing.lsh_pairs(x[None, None], chunk=CHUNK, **rule)[0, 0].numpy()
        x = x[None, None]
        shared = hashing.shared_bucket_pairs(x, x, **rule)[0, 0].numpy()

        others = ~np.eye(TOKENS, dtype=bool)
        self.x, self.bucket, self.order = x[0, 0], found.numpy(), chunks.order.numpy()
        self.alone = np.flatnonzero(seen.diagonal())
        self.kept, self.shared = seen & others, shared & others
        self.lost = self.shared & ~self.kept
        number = np.sort(chunks.number.numpy())
        back = number[:, None] - number
        self.reach = (back == 0) | (back == 1)
        self.earlier = TOKENS * (TOKENS - 1) // 2


def _hash(plot, example) -> str:
    top, low = plot.subplots(2, 1, height_ratios=[1.15, 4.5])
    _cells(top, range(TOKENS), 0, example)
    _frame(top)
    for bucket in range(BUCKETS):
        x, y = example.x[example.bucket == bucket].T
        low.plot(x, y, "o", color=_BUCKET_COLORS[bucket], label=f"bucket {bucket}")
    for start, *_ in sectors(BUCKETS):
        turn = np.radians(start)
        low.plot(
            [0, 1.5 * np.cos(turn)], [0, 1.5 * np.sin(turn)], "--", color=INK, lw=1
        )
    low.set(aspect="equal", xticks=[], yticks=[])
    low.grid(visible=False)
    low.spines[:].set_visible(False)
    low.legend(loc="center left", bbox_to_anchor=(1.1, 0.5))
    sizes = np.bincount(example.bucket)
    return f"Buckets are sectors of the plane, of {', '.join(map(str, sizes))} tokens."


def _sort(plot, example) -> str:
    _strips(plot.add_subplot(), example)
    return "Within a bucket, tokens stay in the order of the text."


def _cut(plot, example) -> str:
    ax = plot.add_subplot()
    _strips(ax, example)
    for x in range(0, TOKENS + 1, CHUNK):
        ax.plot([x, x], [3.55, 5.35], color=INK, lw=3, solid_capstyle="butt")
    for n in range(TOKENS // CHUNK):
        ax.text((n + 0.5) * CHUNK, 5.3, f"chunk {n}", ha="center", va="center")
    return (
        "Each token is compared with its own chunk and the one before, "
        f"{example.reach.sum() / TOKENS:g} tokens on average instead of {TOKENS}."
    )


def _strips(ax, example):
    """Text order above, sorted below, and where each token goes."""
    _cells(ax, range(TOKENS), 0, example)
    _cells(ax, example.order, 3.7, example)
    for place, token in enumerate(example.order):
        ax.plot([token + 0.5, place + 0.5], [1.05, 3.65], lw=1.5, zorder=1,
                color=_BUCKET_COLORS[example.bucket[token]])  # fmt: skip
    _frame(ax)
    ax.set_ylim(5.7, -0.1)


def _cells(ax, tokens, y, example):
    for place, token in enumerate(tokens):
        color = _BUCKET_COLORS[example.bucket[token]]
        ax.add_patch(Rectangle((place, y), 1, 1, fc=color, ec="white", lw=1.5))
        ax.text(place + 0.5, y + 0.5, str(token), ha="center", va="center", fontsize=9,
                color="white" if color == INK else "black")  # fmt: skip


def _frame(ax):
    ax.set(xlim=(-0.1, TOKENS + 0.1), ylim=(1.05, -0.05))
    ax.set_axis_off()


def _hide(plot, example) -> str:
    order = example.order
    kept = example.kept[np.ix_(order, order)]
    _square(plot, example, order, "sorted by bucket", {
        "within reach, hidden": (PALE, example.reach & ~kept),
        "seen": (BLUE, kept),
    })  # fmt: skip
    hidden = (example.reach & ~kept).sum()
    return (
        f"Other buckets, later tokens and the token itself are hidden: {hidden} scores."
    )


def _back(plot, example) -> str:
    _square(plot, example, np.arange(TOKENS), "in text order", {
        "seen": (BLUE, example.kept),
        "one bucket, but lost": (ORANGE, example.lost),
    })  # fmt: skip
    return (
        f"Lost are those that chunks parted, {example.lost.sum()} of "
        f"{example.shared.sum()} in one bucket. {len(example.alone)} tokens have none "
        "before them in their bucket and see themselves."
    )


def _square(plot, example, order, says, kinds: dict):
    ax = plot.add_subplot()
    values = np.zeros((TOKENS, TOKENS), dtype=int)
    for i, (_, where) in enumerate(kinds.values(), 1):
        values[where] = i
    colors = ListedColormap(["white", *(color for color, _ in kinds.values())])
    ax.imshow(values, cmap=colors, vmin=0, vmax=len(kinds), interpolation="nearest",
              extent=(0, TOKENS, TOKENS, 0))  # fmt: skip
    for place, token in enumerate(order):
        color = _BUCKET_COLORS[example.bucket[token]]
        for corner in ((place, -1.3), (-1.3, place)):
            ax.add_patch(Rectangle(corner, 1, 1, fc=color, ec="white", lw=0.8))
    edges = np.arange(TOKENS + 1)
    ax.hlines(edges, 0, TOKENS, color=PALE, lw=0.4)
    ax.vlines(edges, 0, TOKENS, color=PALE, lw=0.4)
    ax.set(xlim=(-1.4, TOKENS + 0.1), ylim=(TOKENS + 0.1, -1.4), xticks=[], yticks=[])
    ax.set(xlabel=f"keys, {says}", ylabel=f"queries, {says}")
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    for name, (color, where) in kinds.items():
        ax.plot([], [], "s", color=color, ms=9, label=f"{where.sum()} {name}")
    for bucket, color in enumerate(_BUCKET_COLORS):
        ax.plot([], [], "s", color=color, ms=9, label=f"bucket {bucket}")
    ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=10)
