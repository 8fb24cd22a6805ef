"""Intervals against SciPy's own and against what they promise."""

import numpy as np
import pytest
from scipy import stats as scipy_stats
from test_bad_input import explains

from sparse_attn.stats import mean_interval


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
