"""What finding, attending and pooling cost: formulas against counters and loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bad_input import explains

from sparse_attn import cost, counting, indexer

steady = settings(max_examples=40)
SIZES = dict(T=st.integers(1, 40), D=st.integers(1, 9), part=st.integers(1, 50))
each_order = pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])


def seen_by(t, T, causal):
    return t + 1 if causal else T


@steady
@given(rank=st.integers(1, 9), H=st.integers(1, 3), T=SIZES["T"], D=SIZES["D"])
def test_an_indexer_costs_what_the_counter_counts(T, D, rank, H):
    """All pairs, as the scores are formed before any is hidden; a bias is free."""
    finder = indexer.LowRank(H, D, rank)
    q, k = torch.ones(2, 1, H, T, D)
    counted = counting.flops(lambda: finder.scores(q, k))
    assert counted == H * cost.indexer_flops(T, D, rank)


@each_order
@steady
@given(rank=st.integers(1, 9), T=SIZES["T"], D=SIZES["D"])
def test_an_indexer_costs_two_maps_and_a_product_per_pair(causal, T, D, rank):
    products = sum(seen_by(t, T, causal) for t in range(T))
    maps = 2 * T * D  # numbers read, each multiplied `rank` times
    expected = 2 * rank * (maps + products)
    assert cost.indexer_flops(T, D, rank, causal=causal) == expected


@each_order
@steady
@given(**SIZES)
def test_selected_keys_cost_two_products_for_each_that_is_met(causal, T, D, part):
    met = sum(min(part, seen_by(t, T, causal)) for t in range(T))
    if part <= T:
        assert cost.topk_flops(T, D, part, causal=causal) == 2 * 2 * D * met
    if causal:
        full = cost.scores(T, D, 1, causal=True).flops
        assert cost.indexed_shares(T, D, part, 1)["selected"] == 2 * 2 * D * met / full


@each_order
@steady
@given(**SIZES)
def test_pooled_blocks_cost_two_products_for_each_that_has_begun(causal, T, D, part):
    met = sum(len(range(0, seen_by(t, T, causal), part)) for t in range(T))
    assert cost.pooled_flops(T, D, part, causal=causal) == 2 * 2 * D * met


@each_order
def test_all_keys_and_blocks_of_one_token_cost_what_attention_does(causal):
    full = cost.scores(97, 8, 1, causal=causal).flops
    assert cost.topk_flops(97, 8, 97, causal=causal) == full
    assert cost.pooled_flops(97, 8, 1, causal=causal) == full


@each_order
def test_the_share_of_an_indexer_tends_to_rank_over_twice_the_width(causal):
    D, rank = 32, 8

    def share(T):
        full = cost.scores(T, D, 1, causal=causal).flops
        return cost.indexer_flops(T, D, rank, causal=causal) / full

    assert rank / (2 * D) < share(4096) < 1 / 4
    assert share(2**20) == pytest.approx(rank / (2 * D), rel=1e-3)


@pytest.mark.parametrize("price, part", [
    (cost.indexer_flops, "rank"), (cost.topk_flops, "K"), (cost.pooled_flops, "block"),
])  # fmt: skip
def test_sizes_that_are_none_are_refused(price, part):
    sizes = {"T": 16, "D": 8, part: 4}
    for name in sizes:
        for wrong in (0, 2.5):
            explains(lambda n=name, w=wrong: price(**sizes | {n: w}), name, wrong)


def test_shares_are_those_of_the_parts_and_a_window_is_found_for_free():
    T, D, K, rank = 300, 16, 40, 4
    full = cost.scores(T, D, 1, causal=True).flops
    shares = cost.indexed_shares(T, D, K, rank, block=8)
    assert shares == {
        "finding": cost.indexer_flops(T, D, rank, causal=True) / full,
        "selected": cost.topk_flops(T, D, K, causal=True) / full,
        "pooled": cost.pooled_flops(T, D, 8, causal=True) / full,
    }
    assert cost.indexed_shares(T, D, K, 0)["finding"] == 0
    assert cost.indexed_shares(T, D, T + 5, rank)["selected"] == 1
    for name, wrong in (("K", 0), ("rank", -1), ("rank", 2.5)):
        sizes = dict(T=T, D=D, K=K, rank=rank) | {name: wrong}
        explains(lambda s=sizes: cost.indexed_shares(**s), name, wrong)
