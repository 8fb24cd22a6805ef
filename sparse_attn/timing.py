"""The one timer: nothing else in the book reads a clock.

Knows warm-up, synchronisation and intervals; leaves what is timed to the caller.
"""

import math
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from sparse_attn.checks import check_count
from sparse_attn.device import as_device, synchronize
from sparse_attn.units import SECONDS, three

SAMPLES = 20  # stop after this many samples ...
BUDGET = 1.0  # ... or this many seconds, whichever is first ...
LEAST = 3  # ... but never with fewer samples than this
SHORTEST = 1e-3  # a sample repeats a fast call until it lasts this many seconds


@dataclass(frozen=True)
class Timing:
    """Seconds per call: the median, its 95% bootstrap interval, all samples.

    first: the first call, with its compilation, allocation and cold caches.
    """

    median: float
    low: float
    high: float
    first: float
    samples: tuple[float, ...]

    def __str__(self) -> str:
        unit, scale = next((u for u in SECONDS if self.median >= u[1]), SECONDS[-1])
        low, median, high = (
            three(x / scale) for x in (self.low, self.median, self.high)
        )
        return f"{median} {unit} [{low}, {high}]"


@dataclass(frozen=True)
class Ratio:
    """How many times longer one call takes than another, with its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{three(self.value)}x [{three(self.low)}, {three(self.high)}]"


def measure(
    fn: Callable[[], object],
    *,
    device: torch.device | None = None,
    samples: int | None = None,
    budget: float = BUDGET,
) -> Timing:
    """Time `fn()`: one first call, one to warm up, then samples until 20 or 1 s.

    Each sample waits for the device before and after. device: the one picked.
    samples: at most; budget: seconds after which three will do, math.inf for no limit.
    """
    fns = {"fn": fn}
    return measure_together(fns, device=device, samples=samples, budget=budget)["fn"]


def measure_together(
    fns: dict[str, Callable[[], object]],
    *,
    device: torch.device | None = None,
    samples: int | None = None,
    budget: float = BUDGET,
) -> dict[str, Timing]:
    """Time several calls in turn, round after round, so that drift hits all alike.

    Sample i of one was taken beside sample i of the others: `ratio` relies on it.
    samples and budget as in `measure`, the seconds for each of the calls.
    """
    if not fns:
        raise ValueError("fns is empty: at least one function is needed")
    samples = SAMPLES if samples is None else samples
    check_count("samples", samples)
    if not budget >= 0:
        raise ValueError(f"budget={budget}: seconds are needed, 0 or more")
    device = as_device(device)

    first = {name: _seconds(fn, 1, device) for name, fn in fns.items()}
    warm = {name: _seconds(fn, 1, device) for name, fn in fns.items()}
    repeats = {
        name: max(1, math.ceil(SHORTEST / max(s, 1e-7))) for name, s in warm.items()
    }
    taken = {name: [] for name in fns}
    began = time.perf_counter()
    for i in range(samples):
        if i >= LEAST and time.perf_counter() - began > budget * len(fns):
            break
        for name, fn in fns.items():
            taken[name].append(_seconds(fn, repeats[name], device))
    return {name: _summarise(first[name], taken[name]) for name in fns}


def ratio(slow: Timing, fast: Timing) -> Ratio:
    """slow / fast of the medians; resamples pairs if both have as many samples.

    Then sample i of one belongs to sample i of the other, as `measure_together` takes
    them. The interval is a 95% bootstrap of the ratio of medians.
    """
    paired = len(slow.samples) == len(fast.samples)
    value = slow.median / fast.median
    if min(len(slow.samples), len(fast.samples)) < 2:
        return Ratio(value, value, value)
    found = stats.bootstrap(
        (slow.samples, fast.samples),
        lambda a, b, axis: np.median(a, axis=axis) / np.median(b, axis=axis),
        paired=paired,
        **_BOOTSTRAP,
    )
    return Ratio(value, *_around(value, found))


@contextmanager
def stopwatch():
    """`with stopwatch() as seconds: ...`, then seconds(): for whole runs, once."""
    began = time.perf_counter()
    ended = None
    yield lambda: (ended or time.perf_counter()) - began
    ended = time.perf_counter()


class Marks:
    """One run cut into stretches: `mark(label)` says whose time begins now.

    Marking never waits for the device, so it does not disturb what it cuts: on CUDA
    and MPS a mark is an event in the queue, read when seconds() has waited, once.
    """

    def __init__(self, device: torch.device | None = None):
        self.device = as_device(device)
        self._now, self._since = _CLOCKS[self.device.type]
        self._labels, self._moments, self._seconds = [], [], None
        synchronize(self.device)
        # MPS raises where neighbors tie, and hangs when one event ends two intervals
        # (PyTorch pull requests 196395, 193578). Each mark ends one: from here to it.
        self._origin = self._now()
        synchronize(self.device)

    def mark(self, label: str):
        """What happens from here to the next mark belongs to `label`."""
        self._labels.append(label)
        self._moments.append(self._now())

    def seconds(self) -> dict[str, float]:
        """Seconds per label, its stretches added; the last mark only ends the run."""
        if self._seconds is None:
            synchronize(self.device)
            at = [self._since(self._origin, moment) for moment in self._moments]
            self._seconds = dict.fromkeys(self._labels[:-1], 0.0)
            for label, began, ended in zip(self._labels, at, at[1:], strict=False):
                self._seconds[label] += ended - began
        return dict(self._seconds)


def _event(kind: type):
    event = kind(enable_timing=True)
    event.record()
    return event


def _event_seconds(began, ended) -> float:
    return began.elapsed_time(ended) * 1e-3


_CLOCKS = {
    "cpu": (time.perf_counter, lambda began, ended: ended - began),
    "cuda": (lambda: _event(torch.cuda.Event), _event_seconds),
    "mps": (lambda: _event(torch.mps.event.Event), _event_seconds),
}

# Fixed seed: the same samples give the same interval.
_BOOTSTRAP = dict(method="percentile", n_resamples=2000, vectorized=True, rng=0)


def _seconds(fn, repeats: int, device: torch.device) -> float:
    synchronize(device)
    began = time.perf_counter()
    for _ in range(repeats):
        fn()
    synchronize(device)
    return (time.perf_counter() - began) / repeats


def _summarise(first: float, samples: list[float]) -> Timing:
    median = float(np.median(samples))
    low = high = median
    if len(samples) > 1:
        found = stats.bootstrap((samples,), np.median, **_BOOTSTRAP)
        low, high = _around(median, found)
    return Timing(median, low, high, first, tuple(samples))


def _around(median: float, found) -> tuple[float, float]:
    """The interval's ends, on both sides of the median.

    Between equal samples SciPy's percentile can round past them, and an error bar of
    negative length is refused.
    """
    low, high = map(float, found.confidence_interval)
    return min(low, median), max(high, median)
