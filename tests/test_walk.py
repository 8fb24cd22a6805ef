"""Attention on two memories: right results, and the traffic that the formulas say."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import by_loops, exact_gradients, off

from sparse_attn import cost
from sparse_attn.counting import SlowMemory
from sparse_attn.flash import (
    naive_walk,
    outer_kv_backward,
    outer_kv_walk,
    outer_q_walk,
)

steady = settings(max_examples=60)
each_order = pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
each_tiled = pytest.mark.parametrize("walk", [outer_kv_walk, outer_q_walk])

# The example of chapter 6: 4 tiles of 32 queries, 8 tiles of 16 keys.
N, D, BLOCKS = 128, 16, dict(block_q=32, block_k=16)
PEAK = 2 * 16 * 16 + 2 * 32 * 16 + 32 * 16 + 2 * 32

shapes = st.tuples(  # T, S, D, block_q, block_k, causal
    *(st.integers(1, most) for most in (30, 30, 6, 12, 12)), st.booleans()
)


def head(T, S, D, dtype=torch.float64):
    torch.manual_seed(T + 100 * S + 10_000 * D)
    q, k, v = torch.randn(T, D), torch.randn(S, D), torch.randn(S, D)
    return tuple(x.to(dtype) for x in (q, k, v))


def example(walk, causal=False, fast=None):
    memory = SlowMemory(fast)
    blocks = BLOCKS if walk is not naive_walk else dict(block_q=32)
    return memory, walk(memory, *head(N, N, D), causal=causal, **blocks)


def is_attention(out, q, k, v, causal):
    T, S = len(q), len(k)
    one = [x[None, None] for x in (q, k, v)]
    exact, budget = by_loops(*one, lambda t, s: not causal or s <= t + S - T)
    assert (off(out, exact[0, 0]) <= 2 * budget[0, 0]).all()


@pytest.mark.parametrize(
    ("walk", "elements"),
    [
        (outer_kv_walk, cost.outer_kv_elements),
        (outer_q_walk, cost.outer_q_elements),
    ],
)
@steady
@given(shape=shapes)
def test_each_order_is_attention_and_moves_what_the_formula_says(walk, elements, shape):
    T, S, D, block_q, block_k, causal = shape
    q, k, v = head(T, S, D)
    memory, blocks = SlowMemory(), dict(block_q=block_q, block_k=block_k)
    is_attention(
        walk(memory, q, k, v, causal=causal, **blocks).finish(), q, k, v, causal
    )
    expected = elements(T, D, S=S, causal=causal, **blocks)
    assert (memory.read, memory.written) == (expected.read, expected.written)


@steady
@given(shape=shapes)
def test_the_plain_program_is_attention_and_moves_what_the_formula_says(shape):
    T, S, D, block_q, _, causal = shape
    q, k, v = head(T, S, D)
    memory = SlowMemory()
    out = naive_walk(memory, q, k, v, block_q=block_q, causal=causal).finish()
    is_attention(out, q, k, v, causal)
    expected = cost.naive_elements(T, D, S=S)
    assert (memory.read, memory.written) == (expected.read, expected.written)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@steady
@given(shape=shapes)
def test_backward_has_the_gradients_and_moves_what_the_formula_says(dtype, shape):
    T, S, D, block_q, block_k, causal = shape
    q, k, v = head(T, S, D, dtype)
    dout = torch.randn(T, D).to(dtype)
    memory, blocks = SlowMemory(), dict(block_q=block_q, block_k=block_k)
    found = outer_kv_backward(memory, q, k, v, dout, causal=causal, **blocks)
    one = (x[None, None] for x in (q, k, v, dout))
    exact, budgets = exact_gradients(*one, causal=causal)
    for x, expected, budget in zip(found, exact, budgets, strict=True):
        assert (off(x, expected[0, 0]) <= budget[0, 0]).all()
    count = cost.outer_kv_backward_elements(T, D, S=S, causal=causal, **blocks)
    assert (memory.read, memory.written) == (count.read, count.written)
    assert memory.held == 0


def test_backward_in_single_numbers():
    """Keys, values and their gradients once; eight times five arrays and two rows."""
    found = cost.outer_kv_backward_elements(N, D, **BLOCKS)
    assert (found.read, found.written) == (71_680, 20_480)
    assert found.moved == 4 * N * D + 8 * (5 * N * D + 2 * N)


def test_backward_needs_a_gradient_of_the_output_s_shape():
    q, k, v = head(4, 6, 3)
    for dout, words in ((v, r"\(6, 3\)"), (None, "NoneType")):
        with pytest.raises(ValueError, match=f"dout has .*{words}.*q is needed"):
            outer_kv_backward(SlowMemory(), q, k, v, dout, block_q=2, block_k=2)


def test_backward_needs_room_for_eight_tiles_and_two_of_scores():
    q, k, v = head(N, N, D)
    needs = 4 * 16 * D + 4 * 32 * D + 2 * 32 * 16 + 2 * 32
    memory = SlowMemory(needs)
    outer_kv_backward(memory, q, k, v, q, **BLOCKS)
    assert memory.peak == needs
    with pytest.raises(MemoryError, match="dS"):
        outer_kv_backward(SlowMemory(needs - 1), q, k, v, q, **BLOCKS)


@each_tiled
@steady
@given(shape=shapes)
def test_a_walk_visits_the_tiles_that_are_counted_and_fits_the_memory(walk, shape):
    T, S, D, block_q, block_k, causal = shape
    memory = SlowMemory()
    blocks = dict(block_q=block_q, block_k=block_k)
    steps = list(walk(memory, *head(T, S, D), causal=causal, **blocks))
    visited = [step for step in steps if step.what == "tile"]
    count = cost.tiles(T, block_q, block_k, S=S, causal=causal)
    assert len(visited) == count.visited
    needed = cost.tile_memory(D, min(block_q, T), min(block_k, S))
    # The first tile is a whole one, unless its queries come before the first key.
    if causal and S - T + block_q < 1:
        assert memory.peak <= needed
    else:
        assert memory.peak == needed
    assert memory.held == 0


@steady
@given(shape=shapes)
def test_tiles_are_full_partial_or_skipped_as_a_mask_says(shape):
    T, S, _, block_q, block_k, causal = shape
    sees = torch.ones(T, S, dtype=torch.bool)
    if causal:
        sees = sees.tril(S - T)
    tiles = [
        tile for rows in sees.split(block_q) for tile in rows.split(block_k, dim=1)
    ]
    count = cost.tiles(T, block_q, block_k, S=S, causal=causal)
    assert count.full == sum(bool(tile.all()) for tile in tiles)
    assert count.skipped == sum(not tile.any() for tile in tiles)
    assert count.partial == len(tiles) - count.full - count.skipped


@pytest.mark.parametrize(
    ("walk", "causal", "read", "written", "steps"),
    [
        (naive_walk, False, 3 * N * D + 2 * N * N, N * D + 2 * N * N, 3 * 4),
        (naive_walk, True, 3 * N * D + 2 * N * N, N * D + 2 * N * N, 3 * 4),
        (outer_kv_walk, False, 38_912, 18_432, 32),
        (outer_kv_walk, True, 25_856, 11_520, 20),
        (outer_q_walk, False, 18_432, 2_176, 32 + 4),
        (outer_q_walk, True, 12_288, 2_176, 20 + 4),
    ],
)
def test_the_example_of_chapter_6(walk, causal, read, written, steps):
    memory, walked = example(walk, causal)
    taken = list(walked)
    is_attention(walked.finish(), *head(N, N, D), causal)
    assert (memory.read, memory.written) == (read, written)
    assert len(taken) == steps
    assert taken[-1].moved == memory.moved
    if walk is not naive_walk:
        assert memory.peak == PEAK == cost.tile_memory(D, 32, 16) == 2_112


def test_the_example_in_single_numbers():
    assert cost.naive_elements(N, D).moved == 73_728
    assert cost.outer_kv_elements(N, D, 32, 16).moved == 57_344
    assert cost.outer_q_elements(N, D, 32, 16).moved == 20_608
    assert cost.outer_q_elements(N, D, 32, 16, causal=True).moved == 14_464
    assert cost.tiles(N, 32, 16, causal=True) == cost.TileCount(12, 8, 12)
    assert cost.tiles(N, 32, 16) == cost.TileCount(32, 0, 0)


def test_the_paper_s_blocks_leave_no_room_for_the_scores():
    """Of 100 KB in fp32 at D = 64: q, k, v and O take 83,968 bytes, S 25,600 more."""
    M = 100 * 1024 // 4
    block_q, block_k = cost.flash_blocks(M, 64)
    assert (block_q, block_k) == (64, 100)
    without_scores = 2 * 64 * (block_q + block_k)
    assert 4 * without_scores == 83_968 <= 4 * M
    assert 4 * (without_scores + block_q * block_k) == 109_568 > 4 * M
    memory = SlowMemory(fast=M)
    walk = outer_kv_walk(memory, *head(200, 200, 64), block_q=block_q, block_k=block_k)
    with pytest.raises(MemoryError, match="S with 6,400 does not fit"):
        walk.finish()


@each_tiled
def test_tiles_fit_exactly_the_memory_they_need(walk):
    _, walked = example(walk, fast=PEAK)
    walked.finish()
    _, walked = example(walk, fast=PEAK - 1)
    with pytest.raises(MemoryError, match="S with 512 does not fit"):
        walked.finish()


def test_the_plain_program_needs_room_for_all_keys():
    _, walked = example(naive_walk, fast=N * D + 32 * D + 32 * N)
    walked.finish()
    _, walked = example(naive_walk, fast=N * D - 1)
    with pytest.raises(MemoryError, match="K with 2,048 does not fit"):
        walked.finish()


@each_order
def test_after_each_step_outer_kv_has_attention_over_the_keys_so_far(causal):
    q, k, v = head(N, N, D)
    _, walked = example(outer_kv_walk, causal)
    for step in walked:
        keys = slice(0, step.keys.stop)
        start = step.queries.start
        sees = lambda t, s, start=start: not causal or s <= t + start  # noqa: E731
        one = [x[None, None] for x in (q[step.queries], k[keys], v[keys])]
        exact, budget = by_loops(*one, sees)
        assert (off(step.out, exact[0, 0]) <= 2 * budget[0, 0]).all()


def test_outer_q_divides_only_when_a_row_of_tiles_is_finished():
    _, walked = example(outer_q_walk)
    before = None
    for step in walked:
        if step.what == "finish":
            assert step.keys is None
            assert torch.allclose(step.out, before.out / before.l[:, None], rtol=1e-14)
            assert {"K", "V", "S"}.isdisjoint(step.holds)
        before = step


@each_order
def test_the_log_sum_exp_left_by_outer_q_is_that_of_the_scores(causal):
    q, k, _ = head(N, N, D)
    memory, walked = example(outer_q_walk, causal)
    walked.finish()
    scores = q @ k.mT / 4
    if causal:
        scores = scores.masked_fill(torch.ones(N, N).triu(1).bool(), -torch.inf)
    found = memory.result(walked.lse)
    # N terms, rescaled 8 times, each off by a few roundings of numbers below 10.
    assert off(found, scores.logsumexp(-1)).max() <= 10 * N * 2**-52


def test_a_step_says_what_fast_memory_holds_and_keeps_its_numbers():
    _, walked = example(outer_q_walk)
    first, second, *_ = steps = list(walked)
    assert first.holds == {
        "Q": (32, 16),
        "O": (32, 16),
        "m": (32,),
        "l": (32,),
        "K": (16, 16),
        "V": (16, 16),
        "S": (32, 16),
    }
    assert (first.queries, first.keys) == (slice(0, 32), slice(0, 16))
    assert (first.read, first.written) == (32 * 16 + 2 * 16 * 16, 0)
    assert second.read - first.read == 2 * 16 * 16
    q, k, _ = head(N, N, D)
    best = (q[:32] @ k[:16].mT / 4).amax(1)
    assert torch.equal(first.m, best), "the walk went on, the copy did not"
    assert all(step.out.isfinite().all() for step in steps)


def test_a_walk_goes_only_as_far_as_it_is_asked():
    memory, walked = example(outer_kv_walk)
    assert memory.moved == 0
    next(walked.steps)
    assert memory.moved == 2 * 16 * 16 + 32 * (3 * 16 + 4)
    with pytest.raises(ValueError, match=r"O: 2,048 of 2,048 elements are NaN"):
        memory.result(example(naive_walk)[1].out)


WRONG = {
    "four axes": (dict(q=torch.ones(1, 1, 4, 2)), r"q has shape \(1, 1, 4, 2\)"),
    "a list": (dict(k=[[1.0]]), "k has <class 'list'>"),
    "no keys": (dict(k=torch.ones(0, 2), v=torch.ones(0, 2)), r"k has shape \(0, 2\)"),
    "fewer values": (dict(v=torch.ones(3, 2)), r"v \(3, 2\)"),
    "another width": (dict(q=torch.ones(4, 3)), r"q has shape \(4, 3\)"),
    "no block": (dict(block_q=0), "block_q=0"),
}


@pytest.mark.parametrize(("changed", "says"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("walk", [naive_walk, outer_kv_walk, outer_q_walk])
def test_a_walk_explains_what_does_not_fit(walk, changed, says):
    given = dict(q=torch.ones(4, 2), k=torch.ones(4, 2), v=torch.ones(4, 2), block_q=2)
    if walk is not naive_walk:
        walk = functools.partial(walk, block_k=2)
    with pytest.raises(ValueError, match=says):
        walk(SlowMemory(), **given | changed)
