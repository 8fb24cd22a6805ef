"""Ceilings and what lies under them, on clocks that are told what to say."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_attn import compiling, counting, roofline, workloads
from sparse_attn.roofline import PUBLISHED, Ceilings, Placed, Roof
from sparse_attn.timing import Timing
from tools.notebooks import ROOT

CPU = torch.device("cpu")
positive = st.floats(1e-3, 1e15)


def timing(s):
    return Timing(s, s, s, s, (s,))


@given(copy=positive, matmul=positive, flops=positive, bytes=positive)
def test_a_roof_is_the_lower_of_two_limits_and_its_time_the_longer(
    copy, matmul, flops, bytes
):
    roof = Roof(torch.float32, copy, matmul)
    intensity = flops / bytes
    assert roof.rate(intensity) <= matmul
    assert roof.rate(intensity) <= intensity * copy
    assert math.isclose(roof.seconds(flops, bytes), flops / roof.rate(intensity))
    assert math.isclose(roof.rate(roof.ridge), matmul)


def test_published_ridges_are_those_of_the_audit():
    ridges = {name: f"{roof.ridge:.3g}" for name, roof in PUBLISHED.items()}
    assert ridges == {
        "A100 80 GB, FP32": "9.56",
        "A100 80 GB, TF32": "76.5",
        "A100 80 GB, BF16": "153",
        "H100 SXM, FP32": "20",
        "H100 SXM, TF32": "148",
        "H100 SXM, BF16": "295",
        "M1 Max, FP32": "26",
    }


def test_published_sources_are_references_of_the_book():
    known = (ROOT / "book" / "references.bib").read_text()
    for roof in PUBLISHED.values():
        assert f"{{{roof.source}," in known


@pytest.mark.parametrize(
    "bytes, bound, fraction", [(10**9, "compute", 0.5), (10**10, "memory", 1.0)]
)
def test_a_call_is_placed_by_its_intensity(bytes, bound, fraction):
    roof = Roof(torch.float32, copy=1e10, matmul=1e11)
    found = Placed(5 * 10**10, bytes, timing(1.0), roof)
    assert found.bound == bound and found.intensity == 5e10 / bytes
    assert found.attained == 5e10 and math.isclose(found.fraction, fraction)
    assert f"{bound}-bound" in str(found) and f"{fraction:.0%}" in str(found)


def test_place_times_the_call_under_the_roof_it_is_given(monkeypatch):
    monkeypatch.setattr(roofline, "measure", lambda fn, device: timing(fn()))
    roof = Roof(torch.float32, 1.0, 1.0)
    found = roofline.place(lambda: 2.0, flops=1, bytes=1, roof=roof)
    assert found.time.median == 2.0 and found.fraction == 0.5


@pytest.mark.parametrize("wrong", [dict(flops=-1, bytes=1), dict(flops=1, bytes=0)])
def test_place_refuses_work_that_is_none(wrong):
    with pytest.raises(ValueError, match=r"flops=-1|bytes=0"):
        roofline.place(lambda: None, **wrong, roof=PUBLISHED["M1 Max, FP32"])


@pytest.fixture
def machine(monkeypatch):
    """A CPU whose copy, new memory and products take the time they are told to."""
    rates = SimpleNamespace(copy=8.0, fresh=2.0, matmul={16: 4.0, 32: 8.0, 64: 6.0})
    rates.measured = []

    def together(fns, device):
        for fn in fns.values():
            fn()
        if set(fns) == {"old", "new"}:
            n = roofline.copy_bytes(device)
            old = 2 * n / rates.copy
            return {"old": timing(old), "new": timing(old / 2 + n / rates.fresh)}
        return {size: timing(2 * size / (size % 1009)) for size in fns}

    def one(fn, device):
        n = len(fn())
        rates.measured.append(n)
        return timing(2 * n**3 / rates.matmul[n])

    monkeypatch.setattr(roofline, "measure_together", together)
    monkeypatch.setattr(roofline, "measure", one)
    monkeypatch.setattr(roofline, "COPY_BYTES", 2**12)
    monkeypatch.setattr(roofline, "caches", lambda _: {"L1": 2**8})
    monkeypatch.setattr(roofline, "MATMUL_SIDES", {"cpu": (16, 32, 64)})
    monkeypatch.setattr(roofline, "LONG", math.inf)
    roofline.measure_ceilings.cache_clear()
    yield rates
    roofline.measure_ceilings.cache_clear()


def test_ceilings_are_the_rates_of_the_machine(machine):
    found = roofline.measure_ceilings(CPU)
    assert (found.copy, found.matmul, found.fresh) == (8.0, 8.0, 2.0)
    assert found.cached == max(2**k % 1009 for k in range(16, 22))
    assert found.dtype == torch.float32 and found.ridge == 1.0


def test_ceilings_are_kept_until_they_are_forgotten(machine):
    first = roofline.measure_ceilings(CPU)
    machine.copy = 16.0
    assert roofline.measure_ceilings(CPU) is first
    roofline.measure_ceilings.cache_clear()
    assert roofline.measure_ceilings(CPU).copy == 16.0


def test_a_dtype_has_a_matmul_rate_of_its_own(machine):
    assert roofline.measure_ceilings(CPU, torch.bfloat16).dtype == torch.bfloat16
    assert machine.measured == [16, 32, 64]


def test_a_product_that_takes_long_is_not_tried_at_twice_its_side(machine, monkeypatch):
    monkeypatch.setattr(roofline, "LONG", 1.0)
    assert roofline.measure_ceilings(CPU).matmul == 4.0
    assert machine.measured == [16]


def test_a_copy_outgrows_the_caches_and_leaves_memory_to_others(monkeypatch):
    monkeypatch.setattr(roofline, "facts", lambda _: SimpleNamespace(memory=2**36))
    for last, size in ((2**20, 2**28), (480 * 2**20, 960 * 2**20), (2**35, 2**32)):
        monkeypatch.setattr(roofline, "caches", lambda _, last=last: {"L3": last})
        assert roofline.copy_bytes(CPU) == size


def test_a_copy_needs_room_for_a_number():
    with pytest.raises(ValueError, match="size=3"):
        roofline.copy_rates([3], CPU)


def test_ceilings_can_be_made_by_name():
    roof = Ceilings(torch.float32, copy=2.0, matmul=6.0, fresh=1.0)
    assert roof.ridge == 3.0 and roof.cached is None and roof.source == ""


@pytest.fixture(scope="module")
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workloads, "ROWS", {"cpu": 8})
        patch.setattr(workloads, "SIDE", {"cpu": 24})
        patch.setattr(workloads, "TOKENS", 40)
        patch.setattr(workloads, "CACHE", 50)
        yield workloads.calls(CPU)


def test_products_and_attention_do_the_flops_they_are_charged_for(small):
    for name, (call, work) in small.items():
        if "product" in name or "attention" in name:
            assert counting.flops(call) == work.flops, name


def test_what_is_done_in_one_operation_moves_the_bytes_it_is_charged_for(small):
    for name in ("scale", "softmax", "GELU", "product, n = 24", "products, n = 16"):
        call, work = small[name]
        moved = counting.traffic(call)
        # The counter takes memory handed in for a result as written only.
        assert moved.moved == work.moved, (name, moved.by_operator)


@pytest.mark.parametrize("threads", [1, 2, 6])
def test_pieces_of_work_go_to_four_waves_and_past_the_first_by_one(
    threads, monkeypatch
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(workloads, "HEAD", 1)
    units, pieces = workloads.waves(CPU)
    assert units == threads and {units, units + 1, 4 * units} <= set(pieces)
    each = counting.flops(pieces[units + 1]) / (units + 1)
    assert all(counting.flops(call) == n * each for n, call in pieces.items())


def test_what_cannot_be_compiled_is_said_in_one_line(monkeypatch):
    def broken(fn, dynamic):
        raise RuntimeError("no compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", broken)
    faster, why = compiling.compiled(torch.sqrt, torch.ones(2))
    assert faster is None
    assert why == "torch.compile does not work here: no compiler"


def test_what_compiles_is_returned_warm(monkeypatch):
    called = []
    monkeypatch.setattr(torch, "compile", lambda fn, dynamic: called.append)
    faster, why = compiling.compiled(torch.sqrt, torch.ones(2))
    assert faster == called.append and why == "" and len(called) == 1


def test_an_error_of_the_function_itself_is_raised():
    with pytest.raises(ZeroDivisionError):
        compiling.compiled(lambda x: 1 / 0, torch.ones(2))
