"""Figures of hashing and of LSH attention: how they are drawn, for `test_figures`;
what they say, computed here once more."""

import math
import re

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from sparse_attn import figures, hashing
from sparse_attn.explore import MAX_BYTES, explore
from sparse_attn.figures.chunks import BUCKETS, CHUNK, TOKENS
from sparse_attn.figures.hashing import DIRECTIONS, FIRST, ROUNDS, sectors
from sparse_attn.timing import Ratio

ANGLES = [0, 15, 30, 45, 60, 90, 120, 143, 180]
MEASURED = {
    n: [
        (degrees, hashing.collision_probability(math.radians(degrees), n) + off)
        for degrees, off in ((0, 0.0), (15, 0.002), (30, -0.003), (60, 0.001), (90, 0))
    ]
    for n in (4, 16, 64)
}
MEASURED[16][3] = (60, MEASURED[16][3][1] + 0.01)
CURVES = {
    "top-k, by scores": [(0.5, 0.99), (0.01, 0.6), (0.1, 0.9)],
    "window": [(0.01, 0.4), (0.1, 0.6), (0.5, 0.8)],
    "LSH, 4 rounds": [(0.02, 0.2), (0.08, 0.4), (0.5, 0.8)],
    "LSH, 1 round": [(0.01, 0.1), (0.02, 0.2), (0.125, 0.4)],
    "random": [(0.01, 0.01), (0.5, 0.4)],
}
LENGTHS = [2**n for n in range(10, 16)]


def ratios(values):
    return [Ratio(x, 0.8 * x, 1.2 * x) for x in values]


TIMES = {
    "4 rounds": ratios([30, 20, 12, 7, 4, 2]),
    "1 round": ratios([8, 5, 3, 1.5, 0.9, 0.5]),
}
LOADS = {
    "random vectors": np.array([3, 5, 4, 4]),
    "keys of a trained model": np.array([[12, 0, 2, 2], [10, 4, 2, 0]]),
}
DRAWN = {  # figure -> (arguments, what its caption must state)
    "bucket_loads": (
        dict(named=LOADS),
        ["vectors: largest 1.2x", "0.0% empty", "model: largest 3.0x", "25.0% empty"],
    ),
    "collisions": (
        dict(measured=MEASURED),
        ["at most 0.011", "60° with 16 buckets", "15 dots", "4 buckets 0.003"],
    ),
    "hash_circle": (
        dict(angle=90, buckets=8),
        ["90° apart", "8 buckets", "probability 0.125", "6 of the 8 buckets"],
    ),
    "lsh_time": (
        dict(lengths=LENGTHS, ratios=TIMES, device="a machine"),
        [
            "a machine",
            "4 rounds 2x at 32K, never faster",
            "1 round 0.5x at 32K, faster from 32K on",
        ],
    ),
    "recall_by_cost": (
        dict(curves=CURVES, title="Hashing keeps less than a window"),
        ["at 2% top-k, by scores, 0.69", "at 5%", "at 12.5% top-k"],
    ),
    "rounds_and_buckets": (
        dict(rounds=8, buckets=16),
        ["8 rounds of 16 buckets", "99.8%", "40.3%", "2.48x", "8.72x in one round"],
    ),
    "sort_and_chunk_steps": (
        dict(step=5),
        ["5. Back in text order", "71 pairs seen, 6 lost", "6 of 77", "4 tokens"],
    ),
}
EXTREMES = [
    ("hash_circle", dict(angle=angle, buckets=buckets))
    for angle, buckets in ((0, 4), (15, 16), (143, 16), (180, 8))
]
EXTREMES += [
    ("rounds_and_buckets", dict(rounds=rounds, buckets=buckets))
    for rounds, buckets in ((1, 4), (16, 4), (1, 256), (16, 64))
]
EXTREMES += [("sort_and_chunk_steps", dict(step=step)) for step in (1, 2, 3, 4)]
EXTREMES += [
    ("collisions", dict(measured={8: MEASURED[4]})),
    ("collisions", dict(measured=MEASURED | {256: MEASURED[64]})),
    ("recall_by_cost", dict(
        curves={f"method {n}": [(0.001, 0.5), (1.0, 0.99)] for n in range(6)},
        title="All end alike")),
    ("lsh_time", dict(
        lengths=LENGTHS[:2], ratios={"8 rounds": ratios([1.4, 1.1])},
        device="Some Long Accelerator Name 80GB HBM3")),
]  # fmt: skip


def plane(degrees):
    turn = torch.deg2rad(torch.as_tensor(degrees, dtype=torch.float32))
    return torch.stack((turn.cos(), turn.sin()), dim=-1)


@pytest.mark.parametrize("buckets", [4, 8, 16])
def test_sectors_go_once_around_and_hold_what_hashes_there(buckets):
    drawn = sectors(buckets)
    assert sum(b - a for a, b, _ in drawn) == pytest.approx(360)
    middles = [(a + b) / 2 for a, b, _ in drawn]
    R = hashing.rotations(2, buckets, seed=DIRECTIONS)
    assert hashing.hash_buckets(plane(middles), R)[0].tolist() == [n for *_, n in drawn]


@pytest.mark.parametrize("buckets", [4, 8, 16])
def test_no_arrow_of_the_slider_points_at_a_border(buckets):
    """So that every machine puts it in the same bucket."""
    for start, *_ in sectors(buckets):
        for angle in ANGLES:
            assert abs((FIRST + angle - start + 180) % 360 - 180) > 0.2


def test_a_vector_shares_its_own_bucket_and_never_that_of_its_opposite():
    same, opposite = (figures.hash_circle(angle, 16).caption for angle in (0, 180))
    assert "shared with probability 1." in same and "in one, bucket" in same
    assert "shared with probability 0." in opposite
    one, other = re.search(r"in buckets (\d+) and (\d+)", opposite).groups()
    assert abs(int(one) - int(other)) == 8


@pytest.mark.parametrize("buckets, lines", [(4, 2), (8, 1)])
def test_only_four_buckets_are_compared_with_a_rotation(buckets, lines):
    legend = figures.hash_circle(45, buckets).axes[1].get_legend()
    assert len(legend.get_texts()) == lines


def test_rounds_are_independent_chances():
    p = hashing.collision_probability(math.pi / 2, 64)
    assert p == pytest.approx(1 / 64)
    caption = figures.rounds_and_buckets(4, 64).caption
    assert f"{100 * (1 - (63 / 64) ** 4):.3g}%" in caption


def test_more_rounds_tell_near_from_unrelated_less_well():
    odds = [
        float(re.search(r"([\d.]+)x as likely", caption)[1])
        for caption in (figures.rounds_and_buckets(n, 16).caption for n in ROUNDS)
    ]
    assert odds == sorted(odds, reverse=True) and odds[-1] < odds[0] / 5


@pytest.fixture(scope="module")
def steps():
    return [figures.sort_and_chunk_steps(step) for step in range(1, 6)]


def test_steps_tell_one_story_in_numbers(steps):
    text = " ".join(plot.caption for plot in steps)
    named = (r"(\d+) pairs share", r"(\d+) pairs seen", r"seen, (\d+) lost",
             r"(\d+) scores within", r"hidden: (\d+) scores")  # fmt: skip
    shared, seen, lost, reach, hidden = (
        int(re.search(number, text)[1]) for number in named
    )
    sizes = [int(n) for n in re.search(r"of ([\d, ]+) tokens", text)[1].split(", ")]
    assert sum(sizes) == TOKENS and len(sizes) == BUCKETS
    assert shared == sum(n * (n - 1) // 2 for n in sizes) == seen + lost
    assert reach == hashing.lsh_cost_pairs(TOKENS, CHUNK) * TOKENS == seen + hidden
    assert f"{TOKENS * (TOKENS - 1) // 2} pairs" in steps[0].caption
    assert 0 < lost < seen


def test_steps_have_one_size(steps):
    assert len({tuple(plot.get_size_inches()) for plot in steps}) == 1


def numbers(ax, row):
    """Tokens written in the cells of one strip, from left to right."""
    at = [(t.get_position(), t.get_text()) for t in ax.texts if t.get_text().isdigit()]
    return [int(text) for (_, y), text in sorted(at) if (y > 3) == row]


def test_sorted_tokens_are_by_bucket_and_then_by_position(steps):
    ax = steps[1].axes[0]
    cells = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    color = {int(c.get_x()): to_hex(c.get_fc()) for c in cells if c.get_y() == 0}
    assert numbers(ax, 0) == list(range(TOKENS))
    order = numbers(ax, 1)
    names = list(dict.fromkeys(color[token] for token in order))
    assert order == sorted(order, key=lambda token: (names.index(color[token]), token))


def test_a_step_that_is_none_is_refused():
    with pytest.raises(ValueError, match="step=6: from 1 to 5"):
        figures.sort_and_chunk_steps(6)


def test_the_middle_share_is_the_geometric_mean_of_what_all_cover():
    a = {"steep": [(0.01, 0.0), (0.16, 1.0)], "flat": [(0.04, 0.6), (0.64, 0.6)]}
    caption = figures.recall_by_cost(a, "They cross").caption
    assert "at 4% flat, 0.60; at 8% steep, 0.75; at 16% steep, 1.00" in caption


def test_methods_without_a_common_share_are_not_compared():
    apart = {"few": [(0.01, 0.5), (0.02, 0.6)], "many": [(0.5, 0.8), (1.0, 1.0)]}
    assert "none was measured for all" in figures.recall_by_cost(apart, "Apart").caption


@pytest.mark.parametrize("highs, says", [
    ([2, 1.2, 0.9], "from 4,096 tokens: LSH"),
    ([0.9, 0.8, 0.7], "from 1,024 tokens: LSH"),
    ([0.9, 1.1, 0.7], "from 4,096 tokens: LSH"),
    ([0.9, 0.8, 1.1], "Never faster than fused attention, up to 4,096"),
])  # fmt: skip
def test_faster_means_that_all_longer_intervals_are_below_one(highs, says):
    row = [Ratio(0.8 * high, 0.5 * high, high) for high in highs]
    plot = figures.lsh_time([1024, 2048, 4096], {"LSH": row}, "cpu")
    assert says in plot.axes[0].get_title(loc="left")


@pytest.mark.parametrize("name, choices", [
    ("hash_circle", dict(angle=ANGLES, buckets=[4, 8, 16])),
    ("sort_and_chunk_steps", dict(step=[1, 2, 3, 4, 5])),
])  # fmt: skip
def test_the_sliders_fit_a_page(name, choices):
    assert len(explore(getattr(figures, name), **choices).html()) < MAX_BYTES * 4 / 3
