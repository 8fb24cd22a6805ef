"""The two running numbers of a softmax: against the formula, and the law they obey."""

import functools
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import DTYPES, off

from sparse_attn.flash import (
    Running,
    merge_states,
    merge_tree,
    online_softmax,
    running,
    running_blocks,
)

steady = settings(max_examples=60)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
NOTHING = -torch.inf

scores = st.lists(
    st.one_of(st.floats(-80, 80), st.just(NOTHING), st.sampled_from([-6e4, 6e4])),
    min_size=1,
    max_size=20,
).map(lambda row: torch.tensor(row, dtype=torch.float64))


def by_formula(x):
    """softmax of one row in numpy's longest float; zeros where there is nothing."""
    x = x.double().numpy().astype(np.longdouble)
    top = x.max()
    if top == -np.inf:
        return torch.zeros(len(x), dtype=torch.float64)
    e = np.exp(x - top)
    return torch.from_numpy((e / e.sum()).astype(np.float64))


def budget(x, exact):
    """Rounding of exp((x - m) + (m - M)): of its argument, and 3 N steps of a sum.

    Scores are exact in their dtype; sums are in fp32 for half types.
    """
    u = torch.finfo(x.dtype).eps
    a = min(u, torch.finfo(torch.float32).eps)
    smallest = torch.finfo(x.dtype).smallest_normal
    seen = x[x.isfinite()].double()
    span = (seen.max() - seen.min()).item() if len(seen) else 0.0
    return exact * (a * (2 * span + 3 * len(x) + 4) + u) + smallest


@pytest.mark.parametrize("block", [1, 2, 7, 64, 1000])
@each_dtype
def test_one_pass_in_blocks_is_the_softmax_of_each_row(dtype, block):
    torch.manual_seed(0)
    x = (5 * torch.randn(2, 3, 97)).to(dtype)
    out = online_softmax(x, block)
    assert out.dtype == dtype and out.shape == x.shape
    for row, got in zip(x.flatten(0, 1), out.flatten(0, 1), strict=True):
        exact = by_formula(row)
        assert (off(got, exact) <= budget(row, exact)).all()


@steady
@given(x=scores, block=st.integers(1, 21))
def test_whatever_the_scores_and_blocks(x, block):
    exact = by_formula(x)
    assert (off(online_softmax(x, block), exact) <= budget(x, exact)).all()


@each_dtype
def test_a_row_of_nothing_gives_zeros_and_no_nan_on_the_way_back(dtype):
    x = torch.full((2, 5), NOTHING, dtype=dtype)
    x[1, 3] = 2.0
    x.requires_grad_()
    with torch.autograd.set_detect_anomaly(True):
        out = online_softmax(x, 2)
        out.sum().backward()
    assert out.tolist() == [[0.0] * 5, [0, 0, 0, 1, 0]]
    assert x.grad.isfinite().all()


def test_the_gradient_is_the_derivative():
    x = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: online_softmax(x, 3), x)
    assert torch.autograd.gradcheck(lambda x: merge_tree([*map(running, x)]).lse, x)


def test_the_largest_halves_neither_overflow_nor_lose_their_order():
    x = torch.tensor([65504.0, 65472.0, -65504.0, 65504.0], dtype=torch.float16)
    for block in (1, 2, 3, 4):
        assert online_softmax(x, block).tolist() == [0.5, 0.0, 0.0, 0.5]


def test_the_state_after_each_block_is_that_of_all_scores_so_far():
    x = torch.tensor([1.0, 3.0, 2.0, 5.0, 0.0])
    states = list(running_blocks(x, 2))
    assert [state.m.item() for state in states] == [3, 5, 5]
    for state, end in zip(states, (2, 4, 5), strict=True):
        whole = running(x[:end])
        assert state.m == whole.m
        # A handful of operations, each rounded once.
        assert abs(state.l - whole.l) <= 8 * torch.finfo(torch.float32).eps * whole.l


def test_the_log_sum_exp_is_pytorch_s_also_of_nothing():
    x = torch.tensor([[1.0, 2.0], [NOTHING, NOTHING]], dtype=torch.float64)
    found, theirs = running(x).lse, x.logsumexp(-1)
    assert found.tolist() == pytest.approx(theirs.tolist(), rel=1e-15)
    assert found[1] == NOTHING


def close(a, b):
    """Equal maxima, and sums that differ by the rounding of some 60 operations."""
    within = (a.l - b.l).abs() <= 400 * torch.finfo(torch.float64).eps * b.l
    return bool((a.m == b.m).all() and within.all())


@steady
@given(rows=st.tuples(scores, scores, scores))
def test_merging_is_associative_and_commutative_with_nothing_as_its_unit(rows):
    a, b, c = map(running, rows)
    unit = running(torch.tensor([NOTHING], dtype=torch.float64))
    whole = running(torch.cat(rows))
    for x, y, z in itertools.permutations((a, b, c)):
        assert close(merge_states(merge_states(x, y), z), whole)
        assert close(merge_states(x, merge_states(y, z)), whole)
    assert merge_states(a, unit) == a == merge_states(unit, a)


@steady
@given(rows=st.lists(scores, min_size=1, max_size=9))
def test_a_tree_of_merges_gives_what_a_chain_gives(rows):
    states = [*map(running, rows)]
    chain = functools.reduce(merge_states, states)
    assert close(merge_tree(states), chain)
    assert close(chain, running(torch.cat(rows)))


def test_a_sum_is_at_least_one_wherever_there_was_a_score():
    torch.manual_seed(0)
    x = 100 * torch.randn(50, 40)
    for state in running_blocks(x, 7):
        assert isinstance(state, Running) and (state.l >= 1).all()
