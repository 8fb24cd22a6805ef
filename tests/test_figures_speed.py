"""Figures of time gained and of listed blocks: how they are drawn, for `test_figures`;
what they say, computed here once more."""

import functools
import math

import numpy as np
import pytest
import torch

from sparse_attn import cost, figures, kernels
from sparse_attn.explore import FRAME, MAX_BYTES, explore
from sparse_attn.figures.lists import KINDS, kinds_of

LENGTHS = [2**n for n in range(10, 17)]


def ratios(first, steepness, spread=0.05):
    """A ratio and its interval for each length, growing with it."""
    found = {n: first * (n / 1024) ** steepness for n in LENGTHS}
    return {n: (x, x * (1 - spread), x * (1 + spread)) for n, x in found.items()}


SERIES = {"given blocks": ratios(0.8, 0.5), "with selection": ratios(0.6, 0.45)}
MANY = {
    f"a rather long name of a series, {i}": ratios(0.3 * 2**i, 0.3, 0.3)
    for i in range(8)
}
POINTS = [
    (f"{block_q} x {block_k}", 0.002 * t, change * gain, 0.002, family)
    for block_q, block_k, t, change in (
        (16, 16, 300, 0.001),
        (32, 16, 220, 0.005),
        (64, 16, 160, 0.009),
        (64, 64, 150, 0.016),
        (128, 64, 120, 0.02),
    )
    for family, gain in (("blocks", 1.2), ("blocks, pooled", 1))
]
POINTS += [
    ("window", 0.2, 0.04, 0.003, "window"),
    ("window", 0.24, 0.03, 0.003, "window, pooled"),
    ("oracle", 5.0, -0.001, 0.002, "each query"),
]
STEPS = [("ideal FLOPs", 16.0), ("kernel", 9.0), ("+ top-K", 6.0), ("+ selector", 5.0),
         ("whole layer", 2.5), ("whole model", 2.0)]  # fmt: skip
RATE = {"dense": 4e-9, "sparse": 6e-9}
TIMES = dict(
    dense={n: 2.1e-9 * n**2 for n in LENGTHS},
    rate=RATE,
    overhead=lambda n: 1e-6 * n + 1e-11 * n**2,
    measured={(n, 512): 3.5e-6 * n for n in LENGTHS},
    device="a machine",
)
MODEL = {
    "full": {n: 4000 / (1 + n / 4096) for n in LENGTHS[:5]},
    "hybrid": {n: 3200 / (1 + n / 65_536) for n in LENGTHS[:5]},
}


def beside(model, spread=0.1):
    gains = {n: model["hybrid"][n] / y for n, y in model["full"].items()}
    return {n: (x, x - spread, x + spread) for n, x in gains.items()}


@functools.cache
def lists(block_q, block_k=16, T=4096, keep=512):
    q, k = torch.randn(2, 1, 1, T, 8, generator=torch.Generator().manual_seed(0))
    how = dict(causal=True, block_q=block_q, block_k=block_k)
    ids = kernels.select_blocks(q, k, keep // block_k, **how)
    return kinds_of(ids[0, 0], T, block_q, block_k)


def listed(block_q, block_k=16, T=4096):
    found = lists(block_q, block_k, T)
    return dict(lists=found, T=T, block_q=block_q, block_k=block_k, mass=0.78,
                intensity=block_q / 2)  # fmt: skip


DRAWN = {  # figure -> (arguments, what its caption must state)
    "block_lists": (
        listed(64),
        ["64 queries share a list: 78% of the mass, 32 FLOPs per byte", "16 keys",
         "4,096 tokens", "23.3%"],
    ),
    "speedups": (
        dict(lengths=LENGTHS, series=SERIES, bars={4096: 1.5, 65_536: 5}),
        ["given blocks: faster from 2,048 tokens on, 6.4x at 64K",
         "1.6x at 4,096, at least 1.5x promised", "95%"],
    ),
    "speeds_of_model": (
        dict(lengths=LENGTHS[:5], series=MODEL, gains=beside(MODEL)),
        ["hybrid against full: faster from 2,048 tokens on, 3.2x at 16K"],
    ),
    "time_and_quality": (
        dict(points=POINTS, full=0.8),
        ["Least lost: blocks 16 x 16, pooled, 75% of the time, +0.001",
         "fastest: window, 25% of the time, +0.040", "95% intervals"],
    ),
    "time_explorer": (
        dict(T=16_384, K=512) | TIMES,
        ["T = 16K, K = 512: 7.82x predicted, 9.83x measured",
         "dense: 537 ms, measured 564 ms", "K = 512: 68.6 ms, measured 57.3 ms",
         "a machine"],
    ),
    "waterfall": (
        dict(steps=STEPS),
        ["ideal FLOPs 16x, whole model 2x", "kernel 9x, 56% of it left",
         "whole layer 2.5x, 50% of it left"],
    ),
}  # fmt: skip
EXTREMES = [
    ("speedups", dict(lengths=LENGTHS, series=MANY)),
    ("speedups", dict(
        lengths=[2**n for n in range(12, 19)], what="tokens in the cache",
        series={"one": {2**n: (0.9, 0.8, 1.1) for n in (12, 13)}})),
    ("waterfall", dict(steps=[("a", 1.02), ("a rather long name of a step", 1.0)])),
    ("waterfall", dict(steps=[("a", 64), ("b", 0.5), ("c", 0.9), ("d", 0.3)])),
    ("time_and_quality", dict(points=POINTS[:1], full=1)),
    ("time_and_quality", dict(
        points=[(f"name {i}", 0.5 + 0.001 * i, 0.001 * i, 0.001, "window")
                for i in range(14)], full=1)),
    ("block_lists", listed(16)),
    ("block_lists", listed(128, 64) | dict(lists=lists(128, 64) > 0)),
    ("block_lists", listed(16, 16, 1000) | dict(intensity=1234.5)),
]  # fmt: skip
EXTREMES += [
    ("time_explorer", TIMES | dict(T=T, K=K, device="Some Long Accelerator 80GB HBM3"))
    for T in (1024, 65_536)
    for K in (128, 2048)
]


def lines(ax):
    """Label -> (x, y) of the lines that a legend names."""
    return {line.get_label(): line.get_data() for line in ax.lines}


def test_a_crossover_needs_the_whole_interval_and_every_length_after_it():
    def said(*low):
        line = {n: (x + 0.1, x, x + 0.2) for n, x in zip(LENGTHS, low, strict=False)}
        return figures.speedups(LENGTHS, {"a": line}).get_suptitle()

    assert said(0.95, 1.2, 1.5) == "a: faster from 2,048 tokens on, 1.6x at 4,096"
    assert said(1.5, 0.95, 1.2) == "a: faster from 4,096 tokens on, 1.3x at 4,096"
    assert said(1.5, 1.2, 0.95).startswith("a: not surely faster at any of these")
    assert said(1.1).startswith("a: faster from 1,024 tokens on")


def test_a_series_is_drawn_at_the_lengths_it_has():
    some = {n: r for n, r in SERIES["with selection"].items() if n > 2048}
    drawn = lines(figures.speedups(LENGTHS, SERIES | {"some": some}).axes[0])
    assert list(drawn["some"][0]) == LENGTHS[2:]
    assert list(drawn["given blocks"][1]) == [r for r, *_ in ratios(0.8, 0.5).values()]
    with pytest.raises(ValueError, match=r"series\['none'\] has none of lengths="):
        figures.speedups(LENGTHS, {"none": {}})


def test_every_series_looks_different():
    ax = figures.speedups(LENGTHS, MANY).axes[0]
    looks = {
        (line.get_color(), line.get_marker(), line.get_linestyle())
        for line in ax.lines
        if line.get_label() in MANY
    }
    assert len(looks) == len(MANY)


def test_a_hybrid_that_never_overtakes_is_said_to():
    slow = MODEL | {"hybrid": {n: 0.5 * y for n, y in MODEL["full"].items()}}
    caption = figures.speeds_of_model(LENGTHS[:5], slow, beside(slow)).caption
    assert "not surely faster at any of these lengths, 0.5x at 16K" in caption
    vague = figures.speeds_of_model(LENGTHS[:5], MODEL, beside(MODEL, 0.3)).caption
    assert "faster from 4,096 tokens on" in vague, (
        "an interval with 1 in it decides nothing"
    )
    with pytest.raises(ValueError, match="at least two names"):
        figures.speeds_of_model(LENGTHS, {"full": MODEL["full"]}, {})


def test_factors_of_a_waterfall_multiply_to_the_last_ratio():
    ax = figures.waterfall(STEPS).axes[0]
    factors = [float(t.get_text().split("× ")[1]) for t in ax.texts[1:]]
    assert math.prod(factors) == pytest.approx(2 / 16, abs=0.005)
    assert ax.get_xscale() == "log"
    with pytest.raises(ValueError, match="two or more ratios above 0"):
        figures.waterfall([("a", 1.0), ("b", 0.0)])
    with pytest.raises(ValueError, match="two or more ratios above 0"):
        figures.waterfall(STEPS[:1])


def test_the_least_lost_is_sought_among_what_is_faster_than_full_attention():
    title = figures.time_and_quality(POINTS, 0.8).get_suptitle()
    assert "oracle" not in title
    slow = [(name, 10 * time, *rest) for name, time, *rest in POINTS]
    assert "oracle" in figures.time_and_quality(slow, 0.8).get_suptitle()
    with pytest.raises(ValueError, match="family='strided': choose from"):
        figures.time_and_quality([("a", 1, 0, 0, "strided")], 1)


def test_labels_keep_off_points_and_what_crosses_them():
    plot = figures.time_and_quality(POINTS, 0.8)
    ax, renderer = plot.axes[0], plot.canvas.get_renderer()
    points = [ax.transData.transform((t / 0.8, change)) for _, t, change, *_ in POINTS]
    labels = [text for text in ax.texts if text.get_text()]
    assert len(labels) == len(POINTS) + 1
    for label in labels:
        box = label.get_window_extent(renderer)
        assert not any(box.contains(*point) for point in points), label.get_text()
        zero = ax.transData.transform((1, 0))
        assert not box.containsx(zero[0]) and not box.containsy(zero[1])


def test_a_prediction_counts_pairs_and_adds_the_time_of_choosing():
    drawn = lines(figures.time_explorer(8192, 512, **TIMES).axes[0])
    dense, sparse = (
        next(line for name, line in drawn.items() if name.startswith(first))
        for first in ("dense", "K = 512")
    )
    for n, whole, part in zip(*dense, sparse[1], strict=True):
        assert whole == pytest.approx(RATE["dense"] * n * (n + 1) / 2)
        pairs = sum(min(t + 1, 512) for t in range(n))
        assert part == pytest.approx(RATE["sparse"] * pairs + TIMES["overhead"](n))
    assert pairs == cost.topk_pairs(65_536, 512, causal=True)
    fixed = figures.time_explorer(8192, 512, **TIMES | dict(overhead=1.0))
    assert "K = 512: 1.02 s" in fixed.caption


def test_only_what_was_measured_is_called_measured():
    without = TIMES | dict(dense={}, measured={})
    assert "measured" not in figures.time_explorer(8192, 512, **without).caption
    other = figures.time_explorer(8192, 256, **TIMES)
    assert "x measured" not in other.caption and "ms, measured" in other.caption


def test_axes_stay_where_they_are_as_sliders_move():
    first, other = (figures.time_explorer(*at, **TIMES).axes[0]
                    for at in ((1024, 128), (65_536, 2048)))  # fmt: skip
    assert first.get_ylim() == other.get_ylim()
    assert first.get_xlim() == other.get_xlim()


def test_kinds_of_blocks_are_those_of_the_selection():
    found = lists(64)
    assert found.shape == (64, 256)
    assert (found[40, 160:164] == 1 + KINDS.index("own")).all()
    assert (found[40, 156:160] == 1 + KINDS.index("local")).all()
    assert found[40, 0] == 1 + KINDS.index("first")
    assert (found[40] > 0).sum() == 32 and not found[40, 164:].any()
    assert (found[2] > 0).sum() == 12  # all that there are
    with pytest.raises(ValueError, match=r"\(64, n\) is needed"):
        kinds_of(torch.zeros(3, 2), 4096, 64, 16)
    with pytest.raises(ValueError, match=r"lists has shape \(64, 256\): \(32, 256\)"):
        figures.block_lists(**listed(64) | dict(block_q=128))


def test_a_map_shows_each_block_in_the_color_of_its_kind():
    plot = figures.block_lists(**listed(64))
    picture = plot.axes[0].images[0].get_array()
    colors = [tuple(picture[40, x]) for x in (163, 159, 0, 200)]
    assert len({*colors}) == 4 and colors[-1] == (1, 1, 1)
    past = picture[40, :156][lists(64)[40, :156] == 0]
    assert len(np.unique(past, axis=0)) == 1 and past.max() < 1
    assert figures.block_lists(**listed(64) | dict(lists=torch.tensor(lists(64))))


def test_the_sliders_fit_a_page():
    explore(functools.partial(figures.time_explorer, **TIMES), T=LENGTHS[1:],
            K=[128, 256, 512, 1024]).html()  # fmt: skip
    sizes = [len(figures.block_lists(**listed(n)).png(**FRAME)) for n in (16, 64, 128)]
    assert 5 * max(sizes) <= MAX_BYTES
