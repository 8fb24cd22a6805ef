"""Figures of FlashAttention's tiles: the walk step by step, and the room one takes."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from matplotlib.patches import Rectangle

from sparse_attn import cost, flash
from sparse_attn.checks import check_count
from sparse_attn.counting import SlowMemory
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

WALKS = {"outer queries": flash.outer_q_walk, "outer keys": flash.outer_kv_walk}
_COLORS = dict(Q=SKY, K=GREEN, V=PINK, O=BLUE, S=ORANGE, m=INK, l=INK)
_DONE = "#b5d9f0"


@styled
def tile_walk(
    step: int,
    order: str,
    T: int = 128,
    D: int = 16,
    block_q: int = 32,
    block_k: int = 16,
    causal: bool = False,
) -> Plot:
    """One moment of a walk: tiles done, what fast memory holds, elements moved so far.

    step: from 1; past the end, the last. order: "outer queries" or "outer keys".
    Raises ValueError for another order or a step below 1.
    """
    check_count("step", step)
    if order not in WALKS:
        raise ValueError(f"order={order!r}: choose from {list(WALKS)}")
    steps = _walk(order, T, D, block_q, block_k, causal)
    at = min(step, len(steps))
    now = steps[at - 1]
    whole = cost.naive_elements(T, D).moved
    held = {name: int(np.prod(now.holds.get(name, 0))) for name in _COLORS}
    most = cost.tile_memory(D, min(block_q, T), min(block_k, T))

    plot = Plot(height=3.7)
    left, right = plot.subfigures(1, 2, width_ratios=[1.1, 1.15])
    plot.suptitle(f"Step {at} of {len(steps)}: {now.moved:,} elements moved",
                  x=0.01, ha="left", fontsize=11, fontweight="bold")  # fmt: skip
    tally = _grid(left.add_subplot(), steps[:at], T, block_q, block_k, causal)
    memory, counters = right.subplots(2, 1, height_ratios=[1, 1.5])
    _boxes(memory, _slots(held, D, min(block_q, T), min(block_k, T)), most)
    memory.set_title(f"fast memory: {sum(held.values()):,} elements", fontsize=10)
    _counters(counters, now, whole)

    where = f"queries {now.queries.start} to {now.queries.stop - 1}"
    if now.keys is not None:
        where += f" meet keys {now.keys.start} to {now.keys.stop - 1}"
    else:
        where += " are finished, their output written"
    end = f" (the walk ends before step {step})" if step > at else ""
    finding = f"{order.capitalize()}, step {at} of {len(steps)}{end}: {where}"
    return plot.describe(
        caption=f"{finding}. {now.moved:,} elements moved so far; the plain program "
        f"moves {whole:,}. Fast memory holds {sum(held.values()):,}.",
        alt=f"Grid of score tiles, queries down and keys across: {tally}. {finding}. "
        "Boxes of fast memory: "
        + ", ".join(f"{name} {n:,}" for name, n in held.items() if n)
        + f". Counters: read {now.read:,}, written {now.written:,}, moved "
        f"{now.moved:,} of the plain program's {whole:,}.",
    )


@lru_cache(maxsize=16)
def _walk(order, T, D, block_q, block_k, causal) -> tuple[flash.Step, ...]:
    """Every step of a walk over random numbers, without its tensors."""
    seed = torch.Generator().manual_seed(0)
    qkv = (torch.randn(T, D, generator=seed) for _ in range(3))
    walk = WALKS[order](
        SlowMemory(), *qkv, block_q=block_q, block_k=block_k, causal=causal
    )
    return tuple(replace(step, out=None, m=None, l=None) for step in walk)


def _grid(ax, steps, T, block_q, block_k, causal) -> str:
    """The T x T scores in tiles, colored by what became of them; says how many."""
    rows, columns = range(0, T, block_q), range(0, T, block_k)
    now = steps[-1]
    done = {(s.queries.start, s.keys.start) for s in steps if s.keys is not None}
    current = (now.queries.start, now.keys.start) if now.keys is not None else None
    skipped = 0
    for a in rows:
        for b in columns:
            hidden = causal and b >= min(a + block_q, T)
            skipped += hidden
            look = dict(fc="white", ec=INK, lw=0.6)
            if (a, b) == current:
                look |= dict(fc=ORANGE)
            elif (a, b) in done:
                look |= dict(fc=_DONE)
            elif hidden:
                look |= dict(fc="white", hatch="///", hatch_linewidth=0.5)
            w, h = min(block_k, T - b), min(block_q, T - a)
            ax.add_patch(Rectangle((b, a), w, h, **look))
    a, b = now.queries.start, now.queries.stop
    if now.keys is None:
        ax.add_patch(Rectangle((0, a), T, b - a, fill=False, ec=ORANGE, lw=3, zorder=3))
    if causal:
        ax.plot([0, T], [0, T], color=INK, lw=1.2)
    ax.set(xlim=(-0.01 * T, 1.01 * T), ylim=(1.01 * T, -0.01 * T), aspect="equal")
    ax.set(
        xlabel="key", ylabel="query", xticks=_thin(columns, T), yticks=_thin(rows, T)
    )
    ax.grid(False)
    ax.spines[:].set_visible(False)
    visited, total = len(done), len(rows) * len(columns)
    return (
        f"{visited} of {total} done, "
        + ("" if current is None else "the last of them now, ")
        + f"{skipped} skipped, "
        f"{total - visited - skipped} to come"
    )


def _thin(marks: range, end: int) -> list[int]:
    """About four of the marks, and the end."""
    few = list(marks)[:: -(-len(marks) // 4)]
    return [n for n in few if end - n > 0.1 * end] + [end]


def _slots(held, D, block_q, block_k) -> dict[str, tuple[int, bool]]:
    """name -> (elements of its place, is it there); `held` wins for short tiles."""
    room = _tile_parts(D, block_q, block_k)
    return {name: (held[name] or room[name], held[name] > 0) for name in room}


def _tile_parts(D: int, block_q: int, block_k: int) -> dict[str, int]:
    return dict(Q=block_q * D, K=block_k * D, V=block_k * D, O=block_q * D,
                S=block_q * block_k, m=block_q, l=block_q)  # fmt: skip


def _boxes(ax, slots: dict[str, tuple[int, bool]], span: float):
    """Tiles side by side, as wide as they have elements; an empty place is white.

    Names stand inside, or above where a box is narrow: neighbors share a label.
    """
    left, narrow = 0, []  # [names, where the first begins, where the last ends]
    for name, (n, there) in slots.items():
        look = (
            dict(fc=_COLORS[name], ec="white") if there else dict(fc="white", ec=PALE)
        )
        ax.add_patch(Rectangle((left, 0), n, 1, lw=1, **look))
        if n >= 0.035 * span:
            ax.text(left + n / 2, 0.5, name, ha="center", va="center", weight="bold",
                    color="white" if there else INK)  # fmt: skip
        elif narrow and narrow[-1][2] == left:
            narrow[-1][0].append(name)
            narrow[-1][2] += n
        else:
            narrow.append([[name], left, left + n])
        left += n
    for names, a, b in narrow:
        ax.text((a + b) / 2, 1.05, ", ".join(names), ha="center", fontsize=9)
    ax.set(xlim=(0, span), ylim=(0, 1.3), yticks=[])
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    ax.grid(False)
    ax.spines["left"].set_visible(False)


def _counters(ax, now, whole: int):
    values = dict(read=now.read, written=now.written, moved=now.moved)
    for (name, n), color in zip(values.items(), (SKY, GREEN, BLUE), strict=True):
        ax.barh(name, n, 0.62, color=color)
        ax.text(n + 0.015 * whole, name, f"{n:,}", va="center", fontsize=9)
    ax.axvline(whole, color=ORANGE, lw=2)
    ax.set(xlim=(0, 1.25 * whole), xticks=[0, whole])
    ax.set_xticks([0, whole], ["0", f"plain program: {whole:,}"])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)


@styled
def tile_occupancy(block_q: int, block_k: int, D: int = 64, M: int = 25_600) -> Plot:
    """What a tile needs in fast memory, by part, against its M elements."""
    parts, needs = (
        _tile_parts(D, block_q, block_k),
        cost.tile_memory(D, block_q, block_k),
    )
    verdict = "fits" if needs <= M else "exceeds"
    finding = f"{block_q} queries by {block_k} keys: {needs:,} of {M:,} elements, " + (
        f"{M - needs:,} to spare" if needs <= M else f"{needs - M:,} too many"
    )
    plot = Plot(height=2.0)
    ax = plot.add_subplot(title=finding)
    _boxes(ax, {name: (n, True) for name, n in parts.items()}, 1.1 * max(needs, M))
    ax.axvline(M, color=INK, lw=2)
    ax.text(M, 1.36, f" M = {M:,}", weight="bold", va="center")
    ax.set(ylim=(0, 1.5), xlabel="elements of fast memory")
    said = ", ".join(f"{name} {n:,}" for name, n in parts.items())
    return plot.describe(
        caption=f"{finding}: it {verdict}. D = {D}.",
        alt=f"A bar of {said} against a line at {M:,} elements. {finding}.",
    )
