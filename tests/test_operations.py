"""Single operations: their formulas against counters and against counting by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_attn import cost, counting
from sparse_attn.counting import SlowMemory

few = st.integers(1, 12)


@given(m=few, k=few, n=few, batch=few)
def test_a_product_costs_what_is_counted(m, k, n, batch):
    a, b = torch.ones(batch, m, k), torch.ones(batch, k, n)
    work = cost.matmul(m, k, n, batch=batch)
    assert counting.flops(lambda: a @ b) == work.flops
    assert counting.traffic(lambda: torch.bmm(a, b)).moved == work.moved
    assert work.held == 4 * batch * m * n


@pytest.mark.parametrize("n", [6, 100, 6000])
def test_a_square_product_has_a_sixth_of_its_side_in_flops_per_byte(n):
    assert cost.matmul(n, n, n).intensity == pytest.approx(n / 6)
    assert cost.matmul(n, n, n, bytes_per_value=2).intensity == pytest.approx(n / 3)


@given(n=few)
def test_element_wise_work_costs_what_is_counted(n):
    x, y = torch.ones(n), torch.ones(n)
    one, two = cost.elementwise(n), cost.elementwise(n, inputs=2)
    assert counting.traffic(lambda: x.sqrt()).moved == one.moved
    assert counting.traffic(lambda: x * y).moved == two.moved
    assert one.flops == n and one.intensity == 1 / 8
    assert cost.elementwise(n, operations=5).flops == 5 * n


@given(operations=few, n=st.integers(1, 30), block=st.integers(1, 9))
def test_a_chain_moves_what_the_simulator_and_real_calls_move(operations, n, block):
    unfused, fused = cost.chain(operations)

    def eager():
        x = a * b
        for _ in range(operations - 1):
            x = x.sqrt()

    a, b = torch.rand(n), torch.rand(n)
    assert counting.traffic(eager).moved == 4 * n * unfused

    memory = SlowMemory(fast=2 * block)
    x, y = memory.place(a), memory.place(b)
    out = memory.empty(n)
    for i in range(0, n, block):
        with memory.block():
            t, u = memory.load(x[i : i + block], "t"), memory.load(y[i : i + block])
            t.mul_(u)
            for _ in range(operations - 1):
                t.sqrt_()
            memory.store(out[i : i + block], t)
    assert memory.moved == n * fused
    expected = (a * b).pow(0.5 ** (operations - 1))
    assert torch.allclose(memory.result(out), expected)


@given(blocks=st.integers(1, 200), units=st.integers(1, 50))
def test_waves_are_rounds_of_giving_each_unit_one_block(blocks, units):
    left, rounds = blocks, 0
    while left > 0:
        left, rounds = left - units, rounds + 1
    assert cost.waves(blocks, units) == rounds
    assert cost.wave_use(blocks, units) == pytest.approx(blocks / (rounds * units))
    assert 0 < cost.wave_use(blocks, units) <= 1


def test_the_guides_example_of_waves():
    assert cost.waves(12, 8) == 2 and cost.wave_use(12, 8) == 0.75
    assert cost.wave_use(108, 108) == 1


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: cost.matmul(0, 1, 1), "m=0"),
        (lambda: cost.matmul(1, 1, 1, batch=1.5), "batch=1.5"),
        (lambda: cost.elementwise(4, inputs=0), "inputs=0"),
        (lambda: cost.elementwise(4, bytes_per_value=0), "bytes_per_value=0"),
        (lambda: cost.chain(0), "operations=0"),
        (lambda: cost.waves(1, 0), "units=0"),
        (lambda: cost.wave_use(0, 1), "blocks=0"),
    ],
)
def test_sizes_that_are_none_are_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()
