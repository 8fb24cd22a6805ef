"""The specification itself: attention against loops, against PyTorch, and its laws."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import DTYPES, RAGGED, by_loops, draw, off, options

from sparse_attn.attention import attention, attention_weights, causal_mask

KINDS = ("plain", "causal", "mask", "mask and causal")

steady = settings(max_examples=40)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("T", RAGGED)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_attention_is_the_loop_over_queries_within_its_rounding(dtype, T, kind):
    q, k, v = draw(T, T, dtype=dtype)
    given, sees = options(kind, T, T)
    out = attention(q, k, v, **given)
    assert out.dtype == dtype
    exact, budget = by_loops(q, k, v, sees)
    assert (off(out, exact) <= budget).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("T, S", [(1, 97), (2, 63), (63, 97), (97, 63), (5, 1)])
def test_queries_and_keys_may_differ_in_number(T, S, kind):
    q, k, v = draw(T, S, B=2)
    given, sees = options(kind, T, S)
    out = attention(q, k, v, **given)
    exact, budget = by_loops(q, k, v, sees)
    assert (off(out, exact) <= budget).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("Hkv", [1, 2, 3, 6])
def test_consecutive_query_heads_share_a_key_value_head(Hkv, kind):
    q, k, v = draw(13, 17, B=2, H=6, Hkv=Hkv)
    given, sees = options(kind, 13, 17)
    out = attention(q, k, v, **given)
    exact, budget = by_loops(q, k, v, sees)
    assert (off(out, exact) <= budget).all()


@pytest.mark.parametrize("scale", [0.01, 1.0, 3.0])
def test_scale_replaces_one_over_root_d(scale):
    q, k, v = draw(9, 9)
    out = attention(q, k, v, scale=scale)
    exact, budget = by_loops(q, k, v, lambda t, s: True, scale)
    assert (off(out, exact) <= budget).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("T", RAGGED)
def test_attention_agrees_with_pytorch_in_float64(T, kind):
    q, k, v = draw(T, T)
    given, sees = options(kind, T, T)
    grid = torch.tensor([[sees(t, s) for s in range(T)] for t in range(T)])
    theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=grid)
    _, budget = by_loops(q, k, v, sees)
    assert (off(attention(q, k, v, **given), theirs) <= budget).all()


@pytest.mark.parametrize(
    "shape", [(9,), (7, 9), (1, 1, 7, 1), (2, 1, 1, 9), (2, 2, 7, 9)]
)
def test_a_mask_is_broadcast_over_batch_and_heads(shape):
    q, k, v = draw(7, 9, B=2)
    mask = torch.rand(shape) < 0.6
    whole = mask.broadcast_to(2, 2, 7, 9).clone()
    assert attention(q, k, v, mask=mask).equal(attention(q, k, v, mask=whole))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_query_that_sees_no_key_gets_exactly_zero(dtype):
    q, k, v = draw(5, 5, dtype=dtype)
    mask = torch.ones(5, 5, dtype=torch.bool)
    mask[2] = False
    out = attention(q, k, v, mask=mask)
    assert (out[:, :, 2] == 0).all()
    assert (out[:, :, [0, 1, 3, 4]] != 0).all()


def test_causal_queries_before_the_first_key_get_exactly_zero():
    q, k, v = draw(5, 3)
    out = attention(q, k, v, causal=True)
    assert (out[:, :, :2] == 0).all()
    assert (out[:, :, 2:] != 0).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_query_that_sees_no_key_sends_no_nan_into_the_gradient(dtype):
    q, k, v = (x.requires_grad_() for x in draw(6, 4, dtype=dtype))
    attention(q, k, v, causal=True).sum().backward()
    assert (q.grad[:, :, :2] == 0).all()
    assert all(x.grad.isfinite().all() for x in (q, k, v))


def test_not_even_anomaly_detection_finds_a_nan_on_the_way_back():
    q, k, v = (x.requires_grad_() for x in draw(6, 4))
    with torch.autograd.set_detect_anomaly(True):
        attention(q, k, v, causal=True).sum().backward()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_row_of_weights_sums_to_one_or_to_zero(dtype, kind):
    T, S = 7, 5
    q, k, v = draw(T, S, dtype=dtype)
    given, sees = options(kind, T, S)
    weights = attention_weights(q, k, v, **given)
    sums = torch.tensor([float(any(sees(t, s) for s in range(S))) for t in range(T)])
    # Each of S weights is stored with a relative error of eps, and they sum to 1.
    assert (off(weights.double().sum(-1), sums) <= S * torch.finfo(dtype).eps).all()


def test_weights_are_zero_exactly_where_nothing_may_be_seen():
    q, k, v = draw(6, 8)
    mask = torch.rand(6, 8) < 0.5
    weights = attention_weights(q, k, v, mask=mask, causal=True)
    allowed = (mask & causal_mask(6, 8)).broadcast_to(weights.shape)
    assert (weights > 0).equal(allowed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("T, S, Hkv", [(3, 3, 2), (4, 3, 1), (1, 5, 2)])
def test_the_gradient_is_the_derivative(T, S, Hkv, kind):
    q, k, v = (x.requires_grad_() for x in draw(T, S, H=2, Hkv=Hkv, D=3))
    given, _ = options(kind, T, S)
    assert torch.autograd.gradcheck(lambda *x: attention(*x, **given), (q, k, v))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_large_logits_below_the_overflow_select_the_best_key(dtype):
    q = torch.full((1, 1, 1, 16), 100.0, dtype=dtype)
    k = torch.stack([q[0, 0, 0], -q[0, 0, 0]])[None, None]  # logits ± 40,000
    v = torch.tensor([3.0, -5.0], dtype=dtype)[:, None].expand(2, 16)[None, None]
    assert (attention(q, k, v) == 3).all()
    assert (attention(q, k, v, scale=-0.25) == -5).all()


def test_the_largest_half_precision_values_pass_through():
    largest = torch.finfo(torch.float16).max
    q, k, _ = draw(4, 4, dtype=torch.float16)
    v = torch.full_like(k, largest)
    out = attention(q, k, v, mask=torch.eye(4, dtype=torch.bool))
    assert (out == largest).all()


def test_scaling_before_the_product_keeps_half_precision_from_overflowing():
    q = k = torch.full((1, 1, 1, 64), 40.0, dtype=torch.float16)  # q kᵀ = 102,400
    assert (attention(q, k, k) == 40).all()


def test_causal_mask_is_aligned_to_the_last_key():
    assert causal_mask(2, 4).tolist() == [[True, True, True, False], [True] * 4]
    assert causal_mask(3, 1).tolist() == [[False], [False], [True]]


sizes = st.integers(1, 12)
seeds = st.integers(0, 2**31)


@steady
@given(T=sizes, S=sizes, seed=seeds)
def test_permuting_keys_and_values_together_changes_nothing(T, S, seed):
    q, k, v = draw(T, S, seed=seed)
    order = torch.randperm(S)
    shuffled = attention(q, k[:, :, order], v[:, :, order])
    _, budget = by_loops(q, k, v, lambda t, s: True)
    assert (off(shuffled, attention(q, k, v)) <= budget).all()


@steady
@given(T=sizes, data=st.data(), seed=seeds)
def test_changing_the_future_does_not_change_the_past(T, data, seed):
    q, k, v = draw(T, T, seed=seed)
    t = data.draw(st.integers(0, T - 1))
    before = attention(q, k, v, causal=True)
    k[:, :, t + 1 :], v[:, :, t + 1 :] = 7.0, -3.0
    after = attention(q, k, v, causal=True)
    assert after[:, :, : t + 1].equal(before[:, :, : t + 1])


@steady
@given(T=sizes, S=sizes, seed=seeds)
def test_an_output_lies_between_the_least_and_the_greatest_value(T, S, seed):
    q, k, v = draw(T, S, seed=seed)
    out, (_, budget) = attention(q, k, v), by_loops(q, k, v, lambda t, s: True)
    assert (out >= v.amin(2, keepdim=True) - budget).all()
    assert (out <= v.amax(2, keepdim=True) + budget).all()


def test_a_visible_key_gets_its_weight_however_extreme_its_score():
    q = torch.full((1, 1, 1, 64), 200.0, dtype=torch.float16)
    k = torch.cat([-q, q], dim=2)
    only_first = torch.tensor([[True, False]])
    assert attention_weights(q, k, k, mask=only_first).tolist() == [[[[1.0, 0.0]]]]


def test_scores_past_the_range_of_fp16_do_not_overflow():
    q = torch.full((1, 1, 3, 64), 200.0, dtype=torch.float16)
    assert torch.equal(attention(q, q, q), F.scaled_dot_product_attention(q, q, q))
