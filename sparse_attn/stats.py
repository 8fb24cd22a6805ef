"""Intervals: how sure a mean over a few runs is.

Knows Student's t, by SciPy; leaves what the runs were to whoever made them.
"""

import math
from collections.abc import Iterable

from scipy import stats


def mean_interval(values: Iterable[float], level: float = 0.95) -> tuple[float, float]:
    """The mean of independent values, and half of its interval by Student's t.

    Raises ValueError for fewer than two values, or a level that is not between 0 and 1.
    """
    values = [float(value) for value in values]
    if len(values) < 2:
        raise ValueError(f"values has {len(values)}: two or more are needed")
    if not 0 < level < 1:
        raise ValueError(f"level={level!r}: a number between 0 and 1 is needed")
    times = stats.t.ppf((1 + level) / 2, len(values) - 1)
    return math.fsum(values) / len(values), float(times * stats.sem(values))
