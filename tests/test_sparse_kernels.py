"""Block-sparse attention for every device: lists against masks, selection against its
rule by loops. Triton's kernels have files of their own."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import RAGGED, by_loops, draw, off
from test_apple_safety import LikeMPS
from test_bad_input import META, explains, x
from test_flash import rule, tensors
from torch.utils._python_dispatch import TorchDispatchMode

from sparse_attn import flash, indexer
from sparse_attn.attention import attention
from sparse_attn.kernels import (
    block_attention,
    block_means,
    blocked,
    blocks_from_means,
    crossover,
    pool_for,
    select_blocks,
    selection,
    sparse_attention,
)
from sparse_attn.kernels.attend import by_formula
from sparse_attn.kernels.sparse import CROSSOVER
from sparse_attn.layers import fused_attention

pytestmark = pytest.mark.usefixtures("one_thread")
steady = settings(max_examples=40)
seeds = st.integers(0, 2**31)
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
SIZES = [(16, 16), (32, 16), (64, 64), (64, 16)]
each_size = pytest.mark.parametrize("size", SIZES, ids=str)
each_dtype = pytest.mark.parametrize("dtype", FLOATS, ids=str)
each_order = pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
each_rest = pytest.mark.parametrize("rest", ["none", "pooled"])
each_length = pytest.mark.parametrize("T", RAGGED)


# Attention over what is listed, said with masks


def lists(H, T, S, size, n, *, B=1, seed=0):
    """(B, H, n_q, n): any ids, each once, in any order, -1 anywhere, a row of -1 alone.

    Blocks of the future may be among them, and the queries' own need not.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, columns = -(-T // size[0]), -(-S // size[1])
    ids = torch.rand(B, H, rows, max(n, columns), generator=generator).argsort(dim=-1)
    blank = torch.rand(ids.shape, generator=generator) < 0.3
    ids = ids.masked_fill(blank | (ids >= columns), -1)[..., :n]
    ids[0, 0, rows // 2] = -1
    return ids


def each_row(blocks):
    """(b, h, i) and the ids that are there."""
    for at in torch.ones(blocks.shape[:3]).nonzero().tolist():
        yield tuple(at), [j for j in blocks[tuple(at)].tolist() if j >= 0]


def listed_keys(blocks, T, S, size, causal):
    """(B, H, T, S): the keys that each query sees, list by list."""
    seen = torch.zeros(*blocks.shape[:2], T, S, dtype=torch.bool)
    for (b, h, i), ids in each_row(blocks):
        for j in ids:
            of_k = slice(j * size[1], (j + 1) * size[1])
            seen[b, h, i * size[0] : (i + 1) * size[0], of_k] = True
    return seen.tril() if causal else seen


def stands_for(blocks, T, S, size, pool, causal):
    """(B, H, T, entries): how many keys each pooled entry stands for, list by list."""
    entries = -(-S // pool)
    counts = torch.zeros(*blocks.shape[:2], T, entries)
    for (b, h, i), ids in each_row(blocks):
        left = torch.cat((torch.ones(S), torch.zeros(entries * pool - S)))
        for j in ids:
            left[j * size[1] : (j + 1) * size[1]] = 0
        due = i * size[0] // pool if causal else entries
        mine = counts[b, h, i * size[0] : (i + 1) * size[0], :due]
        mine += left.view(entries, pool).sum(dim=1)[:due]
    return counts


def scored(q, k, v, seen, counts, pool, scale):
    """Scores, values and what is seen, a column for each key and each pooled entry."""
    if counts is not None:
        means = ([p.mean(2) for p in y.split(pool, dim=2)] for y in (k, v))
        means = (torch.stack(y, dim=2) for y in means)
        k, v = (torch.cat(pair, dim=2) for pair in zip((k, v), means, strict=True))
        seen = torch.cat((seen, counts > 0), dim=3)
    k, v = (y.repeat_interleave(q.shape[1] // y.shape[1], dim=1) for y in (k, v))
    scores = scale * (q @ k.mT)
    if counts is not None:
        more = counts.clamp(min=1).to(torch.float64).log().to(q.dtype)
        scores[..., -counts.shape[3] :] += more
    low = torch.finfo(q.dtype).min / 2  # finite, so that empty rows have gradients
    return scores.masked_fill(~seen, low), v, seen


def formula(*given):
    """softmax(scores) v and the log-sum-exp of the arguments of `scored`."""
    scores, v, seen = scored(*given)
    weights = scores.softmax(dim=-1).masked_fill(~seen, 0.0)
    lse = scores.logsumexp(dim=-1).masked_fill(~seen.any(dim=-1), -torch.inf)
    return weights @ v, lse


def slopes_from_lse(given, dout, dlse):
    """What a formula that keeps only out and the log-sum-exp makes of the gradients:
    P = exp(S - LSE), dS = P (dO Vᵀ - rowsum(dO ∘ O) + dLSE). It rounds more often."""
    scores, v, seen = scored(*given)
    with torch.no_grad():
        out, lse = formula(*given)
        lse = lse.masked_fill(lse.isinf(), 0.0)
        weights = (scores - lse[..., None]).exp().masked_fill(~seen, 0.0)
        offset = (dout * out).sum(dim=-1) - dlse
        slope = weights * (dout @ v.mT - offset[..., None])
    return torch.autograd.grad((scores, weights @ v), given[:3], (slope, dout))


def leaves_of(*given):
    return [y.detach().clone().requires_grad_() for y in given]


def agrees(q, k, v, blocks, *, causal, rest="none", size=(32, 16), pool=None, **more):
    """out, lse, dq, dk and dv err at most twice as much as the formula may."""
    T, S = q.shape[2], k.shape[2]
    pool, scale = pool or size[0], more.get("scale", q.shape[-1] ** -0.5)
    seen = listed_keys(blocks, T, S, size, causal)
    counts = stands_for(blocks, T, S, size, pool, causal) if rest == "pooled" else None
    how = dict(causal=causal, rest=rest, block_q=size[0], block_k=size[1], pool=pool)
    dout, dlse = torch.randn_like(q), torch.randn(q.shape[:3])

    exactly = leaves_of(*(y.double() for y in (q, k, v)))
    out, lse = formula(*exactly, seen, counts, pool, scale)
    full = lse.isfinite()
    slopes = dout.double(), dlse.double()[full]
    grads = torch.autograd.grad((out, lse[full]), exactly, slopes)

    roughly = *leaves_of(q, k, v), seen, counts, pool, scale
    rough = formula(*roughly)
    dlse = dlse.masked_fill(~full, 0.0)
    rough = *rough, *slopes_from_lse(roughly, dout, dlse.to(q.dtype))

    mine = leaves_of(q, k, v)
    found = block_attention(*mine, blocks, **how, **more, return_lse=True)
    assert found[0].dtype == q.dtype and found[1].dtype == torch.float32
    slopes = dout, dlse[full]
    found = *found, *torch.autograd.grad((found[0], found[1][full]), mine, slopes)

    size = lse[full].abs().max().item() if full.any() else 0.0
    exactly = *exactly, seen, counts, pool, scale
    before = dict(zip(("dq", "dk"), terms(exactly, lse, dout), strict=True))
    names = ("out", "lse", "dq", "dk", "dv")
    for name, *values in zip(names, found, rough, (out, lse, *grads), strict=True):
        is_close(name, *values, size, before.get(name, 0.0), q.dtype)


@torch.no_grad()
def terms(given, lse, dout):
    """How large the terms of dq and dk are before the two halves of a slope cancel."""
    (scores, v, seen), (q, k, *_, scale) = scored(*given), given
    weights = (scores - lse.masked_fill(lse.isinf(), 0.0)[..., None]).exp()
    slopes = weights.masked_fill(~seen, 0.0) * (dout.double().abs() @ v.abs().mT)
    of_q, of_k = slopes.sum(dim=-1).max(), slopes.sum(dim=-2).max()
    return abs(scale) * of_q * k.abs().max(), abs(scale) * of_k * q.abs().max()


def is_close(name, found, rough, exact, size, before, dtype):
    """Twice the error of the formula in the same precision, or, where that is lucky, of
    one rounding of the result, and in fp32 of scores as large as the log-sum-exp and of
    terms that cancel."""
    found, there = found.double(), ~exact.isneginf()
    assert found.isneginf().equal(~there), name
    if there.any():
        error, top = (
            (rough.double() - exact)[there].abs().max(),
            exact[there].abs().max(),
        )
        least = torch.finfo(dtype).eps * top
        least += torch.finfo(torch.float32).eps * (size * top + before)
        budget = 2 * torch.maximum(error, least)
        assert (found - exact)[there].abs().max() <= budget, name


def vectors(T, S=None, dtype=torch.float32, **how):
    return draw(T, S or T, dtype=dtype, **how)


@each_length
@each_size
@each_order
@each_rest
def test_queries_attend_to_listed_blocks_and_to_the_rest_pooled(rest, causal, size, T):
    for n in (1, 5, 40):
        blocks = lists(2, T, T, size, n, seed=n)
        agrees(*vectors(T), blocks, causal=causal, rest=rest, size=size)


@each_dtype
@each_rest
@pytest.mark.parametrize("Hkv", [4, 2, 1])
def test_every_dtype_and_grouped_heads_stay_within_their_rounding(Hkv, rest, dtype):
    given = vectors(136, B=2, H=4, Hkv=Hkv, dtype=dtype)
    for causal in (False, True):
        blocks = lists(4, 136, 136, (32, 16), 5, B=2)
        agrees(*given, blocks, causal=causal, rest=rest)


@each_dtype
@each_rest
@each_order
def test_blocks_as_they_are_selected_stay_within_rounding_too(causal, rest, dtype):
    """Their rows begin with a full triangle and end in their own blocks."""
    given = vectors(300, H=2, Hkv=1, dtype=dtype)
    for size in ((64, 16), (32, 16)):
        how = dict(causal=causal, block_q=size[0], block_k=size[1])
        blocks = select_blocks(*given[:2], 6, **how)
        agrees(*given, blocks, causal=causal, rest=rest, size=size)


@each_rest
@pytest.mark.parametrize("T, S", [(1, 97), (97, 5), (63, 97), (40, 200), (200, 1)])
def test_keys_may_be_a_store_of_another_length(T, S, rest):
    for size in SIZES:
        given = vectors(T, S)
        agrees(*given, lists(2, T, S, size, 4), causal=False, rest=rest, size=size)


@each_order
@pytest.mark.parametrize(
    "block_k, pool", [(8, 8), (8, 16), (8, 48), (16, 48), (4, 24), (16, 64), (8, 96)]
)
def test_pooled_entries_have_a_size_of_their_own(block_k, pool, causal):
    size = 48, block_k
    for T in (48, 150):
        blocks = lists(2, T, T, size, 12)
        agrees(*vectors(T), blocks, causal=causal, rest="pooled", size=size, pool=pool)


@each_rest
@each_order
@pytest.mark.parametrize("scale", [-0.3, 0, 0.0, 1.5])
def test_any_finite_scale_will_do(scale, causal, rest):
    blocks = lists(2, 70, 70, (32, 16), 3)
    agrees(*vectors(70), blocks, causal=causal, rest=rest, scale=scale)


@pytest.mark.parametrize("D", [1, 3, 64, 130])
def test_any_head_width_will_do(D):
    blocks = lists(2, 70, 70, (32, 16), 3)
    agrees(*vectors(70, D=D), blocks, causal=True, rest="pooled")


@each_dtype
@each_order
def test_a_query_that_sees_nothing_gets_zeros_and_sends_back_zeros(causal, dtype):
    q, k, v = leaves_of(*vectors(70, dtype=dtype))
    blocks = torch.full((1, 2, 3, 4), -1)
    blocks[0, 1, 1, 2] = 1  # the only keys, 16 to 31, before the only queries, 32 to 63
    how = dict(causal=causal, block_q=32, block_k=16, return_lse=True)
    out, lse = block_attention(q, k, v, blocks, **how)
    seen = torch.zeros(1, 2, 70, dtype=torch.bool)
    seen[0, 1, 32:64] = True
    assert lse.isneginf().equal(~seen)
    assert (out != 0).all(dim=-1).equal(seen) and (out != 0).any(dim=-1).equal(seen)
    out.sum().backward()
    assert q.grad.any(dim=-1).equal(seen)
    for y in (k, v):
        assert y.grad.isfinite().all()
        assert y.grad[0, 1, 16:32].any() and y.grad.any(dim=-1).sum() == 16


@each_rest
def test_blocks_of_the_future_alone_are_nothing_if_causal(rest):
    """Such a list is as long as the complete one of its row, and is another."""
    q, k, v = vectors(48)
    blocks = torch.tensor([2, 0, 1])[:, None].expand(1, 2, 3, 1)
    how = dict(block_q=16, block_k=16, pool=16, rest=rest, return_lse=True)
    _, lse = block_attention(q, k, v, blocks, causal=True, **how)
    assert lse[:, :, :16].isneginf().all() and lse[:, :, 16:].isfinite().all()
    agrees(q, k, v, blocks, causal=True, size=(16, 16), rest=rest)


@each_rest
@each_order
def test_the_order_of_a_list_and_its_integers_do_not_matter(causal, rest):
    q, k, v = vectors(150)
    blocks = lists(2, 150, 150, (32, 16), 9)
    attend = partial(block_attention, q, k, v, causal=causal, rest=rest, pool=32)
    attend = partial(attend, block_q=32, block_k=16)
    expected = attend(blocks)
    order = torch.randperm(9)
    assert torch.equal(attend(blocks[..., order]), expected)
    assert torch.equal(attend(blocks.int()), expected)


@each_rest
def test_any_layout_in_memory_will_do(rest):
    blocks = lists(2, 70, 70, (32, 16), 3, B=2)
    how = dict(causal=True, rest=rest, block_q=32, block_k=16, pool=32)
    q, k, v = vectors(70, B=2, Hkv=1)
    expected = block_attention(q, k, v, blocks, **how)
    k = k.expand(2, 2, 70, 16)  # one head in memory for two
    v = v.expand(2, 2, 70, 16).transpose(1, 2).contiguous().transpose(1, 2)
    q = q.mT.contiguous().mT
    assert not any(y.is_contiguous() for y in (q, k, v))
    torch.testing.assert_close(block_attention(q, k, v, blocks, **how), expected)


@each_rest
def test_blocks_that_no_query_lists_are_never_read(rest):
    q, k, v = vectors(192)
    blocks = select_blocks(q, k, 5, causal=True, block_q=32, block_k=16)
    blocks = blocks.masked_fill((blocks == 2) | (blocks == 3), -1)
    k[:, :, 32:64], v[:, :, 32:64] = torch.nan, torch.nan
    how = dict(causal=True, rest=rest, block_q=32, block_k=16, pool=32)
    out = block_attention(q, k, v, blocks, **how)
    expected = rest == "none"  # else they are among the means
    assert out[:, :, 64:].isfinite().all().item() == expected
    assert out[:, :, :32].isfinite().all()


@each_rest
@each_order
@pytest.mark.parametrize("Hkv", [2, 1])
def test_the_gradient_is_the_derivative_that_of_the_log_sum_exp_included(
    Hkv, causal, rest
):
    q, k, v = (y.requires_grad_() for y in draw(6, 6, Hkv=Hkv, D=2))
    blocks = lists(2, 6, 6, (4, 2), 3)
    how = dict(causal=causal, rest=rest, block_q=4, block_k=2, pool=4, return_lse=True)

    def attend(q, k, v):
        out, lse = block_attention(q, k, v, blocks, **how)
        return out, lse[lse.isfinite()]  # an LSE of -inf has no derivative

    assert torch.autograd.gradcheck(attend, (q, k, v))


@each_rest
@each_dtype
def test_devices_without_such_a_kernel_get_the_same_from_the_formula(
    dtype, rest, monkeypatch
):
    def elsewhere(q, k, v, mask, scale, causal=False, sees=False):
        wide = (y.float() for y in (q, k, v))
        if not k.shape[2]:
            return attend(q, k, v, mask, scale, causal)
        out, lse = by_formula(*wide, mask, scale, causal)
        return out.to(q.dtype), lse

    attend = blocked.attend
    monkeypatch.setattr(blocked, "attend", elsewhere)
    given = vectors(150, H=4, Hkv=2, dtype=dtype)
    for causal in (False, True):
        how = dict(causal=causal, block_q=32, block_k=16)
        chosen = select_blocks(*given[:2], 5, **how)
        for blocks in (chosen, lists(4, 150, 150, (32, 16), 5)):
            agrees(*given, blocks, causal=causal, rest=rest)


def test_a_second_derivative_is_refused_not_wrong():
    q, k, v = (y.requires_grad_() for y in draw(5, 5))
    out = block_attention(q, k, v, lists(2, 5, 5, (4, 2), 3), block_q=4, block_k=2)
    (dq,) = torch.autograd.grad((out * out).sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dq.sum().backward()


def test_scores_past_the_range_of_fp16_do_not_overflow():
    q = torch.full((1, 1, 192, 64), 200.0, dtype=torch.float16)
    blocks = select_blocks(q, q, 6, causal=True)
    assert (blocks.diff(dim=-1)[..., 2:, :5] > 0).all()
    for rest in ("none", "pooled"):
        leaves = leaves_of(q, q, q)
        out = block_attention(*leaves, blocks, causal=True, rest=rest)
        assert torch.equal(out, q)
        grads = torch.autograd.grad(out, leaves, q)
        assert all(y.isfinite().all() for y in grads)


@each_length
@each_order
def test_all_blocks_listed_are_attention_and_its_log_sum_exp(causal, T):
    q, k, v = vectors(T, H=4, Hkv=2)
    exact, budget = by_loops(q, k, v, rule(T, T, causal))
    tiled, same = flash.flash_attention(q, k, v, causal=causal, return_lse=True)
    assert (off(tiled, exact) <= 2 * budget).all()
    for size in SIZES:
        n = -(-T // size[1])
        blocks = torch.arange(n).expand(1, 4, -(-T // size[0]), n)
        how = dict(causal=causal, block_q=size[0], block_k=size[1], return_lse=True)
        for rest in ("none", "pooled"):
            how |= dict(rest=rest, pool=size[0])
            out, lse = block_attention(q, k, v, blocks, **how)
            assert (off(out, exact) <= 2 * budget).all()
            torch.testing.assert_close(lse, same)


@each_order
@each_rest
@pytest.mark.parametrize("size, pool", [((32, 16), 16), ((32, 8), 32), ((16, 16), 16)])
def test_chapter_10_says_the_same_with_a_list_for_each_query(size, pool, rest, causal):
    """Where both definitions agree: lists of whole pools, the queries' own among them,
    so that no mean is of some keys of a pool only."""
    T, per = 136, pool // size[1]
    q, k, v = draw(T, T, H=4, Hkv=2)
    columns = -(-T // pool)
    pools = torch.rand(1, 4, -(-T // size[0]), columns) < 0.3
    for i in range(pools.shape[2]):
        pools[:, :, i, i * size[0] // pool : (i + 1) * size[0] // pool] = True
    ids = torch.arange(columns * per).view(columns, per)
    blocks = ids.where(pools[..., None], -1).flatten(3)
    blocks = blocks.masked_fill(blocks >= -(-T // size[1]), -1)
    seen = listed_keys(blocks, T, T, size, causal)
    indices = torch.arange(T).where(seen, indexer.EMPTY)
    chapter = indexer.selected_attention(
        q, k, v, indices, causal=causal, rest=rest, block=pool
    )
    q, k, v = (y.float() for y in (q, k, v))
    agrees(q, k, v, blocks, causal=causal, rest=rest, size=size, pool=pool)
    counts = stands_for(blocks, T, T, size, pool, causal) if rest == "pooled" else None
    given = (y.double() for y in (q, k, v))
    ours, _ = formula(*given, seen, counts, pool, q.shape[-1] ** -0.5)
    assert off(ours, chapter).max() < 1e-5  # q, k and v were rounded to fp32


# What more blocks do


@steady
@given(T=st.integers(1, 70), seed=seeds, data=st.data())
def test_one_more_block_never_loses_weight(T, seed, data):
    """exp(lse) is the weight of what is seen: it grows, up to that of all keys."""
    q, k, v = vectors(T, H=1, Hkv=1, seed=seed)
    columns, causal = -(-T // 8), data.draw(st.booleans())
    order = data.draw(st.permutations(range(columns)))
    attend = partial(block_attention, q, k, v, causal=causal, block_q=16, block_k=8)
    _, whole = flash.flash_attention(q, k, v, causal=causal, return_lse=True)
    before, rounding = torch.full((1, 1, T), -torch.inf), 1e-5
    for n in range(1, columns + 1):
        blocks = torch.tensor(order[:n]).expand(1, 1, -(-T // 16), n)
        _, lse = attend(blocks, return_lse=True)
        assert (lse >= before - rounding).all()
        before = lse
    assert off(before, whole).max() <= rounding


@steady
@given(T=st.integers(1, 70), seed=seeds)
def test_a_mean_weighs_no_more_than_its_keys_do(T, seed):
    """By Jensen's inequality, where no key of an entry is listed."""
    q, k, v = vectors(T, H=1, Hkv=1, seed=seed)
    blocks = lists(1, T, T, (16, 16), 3, seed=seed)
    attend = partial(block_attention, q, k, v, blocks, block_q=16, block_k=16)
    _, none = attend(return_lse=True)
    _, pooled = attend(rest="pooled", pool=16, return_lse=True)
    _, whole = flash.flash_attention(q, k, v, return_lse=True)
    assert (none <= pooled + 1e-5).all() and (pooled <= whole + 1e-5).all()


@each_order
def test_the_selected_blocks_hold_more_weight_than_the_others(causal):
    q, k, v = vectors(400)
    attend = partial(block_attention, q, k, v, causal=causal, block_q=32, block_k=8)
    found = []
    for keep in (8, 16, 32, 50):
        how = dict(causal=causal, block_q=32, block_k=8)
        found.append(attend(select_blocks(q, k, keep, **how), return_lse=True))
    lses = torch.stack([lse for _, lse in found])
    assert (lses.diff(dim=0) > -1e-5).all() and lses[-1].sub(lses[0]).max() > 0.5
    exact = attention(*(y.double() for y in (q, k, v)), causal=causal)
    errors = [off(out, exact).mean() for out, _ in found]
    assert errors == sorted(errors, reverse=True)
    rough = off(attention(q, k, v, causal=causal), exact)
    assert off(found[-1][0], exact).max() <= 2 * rough.max()


# Which path


def test_up_to_the_crossover_attention_is_exact():
    assert crossover(32) == 32 * CROSSOVER
    q, k, v = vectors(32 * CROSSOVER + 1, H=4, Hkv=2)
    how = dict(block_q=16, block_k=8)
    for causal in (False, True):
        sparse = partial(sparse_attention, causal=causal, pool=16, **how)
        dense = partial(fused_attention, causal=causal)
        short = [y[:, :, :-1] for y in (q, k, v)]
        assert torch.equal(sparse(*short, 32), dense(*short))
        blocks = select_blocks(q, k, 4, causal=causal, **how)
        for rest in ("none", "pooled"):
            given = dict(causal=causal, rest=rest, pool=16, **how)
            listed = block_attention(q, k, v, blocks, **given)
            assert torch.equal(sparse(q, k, v, 32, rest=rest), listed)
            assert not torch.equal(listed, dense(q, k, v))
        assert torch.equal(
            sparse(q, k, v, 32, dense_below=32 * CROSSOVER + 1), dense(q, k, v)
        )
        listed = sparse(q, k, v, 32, dense_below=32 * CROSSOVER)
        assert torch.equal(listed, sparse(q, k, v, 32, dense_below=0))
        assert torch.equal(sparse(*short, 32 * CROSSOVER, dense_below=0), dense(*short))


def test_sinks_local_and_the_other_options_reach_the_selection():
    q, k, v = vectors(300)
    how = dict(causal=True, block_q=32, block_k=16)
    for more in (dict(sinks=0, local=0), dict(sinks=3, local=1), dict(local=7)):
        blocks = select_blocks(q, k, 9, **how, **more)
        out = sparse_attention(q, k, v, 144, dense_below=0, **how, **more)
        assert torch.equal(out, block_attention(q, k, v, blocks, **how))


def test_sparse_attention_has_a_gradient():
    q, k, v = leaves_of(*vectors(300, H=4, Hkv=2))
    sparse_attention(q, k, v, 128, causal=True, rest="pooled").sum().backward()
    for y in (q, k, v):
        assert y.grad.isfinite().all() and y.grad.any()


@each_rest
def test_later_tokens_change_no_earlier_block_of_queries(rest):
    """Queries of one block choose together, so the promise is for whole blocks."""
    attend = partial(sparse_attention, keep=96, causal=True, rest=rest, dense_below=0)
    attend = partial(attend, block_q=32, block_k=16, pool=32)
    given = vectors(300, H=4, Hkv=2)
    other = [y.clone() for y in given]
    for y in other:
        y[:, :, 200:] *= -3
    ours, theirs = attend(*given), attend(*other)
    assert torch.equal(ours[:, :, :192], theirs[:, :, :192])
    assert not torch.equal(ours[:, :, 200:], theirs[:, :, 200:])


def test_later_queries_of_a_block_have_a_say_in_the_choice_and_in_nothing_else():
    q, k, v = vectors(300)
    other = q.clone()
    other[:, :, 280:288] *= -9
    how = dict(causal=True, block_q=32, block_k=16)
    blocks, others = (select_blocks(y, k, 9, **how) for y in (q, other))
    assert not torch.equal(blocks[:, :, 8], others[:, :, 8])  # of queries 256 to 287
    ours, theirs = (block_attention(y, k, v, blocks, **how) for y in (q, other))
    assert torch.equal(ours[:, :, :280], theirs[:, :, :280])


# Selection


def worths(q, k, size, causal):
    """(B, H, n_q, n_k) by loops: weights of means, added up over groups of queries."""
    group = min(16, size[0])
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1).double()
    q, scale = q.double(), q.shape[-1] ** -0.5
    answers = torch.stack([y.mean(dim=2) for y in k.split(size[1], dim=2)], dim=2)
    rows = []
    for i, mine in enumerate(q.split(size[0], dim=2)):
        row = q.new_zeros(*q.shape[:2], answers.shape[2])
        past = i * size[0] // size[1] if causal else answers.shape[2]
        for part in mine.split(group, dim=2) if past else ():
            ask = part.mean(dim=2, keepdim=True)
            scores = scale * (ask @ answers[:, :, :past].mT)[:, :, 0]
            row[..., :past] += scores.softmax(dim=-1)
        rows.append(row)
    return torch.stack(rows, dim=2)


def always(i, n_k, size, causal, sinks, local):
    """The ids that are in whatever the means say, and those that may be."""
    per = size[0] // size[1]
    end = min(n_k, (i + 1) * per) if causal else n_k
    own = range(i * per, min(n_k, (i + 1) * per))
    near = range(max(0, i * per - local), min(n_k, i * per))
    return {*own, *near, *range(min(sinks, end))}, set(range(end))


@each_length
@each_size
@each_order
@pytest.mark.parametrize("sinks, local", [(1, 4), (0, 0), (2, 1)])
def test_blocks_are_those_of_the_rule_by_loops(sinks, local, causal, size, T):
    q, k, _ = vectors(T, B=2, H=4, Hkv=2)
    weights, n_k = worths(q, k, size, causal), -(-T // size[1])
    how = dict(causal=causal, block_q=size[0], block_k=size[1])
    how |= dict(sinks=sinks, local=local)
    rounding = 1e-5  # of weights, sums of at most 4 that are at most 1, in fp32
    for keep in (size[0] // size[1] + sinks + local, 12, 99):
        blocks = select_blocks(q, k, keep, **how)
        assert blocks.shape == (2, 4, -(-T // size[0]), min(keep, n_k))
        assert blocks.dtype == torch.int64
        for (b, h, i), ids in each_row(blocks):
            forced, may = always(i, n_k, size, causal, sinks, local)
            assert ids == sorted(set(ids)) and set(ids) <= may and forced <= set(ids)
            assert len(ids) == min(keep, len(may))
            assert blocks[b, h, i, : len(ids)].tolist() == ids, "-1 comes last"
            worth = weights[b, h, i].tolist()
            least = min((worth[j] for j in set(ids) - forced), default=math.inf)
            assert all(worth[j] <= least + rounding for j in may - set(ids))


@pytest.mark.parametrize("T, S", [(97, 300), (300, 97), (1, 300)])
def test_queries_may_ask_a_store_of_another_length(T, S):
    q, k, _ = vectors(T, S)
    blocks = select_blocks(q, k, 12, block_q=32, block_k=8)
    weights = worths(q, k, (32, 8), False)
    for at, ids in each_row(blocks):
        forced, may = always(at[2], -(-S // 8), (32, 8), False, 1, 4)
        assert forced <= set(ids) and len(ids) == 12
        least = min(weights[at][j] for j in set(ids) - forced)
        assert all(weights[at][j] <= least + 1e-5 for j in may - set(ids))


def test_where_few_are_kept_own_blocks_come_first_then_near_ones_then_sinks():
    q, k, _ = vectors(320)
    select = partial(select_blocks, q, k, causal=True, block_q=32, block_k=16)
    for keep, near in ((2, 0), (3, 1), (4, 2), (6, 4)):
        ids = select(keep)[:, :, 9]
        assert (ids == torch.arange(18 - near, 20)).all()
    for keep, sinks in ((7, 1), (8, 2)):
        ids = select(keep, sinks=3)[:, :, 9]
        assert (ids == torch.tensor([*range(sinks), *range(14, 20)])).all()


@each_order
@pytest.mark.parametrize("group", range(4))
def test_a_block_that_one_group_of_queries_wants_is_found(group, causal):
    """Its 16 queries outweigh the 48 others, whose mean would have hidden it."""
    T, D, wanted = 640, 16, 13
    torch.manual_seed(0)
    q, k = 0.1 * torch.randn(2, 1, 1, T, D)
    sign = torch.randn(D).sign()
    k[:, :, wanted * 16 : (wanted + 1) * 16] += sign
    q[:, :, 512:576] -= sign  # the others would rather not
    q[:, :, 512 + 16 * group : 528 + 16 * group] = 3 * sign
    how = dict(causal=causal, sinks=0, local=0)
    assert wanted in select_blocks(q, k, 5, **how)[0, 0, 8].tolist()
    q[:, :, 512:576] = -sign
    k[:, :, (wanted + 1) * 16 : 480] -= 0.1 * sign  # others are worth more
    assert wanted not in select_blocks(q, k, 5, **how)[0, 0, 8].tolist()


@each_length
@each_order
def test_scores_held_in_parts_select_the_same(causal, T, monkeypatch):
    q, k, _ = vectors(T, B=2, H=4, Hkv=2)
    select = partial(select_blocks, q, k, 9, causal=causal, block_q=32, block_k=8)
    whole = select()
    parts = (1, 3 * 2 * 38, 3 * selection.ASKS * 38)  # one row, three, three heads
    for held in parts:
        monkeypatch.setattr(selection, "HELD", held)
        assert torch.equal(select(), whole)


@pytest.mark.parametrize("row", [0, 1, 4, 9])
def test_later_queries_that_come_alone_select_what_they_do_together(row):
    q, k, _ = vectors(300, H=4, Hkv=2)
    how = dict(causal=True, block_q=32, block_k=8)
    asks, answers = block_means(q, 16), block_means(k, 8)
    whole = select_blocks(q, k, 9, **how)
    assert torch.equal(blocks_from_means(asks, answers, 9, **how), whole)
    late = blocks_from_means(asks[:, :, 2 * row :], answers, 9, first=32 * row, **how)
    assert torch.equal(late, whole[:, :, row:])


def test_later_tokens_change_no_earlier_list():
    q, k, _ = vectors(300)
    for t in (1, 63, 64, 200, 299):
        other_q, other_k = (y.clone() for y in (q, k))
        other_q[:, :, t:], other_k[:, :, t:] = 5.0, -3 * k[:, :, t:]
        how = dict(causal=True, block_q=32, block_k=8)
        ours, theirs = (
            select_blocks(*y, 9, **how)[:, :, : t // 32]
            for y in ((q, k), (other_q, other_k))
        )
        assert torch.equal(ours, theirs)


@each_dtype
def test_half_types_select_what_their_means_say(dtype):
    """The same as fp32 does with the same means: nothing else is computed in halves."""
    q, k, _ = vectors(300, dtype=dtype)
    how = dict(causal=True, block_q=32, block_k=8)
    means = block_means(q, 16), block_means(k, 8)
    exact = torch.stack([y.double().mean(2) for y in q.split(16, dim=2)], dim=2)
    rounding = torch.finfo(dtype).eps * exact.abs() + 16 * 2.0**-23
    assert (off(means[0], exact) <= rounding).all()
    from_fp32 = blocks_from_means(*(y.float() for y in means), 9, **how)
    assert torch.equal(select_blocks(q, k, 9, **how), from_fp32)


@pytest.mark.parametrize("T", [1, 5, 8, 9, 300])
def test_means_are_of_the_tokens_that_there_are(T):
    y, _, _ = draw(T, 1)
    expected = torch.stack([part.mean(dim=2) for part in y.split(8, dim=2)], dim=2)
    torch.testing.assert_close(block_means(y, 8), expected)


@pytest.mark.parametrize("T", [1, 63, 300])
def test_listed_pairs_are_those_that_queries_see(T):
    blocks = lists(2, T, T, (32, 8), 9, B=2)
    seen = listed_keys(blocks, T, T, (32, 8), True)
    found = selection.listed_pairs(blocks, T, block_q=32, block_k=8)
    assert found == seen.sum().item()


# Memory


class Largest(TorchDispatchMode):
    """The most elements that one result of an operation has."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.elements = max([self.elements, *(y.numel() for y in tensors(out))])
        return out


@each_rest
@pytest.mark.parametrize("T", [2048, 4096])
def test_no_tensor_is_larger_than_its_due(T, rest):
    """q; the scores between means; room for the keys and values of some rows."""
    D, keep = 16, 256
    q, k, v = leaves_of(*vectors(T, H=1, Hkv=1, D=D))
    means = T // selection.GROUP * T // selection.BLOCK_K
    assert means < selection.HELD
    at_once = blocked.ROWS  # T is not LONG
    rows = at_once // selection.BLOCK_Q
    due = max(q.numel(), means, 2 * rows * keep * D)
    with Largest() as forward:
        out = sparse_attention(q, k, v, keep, causal=True, rest=rest)
    assert forward.elements <= due < T * T / 16
    out = out.sum()
    with Largest() as backward:
        out.backward()
    assert backward.elements <= max(due, at_once * keep) < T * T / 16


def test_scores_between_means_are_held_in_parts(monkeypatch):
    q, k, _ = vectors(4096, H=2, Hkv=1)
    asks, answers = block_means(q, 16), block_means(k, 16)
    whole = 2 * 256 * 256
    for held in (whole, 2**14, 2**12):
        monkeypatch.setattr(selection, "HELD", held)
        with Largest() as seen:
            blocks_from_means(asks, answers, 16, causal=True)
        assert held // 2 < seen.elements <= max(held, asks.numel())


@each_rest
def test_sparse_attention_runs_with_what_mps_has(rest):
    q, k, v = leaves_of(*vectors(200, H=4, Hkv=2))
    with LikeMPS():
        out = sparse_attention(q, k, v, 64, causal=True, rest=rest, dense_below=0)
        out.sum().backward()


# Arguments that do not fit

IDS = torch.zeros(1, 2, 1, 1, dtype=torch.int64)
LISTED = {
    "q of three axes": ("q", (2, 5, 8), dict(q=x(2, 5, 8))),
    "k in another dtype": ("k", "torch.float16", dict(k=x(dtype=torch.float16))),
    "no such rest": ("rest", "'all'", dict(rest="all")),
    "block_q is none": ("block_q", 0, dict(block_q=0)),
    "block_k is none": ("block_k", 0, dict(block_k=0)),
    "block_k is a fraction": ("block_k", 1.5, dict(block_k=1.5)),
    "blocks that do not divide": ("block_q", 40, dict(block_q=40)),
    "fewer keys": ("k", 4, dict(k=x(1, 2, 4, 8), v=x(1, 2, 4, 8), causal=True)),
    "a list of lists": ("blocks", "list", dict(blocks=[[[[0]]]])),
    "ids are floats": ("blocks", "torch.float32", dict(blocks=IDS.float())),
    "three axes": ("blocks", (2, 1, 1), dict(blocks=IDS[0])),
    "other heads": ("blocks", (1, 1, 1, 1), dict(blocks=IDS[:, :1])),
    "other rows": ("blocks", (1, 2, 2, 1), dict(blocks=IDS.expand(1, 2, 2, 1))),
    "empty lists": ("blocks", (1, 2, 1, 0), dict(blocks=IDS[..., :0])),
    "blocks elsewhere": ("blocks", "meta", dict(blocks=IDS.to(META))),
    "an id too large": ("blocks", "from 1 to 1", dict(blocks=IDS + 1)),
    "an id below -1": ("blocks", "from -2 to -2", dict(blocks=IDS - 2)),
    "an id twice": ("blocks", "twice", dict(blocks=IDS.expand(1, 2, 1, 2))),
    "scale is NaN": ("scale", "nan", dict(scale=math.nan)),
    "pool is none": ("pool", 0, dict(rest="pooled", pool=0)),
    "pool below block_k": ("pool", 8, dict(rest="pooled", pool=8)),
}


@pytest.mark.parametrize("name, got, changed", LISTED.values(), ids=LISTED)
def test_attention_over_blocks_explains(name, got, changed):
    call = dict(q=x(), k=x(), v=x(), blocks=IDS) | changed
    explains(lambda: block_attention(**call), name, got)


SPARSE = {
    "v of five axes": ("v", (1, 1, 2, 5, 8), dict(v=x(1, 1, 2, 5, 8))),
    "fewer keys": ("k", 4, dict(k=x(1, 2, 4, 8), v=x(1, 2, 4, 8))),
    "keep is none": ("keep", 0, dict(keep=0)),
    "keep is a fraction": ("keep", 16.0, dict(keep=16.0)),
    "keep is no whole block": ("keep", 17, dict(keep=17)),
    "keep below the own blocks": ("keep", 16, dict(keep=16, causal=True)),
    "no such rest": ("rest", "'all'", dict(rest="all")),
    "block_k is none": ("block_k", 0, dict(block_k=0)),
    "block_q is none": ("block_q", -64, dict(block_q=-64)),
    "blocks that do not divide": ("block_q", 40, dict(block_q=40)),
    "too many for 16 to divide": ("block_q", 24, dict(block_q=24, block_k=8)),
    "sinks are a fraction": ("sinks", 0.5, dict(sinks=0.5)),
    "local is negative": ("local", -1, dict(local=-1)),
    "dense_below is negative": ("dense_below", -1, dict(dense_below=-1)),
    "pool that does not divide": ("pool", 40, dict(rest="pooled", pool=40)),
}


@pytest.mark.parametrize("name, got, changed", SPARSE.values(), ids=SPARSE)
def test_sparse_attention_explains(name, got, changed):
    long = x(1, 2, 200, 8)
    call = dict(q=long, k=long, v=long, keep=64, dense_below=0) | changed
    explains(lambda: sparse_attention(**call), name, got)


def test_a_rest_that_is_none_is_refused_where_attention_is_dense_too():
    explains(lambda: sparse_attention(x(), x(), x(), rest="mlp"), "rest", "'mlp'")


SELECT = {
    "k of three axes": ("k", (2, 5, 8), dict(k=x(2, 5, 8))),
    "fewer keys": ("k", 4, dict(k=x(1, 2, 4, 8), causal=True)),
    "keep is none": ("keep", 0, dict(keep=0)),
    "keep below the own blocks": ("keep", 3, dict(keep=3, causal=True)),
    "sinks are negative": ("sinks", -1, dict(sinks=-1)),
    "local is a fraction": ("local", 0.5, dict(local=0.5)),
    "block_q is none": ("block_q", 0, dict(block_q=0)),
    "block_k above block_q": ("block_k", 128, dict(block_k=128)),
}


@pytest.mark.parametrize("name, got, changed", SELECT.values(), ids=SELECT)
def test_selection_explains(name, got, changed):
    call = dict(q=x(), k=x(), keep=4) | changed
    explains(lambda: select_blocks(**call), name, got)


MEANS = {
    "first is negative": ("first", -64, dict(first=-64)),
    "first is no whole block": ("first", 16, dict(first=16)),
    "block_k is none": ("block_k", 0, dict(block_k=0)),
    "blocks that do not divide": ("block_k", 48, dict(block_k=48)),
    "too many for 16 to divide": ("block_q", 72, dict(block_q=72, block_k=8)),
    "keep is none": ("keep", 0, dict(keep=0)),
}


@pytest.mark.parametrize("name, got, changed", MEANS.values(), ids=MEANS)
def test_selection_from_means_explains(name, got, changed):
    call = dict(asks=x(), answers=x(), keep=4) | changed
    explains(lambda: blocks_from_means(**call), name, got)


@pytest.mark.parametrize(
    "block_q, block_k, local", [(64, 16, 4), (32, 16, 6), (8, 8, 0)]
)
def test_no_past_key_lies_between_entries_and_what_is_always_listed(
    block_q, block_k, local
):
    for T in (100, 16_384, 16_385, 65_536, 2**20):
        pool = pool_for(T, block_q=block_q, block_k=block_k, local=local)
        assert pool % block_k == 0
        starts = torch.arange(0, T, block_q)
        ends = starts // pool * pool  # of the last whole entry before each row
        assert (starts - ends <= local * block_k).all()


def test_entries_stand_for_more_keys_in_longer_texts():
    assert [pool_for(T) for T in (1, 16_384, 16_385, 65_536)] == [64, 64, 128, 128]
    assert pool_for(2**20, local=12) == 256


def test_the_pool_that_is_taken_is_the_one_that_is_named():
    q, k, v = draw(2000, 2000, H=1, Hkv=1)
    attend = partial(sparse_attention, q, k, v, 64, causal=True, rest="pooled")
    how = dict(block_q=4, block_k=4, sinks=1, local=2, dense_below=0)
    named = pool_for(2000, block_q=4, block_k=4, local=2)
    assert named == 8
    assert torch.equal(attend(**how), attend(**how, pool=named))
    assert not torch.equal(attend(**how), attend(**how, pool=4))
