"""The timer, on a clock that only moves when a timed function says so."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_attn import device, timing
from sparse_attn.timing import Ratio, Timing

steady = settings(max_examples=30)

CPU = torch.device("cpu")
MS = 2**-9  # seconds: near 2 ms, and sums of it are exact in floating point


class Clock:
    """Seconds that pass only in `works(...)` functions; `log` has every event."""

    def __init__(self):
        self.now, self.log = 64.0, ""

    def works(self, *seconds, name="f"):
        """A function that takes the given seconds, call by call, the last for ever."""
        left = list(seconds)

        def work():
            self.now += left.pop(0) if len(left) > 1 else left[0]
            self.log += name

        return work


@pytest.fixture
def clock():
    with pytest.MonkeyPatch.context() as patch:
        yield installed(patch)


def installed(patch):
    clock = Clock()
    patch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_twenty_samples_are_taken_after_a_first_and_a_warm_call(clock):
    found = timing.measure(clock.works(MS), device=CPU)
    assert found.samples == 20 * (MS,)
    assert clock.log == 22 * "f"


def test_as_many_samples_are_taken_as_asked(clock):
    assert len(timing.measure(clock.works(MS), device=CPU, samples=7).samples) == 7


def test_the_first_call_is_kept_apart_and_the_warm_one_forgotten(clock):
    found = timing.measure(clock.works(8.0, 4.0, MS), device=CPU)
    assert found.first == 8.0
    assert set(found.samples) == {MS}


@pytest.mark.parametrize("seconds, samples", [(0.25, 5), (0.5, 3), (16.0, 3)])
def test_sampling_stops_after_a_second_but_not_before_three(clock, seconds, samples):
    assert len(timing.measure(clock.works(seconds), device=CPU).samples) == samples


@pytest.mark.parametrize("budget, samples", [(0, 3), (2.0, 9), (math.inf, 12)])
def test_sampling_stops_where_the_budget_says(clock, budget, samples):
    how = dict(device=CPU, samples=12, budget=budget)
    assert len(timing.measure(clock.works(0.25), **how).samples) == samples


@pytest.mark.parametrize("budget", [-1.0, math.nan])
def test_a_budget_that_is_no_time_is_refused(budget):
    with pytest.raises(ValueError, match=r"budget=.*0 or more"):
        timing.measure(lambda: None, budget=budget)


def test_each_of_several_functions_has_its_own_second(clock):
    fns = {name: clock.works(0.25, name=name) for name in "ab"}
    found = timing.measure_together(fns, device=CPU)
    assert [len(t.samples) for t in found.values()] == [5, 5]


def test_a_fast_call_is_repeated_until_a_sample_lasts_a_millisecond(clock):
    found = timing.measure(clock.works(2**-13), device=CPU, samples=4)
    assert found.samples == 4 * (2**-13,)
    assert clock.log == "ff" + 4 * 9 * "f"  # 9 · 2⁻¹³ s is the first past 1 ms


def test_several_functions_take_turns(clock):
    fns = {name: clock.works(MS, name=name) for name in "abc"}
    timing.measure_together(fns, device=CPU, samples=3)
    assert clock.log == 5 * "abc"


def test_sample_i_of_each_function_is_from_round_i(clock):
    drift = [MS, MS, 2 * MS, 3 * MS, 4 * MS]
    fns = {name: clock.works(*drift, name=name) for name in "ab"}
    found = timing.measure_together(fns, device=CPU, samples=3)
    assert found["a"].samples == found["b"].samples == (2 * MS, 3 * MS, 4 * MS)


def test_every_sample_waits_for_the_device_before_and_after(clock, monkeypatch):
    def wait(where):
        assert where == CPU
        clock.log += "|"

    monkeypatch.setattr(timing, "synchronize", wait)
    timing.measure(clock.works(MS), device=CPU, samples=3)
    assert clock.log == 5 * "|f|"


def test_time_the_device_still_needs_is_part_of_the_sample(clock, monkeypatch):
    queued = []

    def wait(_):
        while queued:
            clock.now += queued.pop()

    monkeypatch.setattr(timing, "synchronize", wait)
    found = timing.measure(lambda: queued.append(MS), device=CPU, samples=3)
    assert found.samples == 3 * (MS,)


def test_the_device_is_the_one_picked_unless_given(clock, monkeypatch):
    waited = []
    monkeypatch.setattr(device, "pick_device", lambda _: "picked")
    monkeypatch.setattr(timing, "synchronize", waited.append)
    timing.measure(clock.works(MS), samples=1)
    assert set(waited) == {"picked"}


ticks = st.lists(st.integers(1, 1000), min_size=1, max_size=25)


@steady
@given(ticks)
def test_the_interval_contains_the_median_and_lies_among_the_samples(ticks):
    with pytest.MonkeyPatch.context() as patch:
        work = installed(patch).works(MS, MS, *(n * MS for n in ticks))
        found = timing.measure(work, device=CPU, samples=len(ticks))
    assert min(found.samples) <= found.low <= found.median <= found.high
    assert found.high <= max(found.samples)


UNEVEN = [MS + 2**-20 * n**3 for n in range(-9, 11)]  # 20 samples; many medians


def test_the_same_samples_give_the_same_interval(clock):
    found = {timing.measure(clock.works(MS, MS, *UNEVEN), device=CPU) for _ in range(5)}
    (found,) = found
    assert found.low < found.median < found.high


# Equal samples between which SciPy's percentile rounds to another number.
ESCAPES = [
    ("0x1.ce6cfa180d931p-5", 15),
    ("0x1.e0803fd92b62bp+0", 10),
]


@pytest.mark.parametrize("seconds, samples", ESCAPES)
def test_equal_samples_have_no_interval_that_leaves_them_out(clock, seconds, samples):
    same = float.fromhex(seconds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "_seconds", lambda *_: same)
        found = timing.measure(lambda: None, device=CPU, samples=samples)
    assert found.low <= found.median == same <= found.high


@pytest.mark.parametrize(
    "slow, fast, samples",
    [
        (1.355919757413822, 0.7382742118752045, 20),
        (0.8498107741722343, 0.5053538722278339, 15),
    ],
)
def test_a_ratio_of_equal_samples_lies_in_its_interval(slow, fast, samples):
    found = timing.ratio(taken(*samples * [slow]), taken(*samples * [fast]))
    assert found.low <= found.value <= found.high


def test_one_sample_has_no_interval(clock):
    found = timing.measure(clock.works(MS), device=CPU, samples=1)
    assert found.low == found.median == found.high == MS


def taken(*samples):
    """A Timing of known samples; `ratio` reads only the median and the samples."""
    return Timing(sorted(samples)[len(samples) // 2], 0.0, 0.0, 0.0, samples)


def test_the_ratio_of_paired_samples_is_free_of_their_common_drift():
    drift = (1.0, 7.0, 3.0, 5.0, 9.0)
    found = timing.ratio(taken(*(2 * x for x in drift)), taken(*drift))
    assert found == Ratio(2.0, 2.0, 2.0)


def test_the_ratio_of_separate_samples_keeps_their_drift():
    found = timing.ratio(taken(2.0, 14.0, 6.0, 10.0, 18.0), taken(1.0, 5.0, 9.0))
    assert found.value == 2
    assert found.low < 2 < found.high


def test_the_ratio_of_single_samples_has_no_interval():
    assert timing.ratio(taken(6.0), taken(3.0, 3.0, 3.0)) == Ratio(2.0, 2.0, 2.0)


def test_the_same_samples_give_the_same_ratio():
    slow, fast = taken(*(4 * x + 1 for x in UNEVEN)), taken(*UNEVEN)
    (found,) = {timing.ratio(slow, fast) for _ in range(5)}
    assert found.low < found.value < found.high


@pytest.mark.parametrize(
    "median, low, high, shown",
    [
        (2.0, 1.5, 2.25, "2 s [1.5, 2.25]"),
        (1.234e-3, 1.2e-3, 1.3e-3, "1.23 ms [1.2, 1.3]"),
        (5e-5, 4e-5, 1.2e-4, "50 µs [40, 120]"),
        (3e-9, 2e-9, 4e-9, "3 ns [2, 4]"),
        (3e-12, 2e-12, 4e-12, "0.003 ns [0.002, 0.004]"),
    ],
)
def test_a_timing_reads_in_the_unit_of_its_median(median, low, high, shown):
    assert str(Timing(median, low, high, 0.0, ())) == shown


@pytest.mark.parametrize("median, high", [(0.5, 2.5), (0.9996, 0.9997)])
def test_a_timing_never_reads_in_powers_of_ten(median, high):
    assert "e+" not in str(Timing(median, median, high, 0.0, ()))


def test_a_ratio_reads_as_a_factor():
    assert str(Ratio(2.0, 1.514, 2.5)) == "2x [1.51, 2.5]"


def test_a_stopwatch_runs_inside_its_block_and_stands_still_after(clock):
    work = clock.works(4.0)
    with timing.stopwatch() as seconds:
        work()
        assert seconds() == 4
        work()
    work()
    assert seconds() == 8
