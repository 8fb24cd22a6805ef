"""Figures of one-pass softmax and of tiles: how they are drawn, for `test_figures`;
their arithmetic, done here once more."""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.colors import to_hex

from sparse_attn import cost, figures
from sparse_attn.explore import MAX_BYTES, explore
from sparse_attn.figures.style import ORANGE
from sparse_attn.figures.tiles import WALKS

SCORES = np.random.default_rng(3).normal(scale=2, size=32).tolist()
LENGTHS = [64, 256, 1024, 4096]
ERRORS = {
    "fp16, formula": [1e-4, 2e-4, 5e-4, 4e-5],
    "fp16, online": [1e-4, 2e-4, 4e-4, 5e-5],
    "bf16, formula": [1e-3, 2e-3, 5e-3, 4e-4],
    "bf16, online": [1e-3, 3e-3, 5e-3, 4e-4],
}
PROGRAMS = {
    "plain": lambda M, N, D: cost.naive_elements(N, D),
    "outer queries": lambda M, N, D: cost.outer_q_elements(N, D, 64, M // 256),
    "outer keys": lambda M, N, D: cost.outer_kv_elements(N, D, 64, M // 256),
}


def counted(names):
    """Elements moved as M, N or D grows and the other two stay."""
    at = dict(M=16_384, N=4096, D=64)
    grown = {axis: [n // 4, n // 2, n, 2 * n] for axis, n in at.items()}
    return {
        axis: (
            values,
            {
                name: [PROGRAMS[name](**at | {axis: n}).moved for n in values]
                for name in names
            },
        )
        for axis, values in grown.items()
    }


DRAWN = {  # figure -> (arguments, what its caption must state)
    "running_maximum": (
        dict(scores=[0.0, -1.0, 1.0, 0.5, 3.0, 2.0, 0.0, 1.0], block=2),
        ["8 scores in blocks of 2", "jumps 2 times in 4 blocks"],
    ),
    "softmax_error": (
        dict(lengths=LENGTHS, errors=ERRORS),
        ["at most 1.5x", "fp16 1.2x", "bf16 1.5x", "bf16, online 4.0e-04"],
    ),
    "softmax_passes": (
        dict(rows={"three passes": (3, 4), "two passes, online": (2, 3)}),
        ["From 4", "to 3", "three passes: 3 passes, 4 moved", "2 passes, 3 moved"],
    ),
    "tile_occupancy": (
        dict(block_q=64, block_k=100),
        ["64 queries by 100 keys", "27,520 of 25,600", "1,920 too many", "exceeds"],
    ),
    "tile_traffic": (
        dict(N=4096, M=25_600),
        ["4,096", "25,600", "outer keys 0.491x", "68,157,440", "64 queries by 100"],
    ),
    "tile_walk": (
        dict(step=9, order="outer queries"),
        ["step 9 of 36", "5,152 elements", "73,728", "finished", "holds 1,088"],
    ),
    "traffic_scaling": (
        dict(counted=counted(["plain", "outer queries"])),
        ["plain: M 0.0, N 2.0, D 0.0", "outer queries: M 0.0, N 2.0, D 1.0"],
    ),
}
EXTREMES = [
    ("running_maximum", dict(scores=SCORES, block=block)) for block in (1, 8, 32)
]
EXTREMES += [
    ("running_maximum", dict(scores=sorted(SCORES), block=block)) for block in (1, 2)
]
EXTREMES += [
    ("tile_walk", dict(step=step, order=order, causal=causal))
    for step, order, causal in (
        (1, "outer queries", False),
        (36, "outer queries", False),
        (32, "outer keys", False),
        (30, "outer keys", True),
    )
]
EXTREMES += [("tile_walk", dict(step=9, order="outer keys", T=100, causal=True))]
EXTREMES += [
    ("tile_traffic", dict(N=N, M=M)) for N in (256, 16_384) for M in (4096, 65_536)
]
EXTREMES += [
    ("tile_occupancy", dict(block_q=q, block_k=k))
    for q in (16, 256)
    for k in (16, 100, 256)
]
EXTREMES += [("traffic_scaling", dict(counted=counted(list(PROGRAMS))))]


@pytest.mark.parametrize("block", [1, 2, 5, 8, 32])
def test_the_maximum_and_the_sum_of_the_figure_are_those_of_the_scores(block):
    plot = figures.running_maximum(SCORES, block)
    tops = [max(SCORES[: n + block]) for n in range(0, 32, block)]
    jumps = sum(b > a for a, b in pairwise(tops))
    l = sum(math.exp(x - max(SCORES)) for x in SCORES)
    times = f"{jumps} time{'s' * (jumps != 1)} in {len(tops)} block"
    assert f"the maximum jumps {times}" in plot.caption
    assert f"l ends at {l:.2f}" in plot.caption
    assert plot.axes[0].get_title(loc="left").startswith(f"Block {block}: the maximum")


def test_every_jump_has_its_factor_written():
    plot = figures.running_maximum([0.0, 1.0, 1.0, 3.0], block=1)
    written = [text.get_text() for text in plot.axes[1].texts]
    assert written == [f"×{math.exp(-1):.2g}", f"×{math.exp(-2):.2g}"]


def test_scores_of_minus_infinity_before_the_first_finite_one_are_drawn():
    plot = figures.running_maximum([-math.inf, 0.0, 1.0], block=1)
    assert f"l ends at {1 + math.exp(-1):.2f}" in plot.caption


def test_errors_without_a_pair_are_drawn_without_a_ratio():
    plot = figures.softmax_error([64, 128], {"fp16": [1e-4, 0.0], "bf16": [1e-3, 2e-3]})
    assert "formula" not in plot.caption and "bf16 2.0e-03" in plot.caption


def test_two_programs_that_are_both_exact_are_equally_exact():
    errors = {"fp64, formula": [1e-9, 0.0], "fp64, online": [1e-9, 0.0]}
    assert "at most 1x" in figures.softmax_error([64, 128], errors).caption


ISSUE = {  # order, causal -> steps, elements moved at the end
    ("outer queries", False): (36, 20_608),
    ("outer queries", True): (24, 14_464),
    ("outer keys", False): (32, 57_344),
}


@pytest.mark.parametrize("order, causal", ISSUE)
def test_a_walk_ends_at_the_number_worked_out_by_hand(order, causal):
    steps, moved = ISSUE[order, causal]
    caption = figures.tile_walk(steps, order, causal=causal).caption
    assert f"step {steps} of {steps}:" in caption
    assert f"{moved:,} elements moved so far" in caption


@pytest.mark.parametrize("order", WALKS)
@pytest.mark.parametrize("causal", [False, True])
def test_the_last_step_has_moved_what_the_formula_predicts(order, causal):
    formula = {
        "outer queries": cost.outer_q_elements,
        "outer keys": cost.outer_kv_elements,
    }[order]
    size = dict(T=100, D=8, block_q=16, block_k=24, causal=causal)
    n = formula(**size)
    plot = figures.tile_walk(10_000, order, **size)
    assert f"moved {n.moved:,} of" in plot.alt
    assert f"read {n.read:,}, written {n.written:,}" in plot.alt
    tiles = cost.tiles(100, 16, 24, causal=causal)
    total = tiles.visited + tiles.skipped
    assert f"{tiles.visited} of {total} done" in plot.alt
    assert f"{tiles.skipped} skipped, 0 to come" in plot.alt


def test_a_step_past_the_end_is_the_last_one_and_says_so():
    last = figures.tile_walk(32, "outer keys")
    past = figures.tile_walk(36, "outer keys")
    assert past.png(dpi=40) == last.png(dpi=40)
    assert "step 32 of 32 (the walk ends before step 36)" in past.caption


def test_fast_memory_holds_what_a_tile_needs_by_the_formula():
    caption = figures.tile_walk(1, "outer queries").caption
    assert f"Fast memory holds {cost.tile_memory(16, 32, 16):,}." in caption


def test_tiles_of_a_walk_are_colored_by_what_became_of_them():
    """In step 6 of this causal walk, the second row of tiles is half done."""
    ax = figures.tile_walk(6, "outer queries", causal=True).subfigs[0].axes[0]
    fills = [to_hex(patch.get_facecolor()) for patch in ax.patches]
    assert fills.count(ORANGE) == 1
    assert len(fills) == 32 and fills.count("#ffffff") == 32 - 5
    assert sum(patch.get_hatch() is not None for patch in ax.patches) == 12


@pytest.mark.parametrize("arguments, words", [
    (dict(step=0, order="outer keys"), "step=0"),
    (dict(step=1, order="inside out"), "order='inside out'"),
])  # fmt: skip
def test_a_walk_that_is_none_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        figures.tile_walk(**arguments)


def test_the_longest_walk_fits_a_page():
    frame = partial(figures.tile_walk, order="outer queries")
    explorer = explore(frame, step=range(1, 37), play="step", start={"step": 1})
    assert len(explorer.html()) < MAX_BYTES * 4 / 3


@pytest.mark.parametrize("block_q, block_k", [(16, 16), (64, 100), (128, 256)])
def test_the_parts_of_a_tile_add_up_to_what_it_needs(block_q, block_k):
    plot = figures.tile_occupancy(block_q, block_k)
    boxes = [patch.get_width() for patch in plot.axes[0].patches]
    assert sum(boxes) == cost.tile_memory(64, block_q, block_k)


def test_a_tile_as_large_as_fast_memory_fits():
    needs = cost.tile_memory(64, 32, 32)
    assert "0 to spare: it fits" in figures.tile_occupancy(32, 32, M=needs).caption
    assert "1 too many" in figures.tile_occupancy(32, 32, M=needs - 1).caption


def test_traffic_is_compared_with_tiles_that_are_no_longer_than_the_text():
    caption = figures.tile_traffic(N=16, M=25_600).caption
    assert "tiles of 16 queries by 16 keys" in caption


def test_a_small_fast_memory_makes_tiles_move_more_than_plain():
    caption = figures.tile_traffic(N=16_384, M=4096).caption
    ratio = cost.outer_kv_elements(16_384, 64, 16, 16).moved
    ratio /= cost.naive_elements(16_384, 64).moved
    assert ratio > 3 and f"outer keys {ratio:.3g}x" in caption


def test_a_slope_is_the_power_that_the_elements_grow_with():
    grown = {"N": ([10, 100, 1000], {"square": [100, 1e4, 1e6], "flat": [7, 7, 7]})}
    caption = figures.traffic_scaling(grown).caption
    assert "square: N 2.0; flat: N 0.0" in caption
