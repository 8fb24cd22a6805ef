"""What stands for keys that were not selected, against its definition by loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import DTYPES, RAGGED, by_loops, draw, off
from test_apple_safety import LikeMPS
from test_bad_input import explains

from sparse_attn import indexer
from sparse_attn.attention import attention, causal_mask
from sparse_attn.flash import merge
from sparse_attn.indexer import pairs_of, selected_attention

pytestmark = pytest.mark.usefixtures("one_thread")
steady = settings(max_examples=60)
each_order = pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_rest = pytest.mark.parametrize("rest", indexer.RESTS)


def keys_at_random(T, S, K, H=2, B=1, seed=0):
    """(B, H, T, K): different keys for each query, some of them EMPTY."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.rand(B, H, T, S, generator=generator).topk(min(K, S)).indices
    empty = torch.rand(found.shape, generator=generator) < 0.2
    return found.masked_fill(empty, indexer.EMPTY)


def corrected(H=2, D=16, seed=None, dtype=torch.float64):
    """A correction as it starts, or with weights that matter."""
    torch.manual_seed(0 if seed is None else seed)
    correction = indexer.Correction(H, D, hidden=8)
    if seed is not None:
        for weight in correction.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    return correction.to(dtype).requires_grad_(seed is not None)


def how(rest, **correction):
    mended = rest in ("mlp", "both")
    return dict(rest=rest, correction=corrected(**correction) if mended else None)


def by_definition(q, k, v, indices, causal, block):
    """One softmax for each query, in float64, and what rounding may add.

    Its entries: every key selected, with its own score; and for each block the mean
    key of what else is visible there, its score raised by the log of their number,
    with their mean value. Errors as in `oracle.by_loops`; a mean adds up `block`
    numbers more, and two log-sum-exps err like the largest score and log S.
    """
    own = torch.finfo(torch.float64).eps / 2
    u = torch.finfo(q.dtype).eps / 2 + own
    a = min(u, torch.finfo(torch.float32).eps / 2 + own)
    smallest = torch.finfo(q.dtype).smallest_normal
    groups = q.shape[1] // k.shape[1]
    q, k, v = (x.double().numpy() for x in (q, k, v))
    (_, _, T, D), S = q.shape, k.shape[2]
    out, budget = np.zeros((2, *q.shape))
    for b, h, t in np.ndindex(q.shape[:3]):
        keys, values = k[b, h // groups], v[b, h // groups]
        seen = range(max(0, t + S - T + 1) if causal else S)
        chosen = {s for s in indices[b, h, t].tolist() if s in seen}
        parts = [[s] for s in sorted(chosen)]
        for start in range(0, S, block):
            left = [s for s in range(start, min(start + block, S)) if s in seen]
            parts.append([s for s in left if s not in chosen])
        parts = [part for part in parts if part]
        if not parts:
            continue
        x = q[b, h, t]
        each = [keys[part].mean(axis=0) @ x / D**0.5 for part in parts]
        scores = np.array(each) + np.log([len(part) for part in parts])
        w = np.exp(scores - scores.max())
        w /= w.sum()
        out[b, h, t] = w @ np.array([values[part].mean(axis=0) for part in parts])

        sizes = [(abs(keys[p]) @ abs(x)).mean() / D**0.5 for p in parts]
        products, terms = np.array(sizes), D + min(block, S) + 8
        top = products.max() + math.log(S)
        shift = np.expm1(terms * a) * products + 6 * a * top
        grown = shift + np.log1p(w @ np.expm1(shift)) + (2 * S + 20) * a + 2 * u
        size = np.array([abs(values[part]).mean(axis=0) for part in parts])
        budget[b, h, t] = (w * np.expm1(grown) + smallest) @ size
    return torch.from_numpy(out), torch.from_numpy(budget)


def is_as_defined(q, k, v, indices, causal, block, **rest):
    out = selected_attention(q, k, v, indices, causal=causal, block=block, **rest)
    expected, budget = by_definition(q, k, v, indices, causal, block)
    assert out.dtype == q.dtype and out.shape == q.shape
    assert (off(out, expected) <= budget).all()


# Exact where it must be


@each_rest
@each_dtype
@each_order
@pytest.mark.parametrize("T, S", [(1, 1), (2, 2), (5, 37), (63, 63)])
def test_with_all_keys_selected_it_is_attention(rest, dtype, causal, T, S):
    q, k, v = draw(T, S, H=4, Hkv=2, dtype=dtype)
    everything = torch.arange(S).expand(1, 4, T, S)
    fits = torch.promote_types(dtype, torch.float32)
    mended = how(rest, H=4, seed=1, dtype=fits)  # however much it would mend
    out = selected_attention(q, k, v, everything, causal=causal, **mended)
    exact, budget = by_loops(q, k, v, lambda t, s: not causal or s <= t + S - T)
    assert out.dtype == dtype
    assert (off(out, exact) <= 2 * budget).all()


@each_dtype
@each_order
@pytest.mark.parametrize("T", RAGGED[:4])
def test_without_a_rest_it_is_attention_over_the_pairs(dtype, causal, T):
    q, k, v = draw(T, T + 3, dtype=dtype)
    indices = keys_at_random(T, T + 3, 5)
    table = pairs_of(indices, T + 3)
    out = selected_attention(q, k, v, indices, causal=causal)
    formula = attention(*(x.double() for x in (q, k, v)), causal=causal, mask=table)
    for h in range(2):
        one = [x[:, h : h + 1] for x in (q, k, v)]
        rows = table[0, h].tolist()
        exact, budget = by_loops(
            *one, lambda t, s, r=rows: r[t][s] and not (causal and s > t + 3)
        )
        assert (off(formula[:, h : h + 1], exact) <= budget).all()
        assert (off(out[:, h : h + 1], exact) <= budget).all()


@each_dtype
@each_order
@pytest.mark.parametrize("S, block", [(1, 4), (7, 3), (40, 16), (40, 8), (33, 50)])
def test_pooled_is_one_softmax_over_keys_and_block_means(S, block, causal, dtype):
    q, k, v = draw(S, S, H=4, Hkv=2, dtype=dtype)
    indices = keys_at_random(S, S, 5, H=4)
    is_as_defined(q, k, v, indices, causal, block, rest="pooled")


@steady
@given(
    T=st.integers(1, 12),
    more=st.integers(-3, 9),
    K=st.integers(1, 9),
    block=st.integers(1, 24),
    Hkv=st.sampled_from([1, 2, 4]),
    causal=st.booleans(),
    seed=st.integers(0, 999),
)
def test_pooled_is_so_for_every_shape(T, more, K, block, Hkv, causal, seed):
    S = max(1, T + more)
    q, k, v = draw(T, S, B=2, H=4, Hkv=Hkv, D=3, seed=seed)
    indices = keys_at_random(T, S, K, H=4, B=2, seed=seed)
    is_as_defined(q, k, v, indices, causal, block, rest="pooled")


@each_dtype
def test_extreme_scores_are_as_exact_and_never_nan(dtype):
    q, k, v = draw(20, 20, dtype=dtype)
    q = 40 * q.sign()
    k = 250 * k.sign()  # q·k up to 160,000: more than a half can hold
    indices = keys_at_random(20, 20, 4)
    for block in (1, 6, 20):
        is_as_defined(q, k, v, indices, True, block, rest="pooled")
    q, k = (x.requires_grad_() for x in (q, k))
    fits = torch.promote_types(dtype, torch.float32)
    for rest in indexer.RESTS:
        mended = how(rest, seed=1, dtype=fits)
        out = selected_attention(q, k, v, indices, causal=True, **mended)
        assert out.isfinite().all()
        for gradient in torch.autograd.grad(out.float().sum(), (q, k)):
            assert gradient.isfinite().all()


@each_order
def test_blocks_of_one_token_leave_attention_exact(causal):
    q, k, v = draw(23, 23)
    for K in (1, 9):
        indices = keys_at_random(23, 23, K)
        given = dict(causal=causal, rest="pooled", block=1)
        out = selected_attention(q, k, v, indices, **given)
        torch.testing.assert_close(out, attention(q, k, v, causal=causal))


@each_order
@pytest.mark.parametrize("block", [1, 4, 16, 99])
def test_a_head_of_uniform_weights_is_exact_whatever_is_selected(causal, block):
    q, k, v = draw(23, 23)
    q = torch.zeros_like(q)
    indices = keys_at_random(23, 23, 6)
    out = selected_attention(
        q, k, v, indices, causal=causal, rest="pooled", block=block
    )
    torch.testing.assert_close(out, attention(q, k, v, causal=causal))


def test_equal_keys_within_blocks_are_exact_too():
    """What pooling assumes, and all of it: one key for all tokens of a block."""
    q, k, _ = draw(24, 24)
    k = k[:, :, ::4].repeat_interleave(4, dim=2)
    v = draw(24, 24, seed=1)[2]
    indices = keys_at_random(24, 24, 5)
    out = selected_attention(q, k, v, indices, rest="pooled", block=4)
    torch.testing.assert_close(out, attention(q, k, v))


# Two halves


@each_order
def test_the_halves_are_two_attentions_and_joined_they_are_one(causal):
    q, k, v = draw(19, 19)
    indices = keys_at_random(19, 19, 5)
    seen = causal_mask(19, 19) if causal else torch.ones(19, 19, dtype=torch.bool)
    pairs = pairs_of(indices, 19) & seen
    halves = indexer.halves(q, k, v, indices, causal=causal, block=1)
    scores = q @ k.mT / 4
    for half, mine in zip(halves, (pairs, seen & ~pairs), strict=True):
        lse = scores.masked_fill(~mine, -torch.inf).logsumexp(dim=-1)
        torch.testing.assert_close(half.out, attention(q, k, v, mask=mine))
        torch.testing.assert_close(half.lse, lse)
        assert torch.equal(half.keys.long(), mine.sum(dim=-1))
    joined = indexer.joined(q, *halves)
    chosen, others = halves
    both = merge((chosen.out, others.out), (chosen.lse, others.lse))[0]
    torch.testing.assert_close(joined, both)
    torch.testing.assert_close(joined, attention(q, k, v, causal=causal))


def test_rows_of_some_positions_are_the_rows_of_all():
    q, k, v = draw(19, 19)
    indices, at = keys_at_random(19, 19, 5), torch.tensor([17, 0, 6])
    given = dict(causal=True, block=4)
    every = indexer.halves(q, k, v, indices, **given)
    some = indexer.halves(q[:, :, at], k, v, indices[:, :, at], at=at, **given)
    for all_rows, rows in zip(every, some, strict=True):
        for name in ("out", "lse", "keys"):
            all_of_it = getattr(all_rows, name)
            torch.testing.assert_close(getattr(rows, name), all_of_it[:, :, at])


# Corrections


@each_order
def test_a_correction_starts_as_nothing(causal):
    q, k, v = draw(23, 23)
    indices = keys_at_random(23, 23, 4)

    def out(rest, block):
        given = how(rest) | dict(causal=causal, block=block)
        return selected_attention(q, k, v, indices, **given)

    assert torch.equal(out("both", 4), out("pooled", 4))
    assert torch.equal(out("mlp", 4), out("pooled", 23))
    assert not torch.equal(out("both", 4), out("mlp", 4))


def test_a_correction_is_nothing_where_nothing_is_left():
    q, k, v = draw(23, 23)
    recent = indexer.Recent().select(q, k, 6)  # the first six queries see no more
    plain, mended = (
        selected_attention(q, k, v, recent, causal=True, **how(rest, seed=1))
        for rest in ("pooled", "both")
    )
    assert torch.equal(mended[:, :, :6], plain[:, :, :6])
    assert (mended != plain)[:, :, 6:].any(dim=-1).all()


def test_a_correction_adds_a_vector_and_moves_the_odds():
    q, k, v = draw(23, 23)
    indices = keys_at_random(23, 23, 4)
    chosen, others = indexer.halves(q, k, v, indices, causal=False, block=4)
    correction = corrected()
    for head in correction.heads:
        head.net[-1].bias.data[-1] = math.log(3)
        head.net[-1].bias.data[:-1] = 5
    thrice = merge((chosen.out, others.out), (chosen.lse, others.lse + math.log(3)))[0]
    out = indexer.joined(q, chosen, others, correction)
    torch.testing.assert_close(out, thrice + 5)


# Nothing to see, and gradients


@each_rest
@each_dtype
def test_a_query_for_which_nothing_stands_gets_zeros_and_no_nan(rest, dtype):
    q, k, v = draw(9, 5, dtype=dtype)  # the first four queries are before all keys
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    indices = keys_at_random(9, 5, 3)
    indices[:, :, ::2] = indexer.EMPTY  # and every other one selects nothing
    fits = torch.promote_types(dtype, torch.float32)
    mended = how(rest, seed=1, dtype=fits)
    out = selected_attention(q, k, v, indices, causal=True, block=2, **mended)
    blind = slice(0, 9, 2) if rest == "none" else slice(0, 4)
    assert not out[:, :, :4].any() and not out[:, :, blind].any()
    assert out.isfinite().all()
    for gradient in torch.autograd.grad(out.float().square().sum(), (q, k, v)):
        assert gradient.isfinite().all()
    if rest != "none":
        assert out[:, :, 4::2].abs().sum(dim=-1).all()


@each_rest
@each_order
def test_gradients_are_those_of_differences(rest, causal):
    q, k, v = (x.requires_grad_() for x in draw(5, 7, H=2, Hkv=1, D=3))
    indices = keys_at_random(5, 7, 3)
    indices[:, :, 0] = indexer.EMPTY
    mended = how(rest, D=3, seed=2)
    weights = [] if mended["correction"] is None else mended["correction"].parameters()

    def attend(q, k, v, *_):
        return selected_attention(q, k, v, indices, causal=causal, block=3, **mended)

    assert torch.autograd.gradcheck(attend, (q, k, v, *weights))


# Form


@pytest.mark.parametrize("S", [1, 9, 40])
def test_pairs_are_the_indices_and_back(S):
    indices = keys_at_random(7, S, 5)
    pairs = pairs_of(indices, S)
    for place in np.ndindex(1, 2, 7):
        expected = sorted(set(indices[place].tolist()) - {indexer.EMPTY})
        assert pairs[place].nonzero().flatten().tolist() == expected
    heaviest = pairs.float().topk(min(5, S))
    back = heaviest.indices.masked_fill(heaviest.values == 0, indexer.EMPTY)
    assert torch.equal(pairs_of(back, S), pairs)


def test_a_key_named_twice_counts_once():
    q, k, v = draw(4, 6)
    once = keys_at_random(4, 6, 3)
    for rest in ("none", "pooled"):
        out, twice = (
            selected_attention(q, k, v, indices, rest=rest, block=2)
            for indices in (once, torch.cat((once, once), dim=-1))
        )
        assert torch.equal(out, twice)


@pytest.mark.parametrize("index", [-2, 6])
def test_an_index_outside_is_refused(index):
    indices = torch.tensor([[[[0, index]]]])
    explains(lambda: pairs_of(indices, 6), "indices", index)
    explains(lambda: pairs_of(indices, 0), "S", 0)


def test_what_does_not_fit_is_refused():
    q, k, v = draw(4, 6)
    indices = keys_at_random(4, 6, 3)

    def attend(k=k, indices=indices, **given):
        return lambda: selected_attention(q, k, v, indices, **given)

    explains(attend(rest="all"), "rest", "'all'")
    explains(attend(rest="both"), "correction", None)
    explains(attend(rest="mlp"), "correction", None)
    explains(attend(correction=corrected()), "correction", "Correction")
    explains(attend(rest="pooled", block=0), "block", 0)
    explains(attend(rest="pooled", block=2.5), "block", 2.5)
    explains(attend(indices=indices[:, :1]), "indices", (1, 1, 4, 3))
    explains(attend(k=k[:, :, :5]), "k", (1, 2, 5, 16))
    explains(lambda: indexer.Correction(0, 4), "heads", 0)


@each_rest
def test_it_runs_with_what_mps_has(rest):
    q, k, v = (x.requires_grad_() for x in draw(9, 9, dtype=torch.float32))
    indices = keys_at_random(9, 9, 3)
    mended = how(rest, seed=1, dtype=torch.float32)
    with LikeMPS():
        out = selected_attention(q, k, v, indices, causal=True, block=4, **mended)
        out.sum().backward()
    assert q.grad.isfinite().all()
