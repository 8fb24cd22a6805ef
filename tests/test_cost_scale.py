"""The published rows at scale, and prices: against loops, limits and the documents."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_gpt import SMALL
from test_bad_input import explains

from sparse_attn import cost, counting
from sparse_attn.gpt import GPT

steady = settings(max_examples=40)
GUESS = dict(B=8, L=120)  # of the script, for heads of 128 in a width of 16,384
C, D, K = 16_384, 128, 32
MODEL = SMALL.but(kv_heads=2, mlp="swiglu", positions="rotary", bias=False)
PLAIN = cost.Serving(flops=100.0, utilization=0.5, bandwidth=10.0, streaming=0.5)


@pytest.mark.parametrize("T, full, sparse, ratio", [
    (8192, 2_111_062_325, 4_252_018, 496.48),
    (128_000, 515_396_075_520, 66_437_775, 7757.58),
])  # fmt: skip
def test_the_published_formulas_give_the_published_rows_a_thousandfold(
    T, full, sparse, ratio
):
    ours = cost.published_full(T, C, **GUESS), cost.published_sparse(T, C, K, **GUESS)
    assert [round(n / 1e6) for n in ours] == [full, sparse]
    assert ours[0] / ours[1] == pytest.approx(cost.published_ratio(T, K), rel=1e-12)
    assert cost.published_ratio(T, K) == pytest.approx(ratio, abs=0.005)
    for n, printed in zip(ours, cost.PRINTED[T], strict=False):
        assert n / 1e9 == pytest.approx(printed, rel=0.013)  # in billions, not millions
    assert cost.published_ratio(T, K) == pytest.approx(cost.PRINTED[T][2], rel=0.008)


@pytest.mark.parametrize("T, hidden, gain, work", [
    (8192, 64, 2.61, 8.08e14), (8192, 128, 1.31, 1.62e15), (8192, 512, 0.33, 6.47e15),
    (128_000, 64, 3.87, 1.33e17), (128_000, 128, 1.93, 2.66e17),
    (128_000, 512, 0.48, 1.07e18),
])  # fmt: skip
def test_with_the_selector_counted_little_of_the_ratio_is_left(T, hidden, gain, work):
    assert cost.topk_mlp_gain(T, D, hidden, K) == pytest.approx(gain, abs=0.005)
    rows = cost.rows_at_scale(T, K, hidden=hidden)
    assert rows["full"] == 2 * cost.published_full(T, C, **GUESS)
    assert rows["published"] / 2 == pytest.approx(work, rel=0.005)
    assert rows["full"] / rows["published"] == cost.topk_mlp_gain(T, D, hidden, K)


@steady
@given(D=st.integers(1, 99), hidden=st.integers(1, 99), K=st.integers(1, 64))
def test_the_gain_grows_to_its_limit_and_never_past_it(D, hidden, K):
    gains = [cost.topk_mlp_gain(T, D, hidden, K) for T in (64, 4096, 2**30)]
    assert gains == sorted(gains) and gains[-1] < 2 * D / hidden
    assert gains[-1] == pytest.approx(2 * D / hidden, rel=1e-3)


@steady
@given(T=st.integers(1, 64), D=st.integers(1, 9), h=st.integers(1, 9), data=st.data())
def test_what_the_published_formula_lacks_is_what_the_head_costs_more(T, D, h, data):
    """Per query, in multiply-adds: every network input meets `h` weights, not one."""
    K = data.draw(st.integers(1, T))
    counted = cost.published_sparse(T, D, K)
    outputs, logits = T * h * D, T * h * T
    assert 2 * (h * counted + outputs + logits) == cost.topk_mlp_flops(T, D, h, K)
    assert cost.logit_share(T, D, h, K) == pytest.approx(
        logits / (h * counted + outputs + logits)
    )


def test_the_rows_cost_each_token_the_same_at_every_length():
    for T in (64, 8192, 128_000):
        assert cost.published_sparse(T, C, K, **GUESS) == 519_045_120 * T


@pytest.mark.parametrize("T, sizes, share", [
    (64, (64, 64, 8), 0.091), (2048, (64, 64, 8), 0.762), (128_000, (D, 64, K), 0.967),
])  # fmt: skip
def test_the_quadratic_term_is_what_the_audit_says(T, sizes, share):
    assert cost.logit_share(T, *sizes) == pytest.approx(share, abs=5e-4)


def test_the_rows_of_chapter_10_are_one_head_times_all_of_them():
    T, sizes = 300, dict(B=2, H=3, D=16, L=5)
    rows = cost.rows_at_scale(T, 20, hidden=8, rank=4, block=7, **sizes)
    exact = cost.topk_flops(T, 16, 20, causal=True)
    exact += cost.pooled_flops(T, 16, 7, causal=True)
    assert rows["full, causal"] == 5 * cost.scores(T, 48, 3, B=2, causal=True).flops
    assert rows["block means"] == 30 * exact
    indexed = exact + cost.indexer_flops(T, 16, 4, causal=True)
    assert rows["indexer"] == 30 * indexed


def test_nothing_gained_on_nothing_and_no_more_than_the_rest_allows():
    assert cost.whole_gain(0, 1000) == cost.whole_gain(0.7, 1) == 1
    assert cost.whole_gain(0.5, math.inf) == 2
    assert cost.whole_gain(1, 8) == 8 and cost.whole_gain(1, math.inf) == math.inf
    assert cost.whole_gain(0.75, 3) == pytest.approx(2)  # of 4 hours, 3 become 1


@pytest.mark.parametrize("B, T", [(1, 1), (3, 7), (2, 24)])
def test_decoding_costs_what_a_real_model_counts(B, T):
    """A step after T - 1 tokens attends to T; a prompt's head serves its last token."""
    model, tokens = GPT(MODEL), torch.zeros(B, T, dtype=torch.long)
    linear = counting.flops(lambda: model(tokens))
    linear -= MODEL.layers * cost.scores(T, MODEL.width, MODEL.heads, B=B,
                                         causal=True).flops  # fmt: skip
    work = cost.decode_work(MODEL, T, B=B)
    assert work["weights"].flops * T == linear
    assert work["attention"].flops == MODEL.layers * 4 * B * MODEL.width * T
    head = 2 * MODEL.width * MODEL.vocab
    prompt = cost.prefill_work(MODEL, T)
    assert B * (prompt["weights"].flops + (T - 1) * head) == linear


def test_weights_are_the_matrices_of_a_real_model():
    for tied in (True, False):
        model = GPT(MODEL.but(tied=tied))
        count = sum(p.numel() for p in model.blocks.parameters() if p.ndim == 2)
        count += model.head.weight.numel()
        assert cost.weight_bytes(MODEL.but(tied=tied), bytes_per_value=1) == count
        assert cost.decode_work(MODEL, 9)["weights"].moved == 2 * count


@steady
@given(T=st.integers(1, 90), K=st.integers(1, 90), page=st.integers(1, 20))
def test_selection_reads_its_keys_and_two_vectors_a_page(T, K, page):
    work = cost.decode_work(MODEL, T, B=3, K=K, page=page)
    token = 3 * MODEL.layers * 2 * 2 * (MODEL.width // 4) * 2  # two heads, two bytes
    assert work["attention"].moved == token * min(K, T)
    assert work["attention"].held == token * T  # what is not read is still there
    assert ("summaries" in work) == (K < T)
    if K < T:
        pages = len(range(0, T, page))
        assert work["summaries"].moved == work["summaries"].held == token * pages
        assert work["summaries"].flops == 3 * MODEL.layers * 4 * MODEL.width * pages


@steady
@given(T=st.integers(1, 60), K=st.integers(1, 60), page=st.integers(1, 20))
def test_a_prompt_meets_its_keys_and_the_pages_that_have_begun(T, K, page):
    work = cost.prefill_work(MODEL, T, K=K, page=page)
    each = MODEL.layers * 4 * MODEL.width
    assert work["attention"].flops == each * sum(min(K, t + 1) for t in range(T))
    if K < T:
        met = sum(len(range(0, t + 1, page)) for t in range(T))
        assert work["summaries"].flops == each * met
    everything = cost.prefill_work(MODEL, T, K=T)
    assert everything == cost.prefill_work(MODEL, T) and "summaries" not in everything


@pytest.mark.parametrize("B", [1, 3])
def test_weights_and_caches_take_turns_where_it_says(B):
    T = cost.cache_break_even(MODEL, B=B)
    at, before = (cost.decode_work(MODEL, n, B=B) for n in (T, T - 1))
    assert at["attention"].moved >= at["weights"].moved
    assert before["attention"].moved < before["weights"].moved


def test_a_part_takes_its_flops_or_its_bytes_and_parts_follow_each_other():
    work = {"a": cost.Cost(100, 5, 0), "b": cost.Cost(50, 20, 0)}
    assert PLAIN.seconds(work) == {"a": 2.0, "b": 4.0}
    endless = PLAIN.but(bandwidth=math.inf)
    assert endless.seconds(work) == {"a": 2.0, "b": 1.0}
    assert PLAIN.but(flops=math.inf).seconds(work) == {"a": 1.0, "b": 4.0}


def test_a_bill_is_hours_times_price_and_watts_times_seconds():
    assumed = PLAIN.but(price=3.6, watts=1000.0, pue=1.5, price_per_kwh=0.2)
    bill = assumed.per_million({"a": cost.Cost(100, 0, 0)}, tokens=4)
    assert bill.seconds == 500_000
    assert bill.kwh == pytest.approx(750e6 / 3.6e6)
    assert bill.joules == pytest.approx(750)  # 0.5 s of 1.5 kW
    assert bill.power == pytest.approx(0.2 * bill.kwh)
    assert bill.dollars == pytest.approx(500 + bill.power)
    rented = assumed.but(price_per_kwh=0)
    assert rented.per_million({"a": cost.Cost(100, 0, 0)}, 4).dollars == 500


def test_devices_are_as_many_as_their_memory_asks_for():
    work = cost.decode_work(MODEL, 24, B=2, K=4, page=8)
    held = sum(part.held for part in work.values())
    assert PLAIN.but(memory=held).devices(work) == 1
    assert PLAIN.but(memory=held - 1).devices(work) == 2
    assert held > sum(p.held for p in cost.decode_work(MODEL, 24, B=2).values())


COSTS = {
    cost.published_full: dict(T=8, C=4, B=1, L=2),
    cost.published_sparse: dict(T=8, C=4, K=2, B=1, L=2),
    cost.published_ratio: dict(T=8, K=2),
    cost.topk_mlp_gain: dict(T=8, D=4, hidden=5, K=2),
    cost.logit_share: dict(T=8, D=4, hidden=5, K=2),
    cost.rows_at_scale: dict(T=8, K=2, hidden=5, block=3, B=1, H=1, D=4, L=2),
    cost.prefill_work: dict(T=8, K=2, page=3, bytes_per_value=2),
    cost.decode_work: dict(T=8, B=1, K=2, page=3, bytes_per_value=2),
    cost.weight_bytes: dict(bytes_per_value=2),
    cost.cache_break_even: dict(B=1, bytes_per_value=2),
}
OF_A_MODEL = (
    cost.prefill_work,
    cost.decode_work,
    cost.weight_bytes,
    cost.cache_break_even,
)


@pytest.mark.parametrize("got", [0, 2.5, True], ids=repr)
@pytest.mark.parametrize(
    "function, name", [(f, name) for f, good in COSTS.items() for name in good]
)
def test_a_price_explains_each_of_its_sizes(function, name, got):
    model = (MODEL,) if function in OF_A_MODEL else ()
    changed = COSTS[function] | {name: got}
    explains(lambda: function(*model, **changed), name, repr(got))


def test_more_keys_than_tokens_are_no_row_of_the_table():
    for row in (cost.published_ratio, cost.rows_at_scale):
        explains(lambda row=row: row(8, 9), "K", "K=9")


@pytest.mark.parametrize("name, got", [
    ("flops", 0), ("bandwidth", -1.0), ("memory", 0), ("utilization", 1.1),
    ("streaming", 0), ("price", -1), ("watts", "700"), ("pue", 0.9), ("flops", True),
    ("price_per_kwh", float("nan")), ("utilization", float("nan")),
])  # fmt: skip
def test_an_assumption_that_cannot_be_is_explained(name, got):
    explains(lambda: cost.Serving(**{name: got}), name, repr(got))


@pytest.mark.parametrize("share, gain, name", [
    (1.5, 2, "share"), (-0.1, 2, "share"), (float("nan"), 2, "share"),
    (0.5, 0, "gain"), (0.5, float("nan"), "gain"), (0.5, "2", "gain"),
])  # fmt: skip
def test_a_gain_of_the_impossible_is_explained(share, gain, name):
    got = share if name == "share" else gain
    explains(lambda: cost.whole_gain(share, gain), name, repr(got))


def test_a_window_has_no_price_here():
    explains(lambda: cost.decode_work(MODEL.but(window=4), 8), "window", "window=4")


def test_tokens_of_a_bill_are_counted():
    work = {"a": SimpleNamespace(flops=1, moved=1)}
    explains(lambda: PLAIN.per_million(work, 0), "tokens", "tokens=0")
