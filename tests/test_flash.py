"""Tiled attention against the specification: values, gradients, memory, merging."""

import functools
import itertools
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import (
    DTYPES,
    RAGGED,
    by_loops,
    draw,
    exact_gradients,
    gradients,
    off,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparse_attn.attention import attention, causal_mask
from sparse_attn.flash import flash_attention, merge

steady = settings(max_examples=40)
each_order = pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
small = functools.partial(flash_attention, block_q=32, block_k=16)


def rule(T, S, causal):
    return lambda t, s: not causal or s <= t + S - T


def is_attention(q, k, v, causal, attend=small):
    """`attend` errs at most twice as much as the formula may, entry by entry."""
    out = attend(q, k, v, causal=causal)
    exact, budget = by_loops(q, k, v, rule(q.shape[2], k.shape[2], causal))
    assert out.dtype == q.dtype
    assert (off(out, exact) <= 2 * budget).all()


def has_its_gradients(q, k, v, causal, attend=small):
    dout = torch.randn(q.shape, dtype=torch.float64).to(q.dtype)
    found = gradients(attend, q, k, v, dout, causal=causal)
    exact, budgets = exact_gradients(q, k, v, dout, causal=causal)
    for x, expected, budget in zip(found, exact, budgets, strict=True):
        assert x.dtype == q.dtype
        assert (off(x, expected) <= budget).all()


def is_the_log_sum_exp(found, q, k, causal):
    """It errs by the rounding of D products and their sum, and of a sum of S terms
    that is rescaled at each tile, of 16 keys or more."""
    (T, D), S = q.shape[2:], k.shape[2]
    q, k, wide = q.double(), k.double(), torch.promote_types(q.dtype, torch.float32)
    scores = D**-0.5 * (q @ k.mT)
    if causal:
        scores = scores.masked_fill(~causal_mask(T, S), -torch.inf)
    exact = scores.logsumexp(-1)
    assert found.dtype == wide
    assert found.isneginf().equal(exact.isneginf())
    seen = exact.isfinite()
    assert seen.any()
    size = D**-0.5 * (q.abs() @ k.abs().mT).amax(-1)
    budget = torch.finfo(wide).eps * ((D + 6) * size + S + 4 * (S // 16 + 1))
    assert (off(found, exact)[seen] <= budget[seen]).all()


@each_order
@pytest.mark.parametrize("T", RAGGED)
@each_dtype
def test_tiles_give_attention_within_twice_its_rounding(dtype, T, causal):
    is_attention(*draw(T, T, dtype=dtype), causal)


@each_order
@pytest.mark.parametrize("T", RAGGED)
@each_dtype
def test_tiles_give_its_gradients_within_their_rounding(dtype, T, causal):
    has_its_gradients(*draw(T, T, dtype=dtype), causal)


@each_order
@pytest.mark.parametrize("T, S", [(1, 97), (2, 63), (63, 97), (97, 63), (97, 5)])
def test_queries_and_keys_may_differ_in_number(T, S, causal):
    q, k, v = draw(T, S, B=2)
    is_attention(q, k, v, causal)
    has_its_gradients(q, k, v, causal)


@each_order
@pytest.mark.parametrize("Hkv", [1, 2, 3, 6])
def test_consecutive_query_heads_share_a_key_value_head(Hkv, causal):
    q, k, v = draw(37, 41, B=2, H=6, Hkv=Hkv)
    is_attention(q, k, v, causal)
    has_its_gradients(q, k, v, causal)


@pytest.mark.parametrize("D", [1, 3, 64, 128, 256])
def test_any_head_width_will_do(D):
    q, k, v = draw(40, 40, D=D, dtype=torch.float32)
    is_attention(q, k, v, True)
    has_its_gradients(q, k, v, True)


@pytest.mark.parametrize("block_q, block_k", [(1, 1), (7, 64), (64, 7), (500, 500)])
def test_tiles_may_have_any_size(block_q, block_k):
    attend = functools.partial(flash_attention, block_q=block_q, block_k=block_k)
    q, k, v = draw(50, 60)
    is_attention(q, k, v, True, attend)
    has_its_gradients(q, k, v, True, attend)


@each_order
@pytest.mark.parametrize("T, S, Hkv", [(5, 5, 2), (7, 4, 1), (1, 5, 2)])
def test_the_gradient_is_the_derivative_that_of_the_log_sum_exp_included(
    T, S, Hkv, causal
):
    q, k, v = (x.requires_grad_() for x in draw(T, S, Hkv=Hkv, D=3))
    hidden = max(0, T - S) if causal else 0

    def attend(q, k, v):
        how = dict(causal=causal, block_q=2, block_k=3, return_lse=True)
        out, lse = flash_attention(q, k, v, **how)
        return out, lse[:, :, hidden:]  # an LSE of -inf has no derivative

    assert torch.autograd.gradcheck(attend, (q, k, v))


def test_a_second_derivative_is_refused_not_wrong():
    q, k, v = (x.requires_grad_() for x in draw(3, 3))
    out = flash_attention(q, k, v)
    (dq,) = torch.autograd.grad((out * out).sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dq.sum().backward()


@each_order
@each_dtype
def test_the_log_sum_exp_is_that_of_the_scores(dtype, causal):
    q, k, v = draw(40, 30, dtype=dtype)
    out, lse = small(q, k, v, causal=causal, return_lse=True)
    assert out.equal(small(q, k, v, causal=causal))
    is_the_log_sum_exp(lse, q, k, causal)


@each_dtype
def test_a_query_that_sees_no_key_gets_zeros_and_sends_back_zeros(dtype):
    q, k, v = (x.requires_grad_() for x in draw(70, 4, dtype=dtype))
    out, lse = small(q, k, v, causal=True, return_lse=True)
    assert (out[:, :, :66] == 0).all() and (out[:, :, 66:] != 0).all()
    assert lse[:, :, :66].isneginf().all() and lse[:, :, 66:].isfinite().all()
    out.sum().backward()
    assert (q.grad[:, :, :66] == 0).all()
    assert all(x.grad.isfinite().all() for x in (q, k, v))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_large_logits_below_the_overflow_select_the_best_key(dtype):
    q = torch.full((1, 1, 1, 16), 100.0, dtype=dtype)
    k = torch.stack([q[0, 0, 0], -q[0, 0, 0]])[None, None]  # logits ± 40,000
    v = torch.tensor([3.0, -5.0], dtype=dtype)[:, None].expand(2, 16)[None, None]
    for block_k in (1, 2):
        assert (flash_attention(q, k, v, block_k=block_k) == 3).all()
        assert (flash_attention(q, k, v, scale=-0.25, block_k=block_k) == -5).all()


def test_scores_past_the_range_of_fp16_do_not_overflow():
    q = torch.full((1, 1, 40, 64), 200.0, dtype=torch.float16)
    assert torch.equal(small(q, q, q, causal=True), q)
    assert all(x.isfinite().all() for x in gradients(small, q, q, q, q, causal=True))


def test_tiles_above_the_diagonal_are_never_computed():
    q, k, v = draw(64, 64)
    k[:, :, 48:], v[:, :, 48:] = torch.nan, torch.nan
    out = small(q, k, v, causal=True)
    assert out[:, :, :32].isfinite().all()  # its keys end at 32
    assert out[:, :, 48:].isnan().all()


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that operations made and nobody has let go: now, at most."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {x.untyped_storage()._cdata for x in tensors((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for x in tensors(out):
            storage = x.untyped_storage()
            if storage._cdata in given or storage in self.known:
                continue
            self.known[storage] = True
            self.now += storage.nbytes()
            weakref.finalize(storage, self.let_go, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def let_go(self, n):
        self.now -= n


def tensors(tree):
    return [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor)]


def peak_bytes(attend, T, device="meta"):
    """Of one forward and backward pass; on "meta", sizes without numbers."""
    q, k, v = (torch.empty(1, 1, T, 64, device=device).requires_grad_() for _ in "qkv")
    with LiveBytes() as live:
        attend(q, k, v).sum().backward()
    return live.peak


def test_on_meta_the_same_bytes_are_live_as_on_a_processor():
    for attend in (attention, small):
        assert peak_bytes(attend, 200) == peak_bytes(attend, 200, device="cpu")


def test_at_8192_tokens_tiles_need_under_a_tenth_of_the_formula_s_memory():
    square = 8192 * 8192 * 4
    formula = peak_bytes(attention, 8192)
    assert formula > 3 * square  # scores or their gradient, weights, weights' gradient
    large = functools.partial(flash_attention, block_q=512, block_k=512)
    assert peak_bytes(large, 8192) < 0.1 * formula


def test_memory_grows_with_tokens_not_with_their_square():
    short, long = peak_bytes(small, 64), peak_bytes(small, 256)
    assert long <= 4 * short


sizes, seeds = st.integers(1, 24), st.integers(0, 2**31)


def parts_of(q, k, v, bounds, **given):
    """(outs, lses) of attention over the keys between each two bounds."""
    ranges = [slice(a, b) for a, b in itertools.pairwise(bounds) if a < b]
    parts = [small(q, k[:, :, r], v[:, :, r], return_lse=True, **given) for r in ranges]
    return [list(x) for x in zip(*parts, strict=True)]


@steady
@given(T=sizes, S=sizes, seed=seeds, data=st.data())
def test_merging_ranges_of_keys_is_attention_over_their_union(T, S, seed, data):
    q, k, v = draw(T, S, seed=seed)
    cuts = data.draw(st.lists(st.integers(0, S), max_size=4))
    outs, lses = parts_of(q, k, v, [0, *sorted(cuts), S])
    out, lse = merge(outs, lses)
    exact, budget = by_loops(q, k, v, rule(T, S, False))
    assert (off(out, exact) <= 2 * budget).all()
    _, whole = small(q, k, v, return_lse=True)
    assert torch.allclose(lse, whole, rtol=0, atol=1e-12)


@steady
@given(S=st.integers(3, 24), seed=seeds)
def test_merging_is_associative_and_commutative(S, seed):
    q, k, v = draw(5, S, seed=seed)
    outs, lses = parts_of(q, k, v, [0, S // 3, 2 * S // 3, S])
    exact, budget = by_loops(q, k, v, rule(5, S, False))
    left = merge(outs[:2], lses[:2])
    right = merge(outs[1:], lses[1:])
    for pair in ((left, (outs[2], lses[2])), ((outs[0], lses[0]), right)):
        for one, other in (pair, pair[::-1]):
            out, _ = merge([one[0], other[0]], [one[1], other[1]])
            assert (off(out, exact) <= 2 * budget).all()


def test_a_part_that_saw_nothing_changes_nothing():
    q, k, v = draw(6, 9)
    out, lse = small(q, k, v, return_lse=True)
    nothing = torch.zeros_like(out), torch.full_like(lse, -torch.inf)
    for parts in ([out, nothing[0]], [nothing[0], out]):
        lses = [lse if x is out else nothing[1] for x in parts]
        merged, whole = merge(parts, lses)
        # exp(0) = 1 is exact, and so is log 1 = 0
        assert merged.equal(out) and whole.equal(lse)
    merged, whole = merge([nothing[0]] * 2, [nothing[1]] * 2)
    assert (merged == 0).all() and whole.isneginf().all()


def test_causal_queries_split_over_two_ranges_of_keys_merge():
    """The earlier keys are in full view; the later ones, on the diagonal, are not."""
    q, k, v = draw(12, 20)
    early = small(q, k[:, :, :8], v[:, :, :8], return_lse=True)
    late = small(q, k[:, :, 8:], v[:, :, 8:], causal=True, return_lse=True)
    out, _ = merge(*zip(early, late, strict=True))
    exact, budget = by_loops(q, k, v, rule(12, 20, True))
    assert (off(out, exact) <= 2 * budget).all()


def test_gradients_pass_through_a_merge_and_through_parts_that_saw_nothing():
    q, k, v = (x.requires_grad_() for x in draw(6, 6, D=3))

    def merged(q, k, v):
        outs, lses = parts_of(q, k, v, [0, 2, 6], causal=True)
        return merge(outs, lses)[0]

    assert torch.autograd.gradcheck(merged, (q, k, v))


def test_halves_merge_in_fp32_and_come_back_as_halves():
    q, k, v = draw(5, 40, dtype=torch.float16)
    out, lse = merge(*parts_of(q, k, v, [0, 11, 40]))
    assert out.dtype == torch.float16 and lse.dtype == torch.float32
    exact, budget = by_loops(q, k, v, rule(5, 40, False))
    assert (off(out, exact) <= 2 * budget).all()
