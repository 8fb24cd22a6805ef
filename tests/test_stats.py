"""Intervals, tests and power against SciPy's own and against what they promise."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from scipy import stats as scipy_stats
from test_bad_input import explains

from sparse_attn.stats import (
    bootstrap_interval,
    detectable,
    half_width,
    holm,
    mean_interval,
    paired,
)

steady = settings(max_examples=40)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_an_interval_is_that_of_student(level):
    values = np.random.default_rng(0).normal(3, 2, 7)
    mean, half = mean_interval(values, level)
    spread = dict(loc=values.mean(), scale=scipy_stats.sem(values))
    low, high = scipy_stats.t.interval(level, 6, **spread)
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_nineteen_of_twenty_intervals_hold_the_truth():
    draws = np.random.default_rng(1).normal(5, 1, (4000, 3))
    held = [abs(mean - 5) <= half for mean, half in map(mean_interval, draws)]
    assert abs(np.mean(held) - 0.95) < 0.015  # four standard errors


def test_equal_values_are_sure_and_one_value_is_not_enough():
    assert mean_interval(iter([2.5, 2.5])) == (2.5, 0.0)
    explains(lambda: mean_interval([1.0]), "values", 1)
    for level in (0, 1, 95):
        explains(lambda w=level: mean_interval([1, 2], w), "level", level)


# Half a width


@steady
@given(
    n=st.integers(2, 40),
    spread=st.floats(1e-3, 1e6),
    level=st.floats(0.01, 0.999),
    seed=st.integers(0, 99),
)
def test_half_a_width_is_that_of_values_with_this_spread(n, spread, level, seed):
    values = np.random.default_rng(seed).normal(size=n)
    values *= spread / values.std(ddof=1)
    found = half_width(spread, n, level)
    assert found == pytest.approx(mean_interval(values, level)[1])
    t = scipy_stats.t.interval(level, n - 1, scale=spread / math.sqrt(n))[1]
    assert found == pytest.approx(t)


def test_three_values_of_spread_1_have_the_half_width_of_the_tables():
    """4.303 for 2 degrees of freedom, 2.447 for 6, as printed tables have them."""
    assert half_width(1, 3) * math.sqrt(3) == pytest.approx(4.303, abs=5e-4)
    assert half_width(1, 7) * math.sqrt(7) == pytest.approx(2.447, abs=5e-4)
    assert half_width(0, 7) == 0


def test_half_a_width_explains_what_does_not_fit():
    explains(lambda: half_width(1.0, 1), "n", 1)
    explains(lambda: half_width(math.nan, 3), "spread", "nan")
    explains(lambda: half_width(1.0, 3, 1), "level", 1)


# Bootstrap


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("values", [(1.0, 2.0, 4.0, 8.0), (0.3, -1.0, 2.0, 2.5, 7.0)])
def test_a_bootstrap_has_the_percentiles_of_all_draws_there_are(values, level):
    """n^n equally likely draws; the ends are theirs up to four standard errors."""
    means = [np.mean(draw) for draw in itertools.product(values, repeat=len(values))]
    shares = (1 - level) / 2, (1 + level) / 2
    for end, share in zip(bootstrap_interval(values, level), shares, strict=True):
        off = 4 * math.sqrt(share * (1 - share) / 9999)
        low, high = np.quantile(means, (share - off, share + off))
        assert low <= end <= high


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_a_bootstrap_of_many_values_is_the_normal_interval(level):
    sides = np.random.default_rng(2).exponential(3, 200)
    values = 7 + np.concatenate((sides, -sides))  # without skew, soon normal
    low, high = bootstrap_interval(values, level)
    error, share = values.std() / 20, (1 + level) / 2
    z = scipy_stats.norm.ppf(share)
    off = math.sqrt(share * (1 - share) / 9999) / scipy_stats.norm.pdf(z)
    for end, at in ((low, -z), (high, z)):
        assert abs((end - values.mean()) / error - at) < 4 * off


def test_a_bootstrap_of_a_handful_is_narrower_than_student():
    values = np.random.default_rng(3).normal(size=5)
    low, high = bootstrap_interval(values)
    mean, half = mean_interval(values)
    assert mean - half < low < mean < high < mean + half


def test_a_bootstrap_depends_on_its_seed_alone():
    values = np.random.default_rng(4).normal(size=30)
    first, other = (bootstrap_interval(values, seed=seed) for seed in (1, 2))
    assert first == bootstrap_interval(iter(values), seed=1) != other


def test_a_bootstrap_of_equal_values_is_that_value():
    assert bootstrap_interval([2.5, 2.5, 2.5]) == (2.5, 2.5)


def test_a_bootstrap_explains_what_does_not_fit():
    explains(lambda: bootstrap_interval([1.0]), "values", 1)
    explains(lambda: bootstrap_interval([1.0, math.inf]), "values", "inf")
    explains(lambda: bootstrap_interval([1.0, 2.0], 0), "level", 0)
    explains(lambda: bootstrap_interval([2.0, 2.0], 2), "level", 2)


# Pairs


def draws(n, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    shared = rng.normal(0, 5, n)
    return shared + rng.normal(shift, 1, n), shared + rng.normal(0, 1, n)


@pytest.mark.parametrize("n, level", [(2, 0.95), (7, 0.95), (7, 0.8), (12, 0.99)])
def test_pairs_have_the_interval_of_the_paired_t_test(n, level):
    a, b = draws(n, seed=n)
    found = paired(a, b, level)
    theirs = scipy_stats.ttest_rel(a, b).confidence_interval(level)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert found.mean == pytest.approx((a - b).mean())
    assert found.spread == pytest.approx((a - b).std(ddof=1))
    assert found.half == pytest.approx(half_width(found.spread, n, level))
    assert found.n == n


@pytest.mark.parametrize("n", [2, 3, 7, 10])
@pytest.mark.parametrize("sign", [1, -1])
def test_differences_of_one_sign_have_the_least_p_there_is(n, sign):
    b = np.random.default_rng(n).normal(size=n)
    a = b + sign * np.random.default_rng(n + 1).uniform(0.1, 2, n)
    assert paired(a, b).p == 2 / 2**n


@pytest.mark.parametrize("seed", range(8))
def test_p_is_the_share_of_all_swaps_that_are_as_far_from_zero(seed):
    a, b = draws(5, seed)
    differences = a - b
    means = [
        abs(np.mean(np.multiply(signs, differences)))
        for signs in itertools.product((1, -1), repeat=5)
    ]
    as_far = sum(mean >= abs(differences.mean()) - 1e-12 for mean in means)
    assert paired(a, b).p == as_far / 32


def test_ties_of_swapped_sums_are_counted():
    """Of 16 sums ±0.1 ±0.2 ±0.3 ±0.1, six reach 0.5, four of them but for rounding."""
    assert paired([0.1, 0.2, 0.3, -0.1], [0.0] * 4).p == 6 / 16


@pytest.mark.parametrize("seed", range(4))
def test_swapping_the_sides_swaps_the_sign_and_nothing_else(seed):
    a, b = draws(6, seed)
    there, back = paired(a, b), paired(b, a)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert (there.p, there.spread) == (back.p, pytest.approx(back.spread))


def test_what_pairs_share_cancels_out():
    a, b = draws(9, seed=0, shift=1.0)
    near = paired(a, b)
    far = paired(a + 1000 * np.arange(9), b + 1000 * np.arange(9))
    assert (far.mean, far.half) == pytest.approx((near.mean, near.half))
    assert far.p == near.p


def test_no_difference_at_all_is_no_evidence():
    found = paired([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert (found.mean, found.half, found.p) == (0, 0, 1)


def test_where_nothing_differs_one_in_twenty_is_below_a_twentieth():
    """p of n pairs takes few values: below 0.05 of 7 lie 6 / 128 of all signs."""
    rng = np.random.default_rng(5)
    found = [paired(rng.normal(size=7), rng.normal(size=7)).p for _ in range(400)]
    share, expected = np.mean(np.array(found) < 0.05), 6 / 128
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / 400)


def test_pairs_explain_what_does_not_fit():
    explains(lambda: paired([1.0, 2.0, 3.0], [1.0, 2.0]), "a", "3 values but b 2")
    explains(lambda: paired([1.0], [1.0]), "a", 1)
    explains(lambda: paired([1.0, 2.0], [1.0, math.nan]), "b", "nan")
    explains(lambda: paired([1.0, 2.0], [2.0, 1.0], 1.5), "level", 1.5)


# Holm


def test_an_example_worked_by_hand():
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))


@steady
@given(p=st.lists(st.floats(0, 1), max_size=8))
def test_adjusted_values_keep_their_order_and_lie_between_p_and_n_times_p(p):
    found = holm(p)
    assert len(found) == len(p)
    for one, adjusted in zip(p, found, strict=True):
        assert one <= adjusted <= min(1, len(p) * one)
    for i, j in itertools.permutations(range(len(p)), 2):
        if p[i] <= p[j]:
            assert found[i] <= found[j]


@steady
@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=6), level=st.floats(0.01, 0.9))
def test_the_adjusted_say_what_stepping_down_by_hand_says(p, level):
    """Reject the smallest of m if it is at most level / m, and so on; then stop."""
    rejected = set()
    for left, i in zip(
        range(len(p), 0, -1), sorted(range(len(p)), key=p.__getitem__), strict=True
    ):
        if p[i] * left > level:
            break
        rejected.add(i)
    assert rejected == {i for i, one in enumerate(holm(p)) if one <= level}


def test_one_value_stays_and_none_is_above_1():
    assert holm([0.3]) == (0.3,)
    assert holm([0.6, 0.9, 0.7]) == (1.0, 1.0, 1.0)
    assert holm([]) == ()


@pytest.mark.parametrize("wrong", [-0.1, 1.5, math.nan])
def test_what_is_no_probability_is_refused(wrong):
    explains(lambda: holm([0.2, wrong]), "p", wrong)


# Power


def power_of(difference, spread, n, level):
    """The chance that the interval leaves out 0, by quadrature over the spread found.

    Given spread s, the mean must be further from 0 than half the width s gives.
    """
    shift, edge = difference * math.sqrt(n) / spread, half_width(1, n, level)
    edge *= math.sqrt(n)

    def found(ratio):  # of the spread found to the true one
        density = 2 * (n - 1) * ratio * scipy_stats.chi2.pdf((n - 1) * ratio**2, n - 1)
        far = scipy_stats.norm.sf(edge * ratio - shift)
        return density * (far + scipy_stats.norm.cdf(-edge * ratio - shift))

    # Two intervals: what lies beyond the first adds little but must not be lost.
    return sum(integrate.quad(found, *ends)[0] for ends in ((0, 1), (1, np.inf)))


@settings(steady, max_examples=25)
@given(
    n=st.integers(3, 30),
    spread=st.floats(0.01, 100),
    power=st.floats(0.3, 0.99),
    level=st.sampled_from([0.8, 0.95, 0.99]),
)
def test_a_detectable_difference_is_found_with_this_power(n, spread, power, level):
    difference = detectable(spread, n, power, level)
    assert power_of(difference, spread, n, level) == pytest.approx(power, abs=1e-4)


@pytest.mark.parametrize("n, power", [(3, 0.8), (7, 0.8), (7, 0.5)])
def test_simulated_pairs_with_that_difference_are_found_as_often(n, power):
    difference = detectable(2.0, n, power)
    values = np.random.default_rng(n).normal(difference, 2.0, (4000, n))
    found = [abs(mean) > half for mean, half in map(mean_interval, values)]
    assert abs(np.mean(found) - power) < 4 * math.sqrt(power * (1 - power) / 4000)


def test_more_pairs_find_less_and_more_spread_hides_more():
    by_n = [detectable(1.0, n) for n in (2, 3, 5, 7, 20, 100)]
    assert by_n == sorted(by_n, reverse=True)
    assert detectable(3.0, 7) == pytest.approx(3 * detectable(1.0, 7))
    by_power = [detectable(1.0, 7, power) for power in (0.1, 0.5, 0.8, 0.99)]
    by_level = [detectable(1.0, 7, level=level) for level in (0.5, 0.9, 0.95, 0.999)]
    assert by_power == sorted(by_power) and by_level == sorted(by_level)


def test_of_many_pairs_the_normal_law_says_what_is_found():
    z = scipy_stats.norm.ppf(0.975) + scipy_stats.norm.ppf(0.8)  # 2.80
    assert detectable(1.0, 10_000) == pytest.approx(z / 100, rel=1e-3)


@pytest.mark.parametrize("n, level", [(2, 0.95), (2, 0.99), (3, 0.999), (1000, 0.999)])
def test_power_is_known_at_the_edges_too(n, level):
    found = [detectable(1.0, n, power, level) for power in (0.5, 0.8, 0.999)]
    assert found == sorted(found) and found[0] > 0


def test_power_explains_what_does_not_fit():
    explains(lambda: detectable(1.0, 1), "n", 1)
    explains(lambda: detectable(0.0, 7), "spread", 0.0)
    explains(lambda: detectable(-2.0, 7), "spread", -2.0)
    explains(lambda: detectable(math.inf, 7), "spread", "inf")
    explains(lambda: detectable(1.0, 7, 1), "power", 1)
    explains(lambda: detectable(1.0, 7, level=0), "level", 0)
    # No difference at all is found more often than that:
    explains(lambda: detectable(1.0, 7, power=0.04), "power", 0.04)
