"""Intervals, tests and power: how sure a few runs make us.

Knows what is computed from numbers that independent runs gave, by SciPy where it has
it; leaves what the runs were to whoever made them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from sparse_attn.checks import check_count, check_finite


def mean_interval(values: Iterable[float], level: float = 0.95) -> tuple[float, float]:
    """The mean of independent values, and half of its interval by Student's t.

    Raises ValueError for fewer than two values, or a level that is not between 0 and 1.
    """
    values = _values("values", values)
    _check_share("level", level)
    return math.fsum(values) / len(values), half_width(
        float(np.std(values, ddof=1)), len(values), level
    )


def half_width(spread: float, n: int, level: float = 0.95) -> float:
    """Half the interval of a mean of n values of standard deviation `spread`."""
    check_count("n", n, least=2)
    check_finite("spread", spread)
    _check_share("level", level)
    times = stats.t.ppf((1 + level) / 2, n - 1)
    return float(times * spread / math.sqrt(n))


def bootstrap_interval(
    values: Iterable[float], level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Ends of the interval of the mean, by 9,999 draws with replacement.

    Too narrow for a handful of values, where `mean_interval` is the safer one.
    Source: percentiles of resampled means, Efron 1979; by scipy.stats.bootstrap.
    """
    values = _values("values", values)
    _check_share("level", level)
    if len(set(values)) == 1:  # every draw has the same mean
        return values[0], values[0]
    found = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return tuple(float(x) for x in found.confidence_interval)


@dataclass(frozen=True)
class Paired:
    """How two ways differ on the same seeds: the mean of a - b and what is known of it.

    half: half its interval by Student's t. p: the share of all ways to swap the pairs'
    sides that give a mean at least as far from 0; of 100,000 of them beyond 16 pairs.
    """

    mean: float
    half: float
    spread: float
    n: int
    p: float

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half


def paired(a: Iterable[float], b: Iterable[float], level: float = 0.95) -> Paired:
    """a[i] - b[i], where both had the seed i: what they share cancels out.

    With n pairs no p is below 2 / 2^n. Raises ValueError for fewer than two pairs, or
    a and b of different lengths.
    """
    a, b = _values("a", a), _values("b", b)
    if len(a) != len(b):
        raise ValueError(f"a has {len(a)} values but b {len(b)}: pairs are needed")
    differences = np.subtract(a, b)
    mean, half = mean_interval(differences, level)
    found = stats.permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=100_000,  # all of them, up to 16 pairs
        rng=np.random.default_rng(0),
    )
    return Paired(
        mean, half, float(np.std(differences, ddof=1)), len(a), float(found.pvalue)
    )


def holm(p: Sequence[float]) -> tuple[float, ...]:
    """p values adjusted for how many there are: below 0.05 as safely as a single one.

    The smallest times n, the next times n - 1, and none less than the one before it.
    Source: Holm 1979.
    """
    for one in p:
        if not 0 <= one <= 1:
            raise ValueError(f"p={tuple(p)}: numbers from 0 to 1 are needed")
    order = np.argsort(p, kind="stable")
    raised = np.asarray(p, dtype=float)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(raised), 1.0)
    return tuple(float(x) for x in adjusted)


def detectable(spread: float, n: int, power: float = 0.8, level: float = 0.95) -> float:
    """The smallest true difference that n pairs would find with this probability.

    spread: standard deviation of a pair's difference, from a pilot. "Find": the
    interval at `level` leaves out 0. By the noncentral t distribution.
    """
    check_count("n", n, least=2)
    check_finite("spread", spread)
    _check_share("power", power)
    _check_share("level", level)
    if spread <= 0:
        raise ValueError(f"spread={spread!r}: a number above 0 is needed")
    if power <= 1 - level:
        raise ValueError(f"power={power!r}: more than 1 - level={level!r} is needed")
    edge = stats.t.ppf((1 + level) / 2, n - 1)

    def missed(shift: float) -> float:
        below = stats.nct.cdf(-edge, n - 1, shift)  # NaN where it is next to nothing
        return stats.nct.sf(edge, n - 1, shift) + np.nan_to_num(below) - power

    return float(optimize.brentq(missed, 0.0, 40 * edge) * spread / math.sqrt(n))


def _values(name: str, values: Iterable[float]) -> list[float]:
    values = [float(value) for value in values]
    if len(values) < 2:
        raise ValueError(f"{name} has {len(values)}: two or more are needed")
    for value in values:
        check_finite(name, value)
    return values


def _check_share(name: str, value: float):
    if not 0 < value < 1:
        raise ValueError(f"{name}={value!r}: a number between 0 and 1 is needed")
