"""Figures of the top-K / MLP method: how they are drawn, for `test_figures`; what they
say, computed here once more."""

import numpy as np
import pytest

from sparse_attn import cost, figures, topk
from sparse_attn.explore import MAX_BYTES, explore

T = 16
WEIGHTS = np.tril(np.ones((T, T))) / np.arange(1, T + 1)[:, None]
PICKS = {
    "teacher": np.zeros((T, 2), dtype=int),
    "selector": np.stack([np.full(T, 3), np.full(T, T - 1)], axis=1),
}
GROUPS = {
    "published": {"as published": 0.57, "every fault mended": 0.51},
    "oracle": {"exact softmax": 0.16},
    "floors": {"head deleted": 0.52, "mean vector": 0.5},
}
LENGTHS, KEPT = [64, 1024, 8192], [3, 32]
MEASURED = {(way, n, 0): n * 1e-6 for n in LENGTHS for way in ("exact", "fused")}
MEASURED |= {("method", n, k): n * k * 1e-6 for n in LENGTHS for k in KEPT}
DRAWN = {  # figure -> (arguments, what its caption must state)
    "approximation_error": (
        dict(K=16, spread=1.0, T=16),
        ["K = 16 of 16", "no order 0.727", "in order 0.297", "softmax of them 0.000"],
    ),
    "picked_keys": (
        dict(weights=WEIGHTS, picks=PICKS),
        ["teacher: mass 0.42, 0% ahead, 1 of 16", "selector: mass 0.10, 56% ahead"],
    ),
    "selection_bill": (
        dict(T=64, K=3, measured=MEASURED, device="a machine"),
        [
            "T = 64, K = 3",
            "FLOPs 3x",
            "memory 1.5x of exact",
            "time 3x of fused",
            "method 3.15 M",
            "as claimed 768 B",
        ],
    ),
    "stand_in_errors": (
        dict(groups=GROUPS, floor="head deleted"),
        ["1 of 4 do worse than “head deleted” (0.52)", "Best: exact softmax, 0.16"],
    ),
}
EXTREMES = [
    ("approximation_error", dict(K=k, spread=s)) for k, s in ((1, 3.0), (64, 0.5))
]
EXTREMES += [
    ("selection_bill", dict(T=8192, K=32, measured=MEASURED,
                            device="Some Long Name 80GB")),
    ("picked_keys", dict(weights=WEIGHTS, picks={"one chooser": PICKS["selector"]})),
    ("stand_in_errors", dict(
        groups={"one": {f"row {i}": 0.1 * i for i in range(12)}}, floor="row 3")),
]  # fmt: skip


def test_shares_of_picks_are_counted_over_all_queries():
    caption = figures.picked_keys(WEIGHTS, PICKS).caption
    t = np.arange(T)
    ahead = np.mean([(t < 3).mean(), (t < T - 1).mean()])
    assert f"{ahead:.0%} ahead, 2 of 16 positions" in caption


def test_rows_beyond_the_floor_are_worse_and_a_missing_floor_is_refused():
    caption = figures.stand_in_errors(GROUPS, "exact softmax").caption
    assert "4 of 4 do worse than “exact softmax" in caption
    with pytest.raises(ValueError, match="floor='none': choose from"):
        figures.stand_in_errors(GROUPS, "none")


def test_the_bill_is_that_of_cost():
    caption = figures.selection_bill(1024, 32, MEASURED, "cpu").caption
    flops = cost.scores(1024, 64, 1).flops / cost.topk_mlp_flops(1024, 64, 64, 32)
    assert f"FLOPs {1 / flops:.3g}x and" in caption
    values = cost.selection_bytes(1024, 64, 32)["values"]
    assert f"method {values / 1e6:.3g} MB" in caption


@pytest.mark.parametrize("K", [1, 8, 64])
def test_the_slider_of_errors_shows_the_floors(K):
    caption = figures.approximation_error(K, 2.0).caption
    for x in (
        topk.exact_topk_error(K, 64, spread=2.0),
        topk.values_only_error(K, ordered=True, T=64, spread=2.0),
        topk.values_only_error(K, ordered=False, T=64, spread=2.0),
    ):
        assert f"{x:.3f}" in caption


def test_the_sliders_fit_a_page():
    page = explore(figures.approximation_error, K=[1, 4, 16, 64], spread=[1.0, 3.0])
    assert len(page.html()) < MAX_BYTES * 4 / 3
