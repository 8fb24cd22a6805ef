"""Figures of the frequencies of tokens and of trials on seeds: how they are drawn, for
`test_figures`; what they say, computed here once more."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from sparse_attn import figures
from sparse_attn.explore import FRAME, MAX_BYTES, MAX_FRAMES

SEEDS = 7
WAYS = {  # mean difference to the standard, spread of seeds
    "bespoke": (0.004, 0.003),
    "as many parameters": (-0.006, 0.003),
    "equal, projected": (0.001, 0.004),
    "reversed": (0.009, 0.003),
    "adaptive": (0.05, 0.006),
}
LANGUAGES = {"independent": 0.2, "chain": 1.0, "words": 4.0}
BANDS = ("frequent", "middle", "rare")


def around(mean, spread, n=SEEDS):
    """n values with exactly this mean and standard deviation."""
    values = np.arange(n) - (n - 1) / 2
    return [float(mean + spread * x) for x in values / values.std(ddof=1)]


GROUPS = {
    language: {way: around(times * m, times * s) for way, (m, s) in WAYS.items()}
    for language, times in LANGUAGES.items()
}
FOUND = {
    way: [[m - 0.01, m, m + gain] for m in around(*about)]
    for (way, about), gain in zip(
        WAYS.items(), (0.02, 0, 0.01, -0.06, 0.1), strict=True
    )
}
STEPS = list(range(0, 601, 20))
LOSSES = {
    "no mask": [0.31 + 6.6 * math.exp(-step / 80) for step in STEPS],
    "causal": [4.26 + 2.7 * math.exp(-step / 60) for step in STEPS],
}
SIGNS = [0.004 * math.sin(7 * i) + 0.001 for i in range(20)]

DRAWN = {  # figure -> (arguments, what its caption must state)
    "by_band": (
        dict(found=FOUND, names=BANDS),
        ["Largest: adaptive, rare tokens, +0.1500 ± 0.0055 nats", "15", "95%"],
    ),
    "leak_curve": (
        dict(steps=STEPS, losses=LOSSES, floor=4.228, leak_floor=0.0),
        ["no mask: 0.314 nats after 600 steps, 3.91 below the floor of 4.228",
         "causal: 4.26, 0.0321 above it", "0.000"],
    ),
    "paired_trials": (
        dict(groups=GROUPS, matters=0.01, label="nats more than the standard"),
        ["bespoke: independent +0.0008 ± 0.0006; chain +0.0040 ± 0.0028",
         "words +0.0160 ± 0.0111", "95%", "0.01"],
    ),
    "seeds_needed": (
        dict(n=7, spread=0.0053, matters=0.01),
        ["7 seeds: ± 0.0049 nats, and 0.00674 found four times in five", "0.0053",
         "0.01", "5 seeds on"],
    ),
    "signs_by_seed": (
        dict(differences=SIGNS, label="nats, bespoke less standard"),
        ["12 of 20 seeds favor the standard embedding, 8 the bespoke one"],
    ),
    "surprisal": (
        dict(V=1000, exponent=1.2),
        ["V = 1,000, exponent 1.2: rank 1 has 2.1 bits, rank 1,000 14.1",
         "6.10 bits or 4.228 nats", "top 20%", "89.0%", "last 20% 1.3%"],
    ),
    "table_parameters": (
        dict(V=1000, top=0.2, spread=0.4),
        ["V = 1,000, 20/60/20 x 1.4/1/0.6: 1.253 times the weights", "128 wide",
         "160,440 for 128,000", "163,200", "top 0.2 and spread 0.4"],
    ),
}  # fmt: skip
CHOICES = {
    "surprisal": dict(V=[50, 200, 1000, 10_000], exponent=[0.8, 1.0, 1.2, 1.4]),
    "table_parameters": dict(
        V=[200, 1000, 10_000, 200_000], top=[0.1, 0.2, 0.4], spread=[0.2, 0.4, 0.6]
    ),
    "seeds_needed": dict(n=[2, 3, 5, 7, 10, 20, 40]),
}


def drawn(name, **others):
    return getattr(figures, name)(**DRAWN[name][0] | others)


def corners(name):
    """Every combination of the ends of a figure's sliders."""
    ends = ((values[0], values[-1]) for values in CHOICES[name].values())
    return [
        dict(zip(CHOICES[name], at, strict=True)) for at in itertools.product(*ends)
    ]


EXTREMES = [(name, DRAWN[name][0] | at) for name in CHOICES for at in corners(name)]
EXTREMES += [
    ("surprisal", dict(V=5, exponent=0.0)),
    ("surprisal", dict(V=50_000, exponent=2.0)),
    ("table_parameters", dict(V=50_257, top=0.2, spread=0.9, width=768)),
    ("table_parameters", dict(V=10, top=0.2, spread=0.4, width=1024)),
    ("table_parameters", dict(V=1000, top=0.2, spread=0.0)),
    ("seeds_needed", dict(n=40, spread=0.1, matters=0.001)),
    ("seeds_needed", dict(n=2, spread=0.0001, matters=0.5)),
    ("paired_trials", dict(groups={"words": {"bespoke": [0.01, -0.02]}}, matters=0.05,
                           label="nats")),
    ("paired_trials", dict(
        groups={name: {way: around(50 * m, 50 * s, 3) for way, (m, s) in WAYS.items()}
                for name in ("a", "a language of a rather long name")},
        matters=0.01, label="nats more than the standard embedding")),
    ("by_band", dict(found={"bespoke": [[1.5], [2.5]]}, names=["all"])),
    ("by_band", dict(found={"as many parameters": [[-0.01, 0.02]] * 2},
                     names=["frequent", "rare"])),
    ("leak_curve", dict(steps=[0, 20_000], losses={"a": [4, 3]}, floor=2,
                        leak_floor=1)),
    ("leak_curve", dict(steps=STEPS, losses={f"{c}, of a rather long name": LOSSES[c]
                                             for c in LOSSES}, floor=6.9,
                        leak_floor=0.1)),
    ("signs_by_seed", dict(differences=[0.1, 0.2], label="nats")),
    ("signs_by_seed", dict(differences=[-1e-5 * i for i in range(60)], label="nats")),
]  # fmt: skip


def bars(ax):
    return [bar.get_width() for bar in ax.patches]


def test_the_mean_of_bits_is_the_entropy_and_shares_are_those_of_the_law():
    law = [rank**-1.2 for rank in range(1, 1001)]
    law = [p / math.fsum(law) for p in law]
    plot = drawn("surprisal")
    left, right = plot.axes
    assert left.lines[-1].get_ydata()[0] == pytest.approx(
        math.fsum(-p * math.log2(p) for p in law)
    )
    shares = [math.fsum(law[a:b]) for a, b in ((0, 200), (200, 800), (800, 1000))]
    assert bars(right) == pytest.approx(shares)
    ranks, bits = left.lines[0].get_data()
    assert list(ranks[[0, -1]]) == [1, 201]
    assert bits[7] == pytest.approx(-math.log2(law[7]))


def test_every_rank_has_its_bits():
    for V in (5, 50, 1000):
        left = figures.surprisal(V, 1.0).axes[0]
        ranks = {int(rank) for line in left.lines[:3] for rank in line.get_xdata()}
        assert ranks == set(range(1, V + 1))


def test_tables_of_bands_are_counted_weight_by_weight():
    ratio, sizes, widths = 160_440 / 128_000, (200, 600, 200), (179, 128, 76)
    assert math.fsum(bars(drawn("table_parameters").axes[0])[1:]) == pytest.approx(
        ratio
    )
    tables = sum(n * width for n, width in zip(sizes, widths, strict=True))
    held = tables + 128 * (widths[0] + widths[2])
    assert held == 160_440


def test_below_the_break_even_vocabulary_bands_hold_more_and_above_fewer():
    below, above = (
        sum(bars(figures.table_parameters(V, 0.1, 0.4).axes[0])[1:])
        for V in (6000, 6500)
    )
    assert above < 1 < below
    assert "fewer from 6,158 tokens on" in drawn("table_parameters", top=0.1).caption
    assert "fewer never" in drawn("table_parameters", top=0.4).caption
    with pytest.raises(ValueError, match="split="):
        figures.table_parameters(1000, 0.9, 0.4)
    with pytest.raises(ValueError, match="multipliers="):
        figures.table_parameters(1000, 0.2, 1.0)


def test_a_difference_that_seeds_find_leaves_0_out_of_four_intervals_in_five():
    n, spread = 7, 0.0053
    ax = drawn("seeds_needed", n=n, spread=spread).axes[0]
    half, found = (line.get_ydata()[n - 2] for line in (ax.lines[0], ax.lines[2]))
    assert half == pytest.approx(stats.t.ppf(0.975, n - 1) * spread / math.sqrt(n))
    runs = np.random.default_rng(0).normal(found, spread, (20_000, n))
    halves = stats.t.ppf(0.975, n - 1) * runs.std(axis=1, ddof=1) / math.sqrt(n)
    share = np.mean(abs(runs.mean(axis=1)) > halves)
    assert share == pytest.approx(0.8, abs=4 * math.sqrt(0.8 * 0.2 / 20_000))


def test_the_seeds_said_to_be_needed_are_the_fewest():
    caption = drawn("seeds_needed", spread=0.01).caption
    enough = int(caption.split("so often from ")[1].split(" seeds")[0])
    found = drawn("seeds_needed", spread=0.01).axes[0].lines[2].get_ydata()
    assert found[enough - 2] <= 0.01 < found[enough - 3]
    assert "by more than 40 seeds" in drawn("seeds_needed", spread=0.1).caption
    with pytest.raises(ValueError, match="n=41: a whole number from 2 to 40"):
        drawn("seeds_needed", n=41)


def test_intervals_of_trials_are_students():
    plot = drawn("paired_trials")
    assert len(plot.axes) == len(LANGUAGES)
    for ax, (language, times) in zip(plot.axes, LANGUAGES.items(), strict=True):
        assert ax.get_title(loc="left") == language
        for way, (mean, spread), lines in zip(
            WAYS, WAYS.values(), ax.collections, strict=True
        ):
            (low, _), (high, _) = lines.get_segments()[0]
            half = stats.t.ppf(0.975, SEEDS - 1) * times * spread / math.sqrt(SEEDS)
            assert (low + high) / 2 == pytest.approx(times * mean), way
            assert (high - low) / 2 == pytest.approx(half), way
    text = "words, adaptive: +0.2000 ± 0.0222"
    assert text in plot.alt


def test_every_seed_of_a_trial_is_a_dot_within_its_panel():
    for ax, found in zip(drawn("paired_trials").axes, GROUPS.values(), strict=True):
        dots = [line.get_xdata() for line in ax.lines if line.get_marker() == "o"]
        assert [list(x) for x in dots] == list(found.values())
        low, high = ax.get_xlim()
        assert low < min(map(min, dots)) and max(map(max, dots)) < high


def test_ways_that_differ_between_languages_are_refused():
    groups = {"a": {"bespoke": [1, 2]}, "b": {"other": [1, 2]}}
    with pytest.raises(ValueError, match=r"groups\['b'\] has \['other'\]: the same"):
        figures.paired_trials(groups, 0.01, "nats")
    with pytest.raises(ValueError, match="two or more are needed"):
        figures.paired_trials({"a": {"bespoke": [1]}}, 0.01, "nats")


def test_the_largest_difference_may_be_a_gain():
    found = {"a": [[0.1, -0.5], [0.2, -0.6]], "b": [[0.0, 0.3], [0.1, 0.4]]}
    plot = figures.by_band(found, ("frequent", "rare"))
    assert plot.get_suptitle() == "Largest: a, rare tokens, -0.5500 ± 0.6353"
    assert "Of 4 intervals, 95% each, 0 leave out 0" in plot.caption
    with pytest.raises(ValueError, match=r"found\['a'\] has a seed of 2 values: 3 are"):
        figures.by_band(found, BANDS)


def test_a_loss_is_told_from_the_side_of_the_floor_it_lies_on():
    caption = drawn("leak_curve", floor=0.3).caption
    assert "no mask: 0.314 nats after 600 steps, 0.0137 above the floor" in caption
    assert "above it" in caption and "below" not in caption
    with pytest.raises(ValueError, match=r"losses\['a'\] has 1 values: 31 are needed"):
        drawn("leak_curve", losses={"a": [1.0]})


def test_signs_are_counted_and_seeds_without_one_are_not():
    ax = drawn("signs_by_seed").axes[0]
    better, worse = (ax.lines[i].get_ydata() for i in (0, 1))
    assert len(better) == sum(x < 0 for x in SIGNS)
    assert len(worse) == sum(x > 0 for x in SIGNS)
    assert [*better, *worse] == sorted(SIGNS)
    title = figures.signs_by_seed([0.0, 0.1, -0.1, -0.2], "nats").get_suptitle()
    assert title.replace("\n", " ") == (
        "1 of 4 seeds favors the standard embedding, 2 the bespoke one, 1 neither"
    )


@pytest.mark.parametrize("name", CHOICES)
def test_axes_stay_where_they_are_as_sliders_move(name):
    places = {
        tuple(
            (*ax.get_xlim(), *ax.get_ylim(), *ax.get_position().bounds)
            for ax in drawn(name, **at).axes
        )
        for at in corners(name)
    }
    assert len(places) == 1


@pytest.mark.parametrize("name", CHOICES)
def test_the_sliders_fit_a_page(name):
    n = math.prod(map(len, CHOICES[name].values()))
    largest = max(len(drawn(name, **at).png(**FRAME)) for at in corners(name))
    assert n <= MAX_FRAMES and n * largest <= MAX_BYTES
