"""The kernels of block-sparse attention against masks; run by test_sparse_triton.py, in
a process of its own, as triton_kernels.py is.

By hand: TRITON_INTERPRET=1 pytest tests/triton_sparse.py, or without it on CUDA.
"""

import os

import pytest
import torch

from sparse_attn.kernels import (
    PagedCache,
    block_backward,
    block_forward,
    blocked,
    decode,
    fused,
    paged,
    sparse,
    sparse_decode,
)

WHERE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
NAMES = ("q", "k", "v", "mean_k", "mean_v")
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_order = pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
each_rest = pytest.mark.parametrize("rest", [False, True], ids=["none", "pooled"])


@pytest.fixture(autouse=True, scope="module")
def one_thread_is_enough(one_thread):
    pass


def scored(q, k, v, seen, bias=None, mean_k=None, mean_v=None):
    """Scores, values and what is seen, one column per key and per pooled entry.

    seen: (B, H, T, S); bias: (B, H, T, n_k), added to the scores of pooled entries.
    """
    groups = q.shape[1] // k.shape[1]
    if bias is not None:
        k, v = torch.cat((k, mean_k), dim=2), torch.cat((v, mean_v), dim=2)
        added = torch.cat((torch.zeros(seen.shape), bias), dim=3)
        seen = torch.cat((seen, bias.isfinite()), dim=3)
    k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    scores = q.shape[-1] ** -0.5 * (q @ k.mT)
    if bias is not None:
        scores = scores + added.masked_fill(~seen, 0.0).to(q.dtype)
    low = torch.finfo(q.dtype).min / 2  # finite, so that empty rows have gradients
    return scores.masked_fill(~seen, low), v, seen


def formula(*given):
    """softmax(scores) v and the log-sum-exp of the arguments of `scored`."""
    scores, v, seen = scored(*given)
    weights = scores.softmax(dim=-1).masked_fill(~seen, 0.0)
    lse = scores.logsumexp(dim=-1).masked_fill(~seen.any(dim=-1), -torch.inf)
    return weights @ v, lse


def gradients_from_lse(leaves, dout, dlse, *given):
    """What a formula that keeps only out and the log-sum-exp makes of the gradients:
    P = exp(S - LSE), dS = P (dO Vᵀ - rowsum(dO ∘ O) + dLSE). It rounds more often."""
    scores, v, seen = scored(*given)
    with torch.no_grad():
        out, lse = formula(*given)
        lse = lse.masked_fill(lse.isinf(), 0.0)
        weights = (scores - lse[..., None]).exp().masked_fill(~seen, 0.0)
        offset = (dout * out).sum(dim=-1) - dlse.to(out.dtype)
        slope = weights * (dout @ v.mT - offset[..., None])
    return torch.autograd.grad((scores, weights @ v), leaves, (slope, dout))


def listed_keys(blocks, T, S, block_q, block_k, causal):
    """(B, H, T, S): the keys that each query sees, list by list."""
    B, H, n_q, _ = blocks.shape
    seen = torch.zeros(B, H, T, S, dtype=torch.bool)
    for b, h, i in ((b, h, i) for b in range(B) for h in range(H) for i in range(n_q)):
        rows = slice(i * block_q, (i + 1) * block_q)
        for j in blocks[b, h, i].tolist():
            if j >= 0:
                seen[b, h, rows, j * block_k : (j + 1) * block_k] = True
    return seen.tril() if causal else seen


def rest_of(blocks, S, block_q, block_k, pool, causal):
    """(B, H, n_q, n_pools): log(keys) of each entry that are not listed; if causal, of
    those entries that end before the query block begins."""
    listed = listed_keys(blocks, blocks.shape[2], S, 1, block_k, False)
    left = [(~part).sum(dim=-1) for part in listed.split(pool, dim=-1)]
    bias = torch.stack(left, dim=-1).float().log()
    if causal:
        for i in range(blocks.shape[2]):
            bias[:, :, i, i * block_q // pool :] = -torch.inf
    return bias


def lists(B, H, T, S, keep, block_q, block_k, causal, *, seed=0):
    """Ascending ids, those of the query block itself among them if causal, then -1:
    every second query block lists as few as it may, so that much is left to pool."""
    torch.manual_seed(seed)
    n_q, n_k = -(-T // block_q), -(-S // block_k)
    blocks = torch.full((B, H, n_q, keep), -1, dtype=torch.int32)
    for b, h, i in ((b, h, i) for b in range(B) for h in range(H) for i in range(n_q)):
        end = min(n_k, (i + 1) * block_q // block_k) if causal else n_k
        own = range(i * block_q // block_k, end)[-keep:] if causal else range(0)
        others = [j for j in torch.randperm(end).tolist() if j not in own]
        more = 0 if i % 2 else keep - len(own)
        ids = sorted([*own, *others[:more]])
        blocks[b, h, i, : len(ids)] = torch.tensor(ids, dtype=torch.int32)
    return blocks


def pooled(x, pool):
    """Means of every `pool` rows, the last of fewer."""
    return torch.stack([part.mean(dim=2) for part in x.split(pool, dim=2)], dim=2)


def draw(T, S, blocks, *, Hkv, D, pool, dtype):
    """Names to tensors, in float64 but rounded to dtype, and the gradient of out."""
    B, H = blocks.shape[:2]
    q, dout = torch.randn(2, B, H, T, D).to(dtype).double()
    k, v = torch.randn(2, B, Hkv, S, D).to(dtype).double()
    means = (pooled(x, pool).to(dtype).double() for x in (k, v))
    return dict(zip(NAMES, (q, k, v, *means), strict=True)), dout


def check(T, S, causal, *, rest=False, blocks=None, keep=3, size=(32, 16, 16), **how):
    """out, lse and every gradient of a path are those of the formula.

    size: queries and keys of a block, keys of a pooled entry; path: `fused` if not
    given, whose kernels the numbers then come from.
    """
    how = dict(B=1, H=1, Hkv=1, D=16, dtype=torch.float32, path=fused) | how
    dtype, path, B, H = (how.pop(x) for x in ("dtype", "path", "B", "H"))
    block_q, block_k, pool = size
    if blocks is None:
        blocks = lists(B, H, T, S, keep, block_q, block_k, causal)
    given, dout = draw(T, S, blocks, pool=pool, dtype=dtype, **how)
    seen = listed_keys(blocks, T, S, block_q, block_k, causal)
    bias = rest_of(blocks, S, *size, causal) if rest else None

    exact = by_formula(given, seen, bias, dout, block_q, torch.float64)
    close = by_formula(given, seen, bias, dout, block_q, dtype)
    found = by_path(path, given, blocks, bias, dout, causal, size, dtype)
    assert list(found) == list(exact)
    for name, x in found.items():
        is_close(x, close[name], exact[name], exact["lse"], dtype)


def is_close(found, close, exact, lse, dtype):
    """At most twice the error of the formula in the same precision, or, where that is
    lucky, of one rounding of the result and of scores as large as the log-sum-exp,
    that the kernels keep in fp32 and move into units of log 2.
    """
    found, seen = found.double().cpu(), ~exact.isneginf()
    assert found.isneginf().equal(~seen)
    if seen.any():
        size = lse[lse.isfinite()].abs().amax() if lse.isfinite().any() else 0.0
        least = torch.finfo(dtype).eps + torch.finfo(torch.float32).eps * size
        formula = (close - exact)[seen].abs().max()
        budget = 2 * torch.maximum(formula, least * exact[seen].abs().max())
        assert (found - exact)[seen].abs().max() <= budget


def by_formula(given, seen, bias, dout, block_q, dtype):
    """In float64, the gradients that autograd finds; else those from the LSE."""
    used = NAMES if bias is not None else NAMES[:3]
    leaves = [given[x].to(dtype).requires_grad_() for x in used]
    if bias is not None:
        bias = bias.repeat_interleave(block_q, dim=2)[:, :, : seen.shape[2]]
    at = *leaves[:3], seen, bias, *leaves[3:]
    out, lse = formula(*at)
    full, dlse, dout = lse.isfinite(), slopes(lse), dout.to(dtype)
    if dtype == torch.float64:
        grads = torch.autograd.grad((out, lse[full]), leaves, (dout, dlse[full]))
    else:
        grads = gradients_from_lse(leaves, dout, dlse, *at)
    return as_found(out, lse, used, grads)


def by_path(path, given, blocks, bias, dout, causal, size, dtype):
    used = NAMES if bias is not None else NAMES[:3]
    tensors = [given[x].to(WHERE, dtype) if x in used else None for x in NAMES]
    q, k, v, *means = tensors
    bias = bias if bias is None else bias.to(WHERE)
    listed = q, k, v, blocks.long().to(WHERE), bias, *means
    how = dict(zip(("block_q", "block_k", "pool"), size, strict=True))
    how |= dict(causal=causal, scale=q.shape[-1] ** -0.5)
    out, lse = path.forward(*listed, **how)
    assert out.dtype == dtype and lse.dtype == torch.float32
    found = path.backward(*listed, out, lse, dout.to(WHERE, dtype), slopes(lse), **how)
    grads, none = found[: len(used)], found[len(used) :]
    assert all(x is None for x in none)
    assert [x.shape for x in grads] == [given[x].shape for x in used]
    if path is fused:
        assert all(x.dtype == dtype for x in grads)
    return as_found(out, lse, used, grads)


def slopes(lse):
    """A gradient of the log-sum-exp; none where that is -inf."""
    place = torch.arange(lse.numel(), device=lse.device).view(lse.shape)
    return torch.sin(place).to(lse.dtype).masked_fill(lse.isinf(), 0.0)


def as_found(out, lse, names, grads):
    named = dict(zip((f"d{x}" for x in names), grads, strict=True))
    named = dict(out=out, lse=lse) | named
    return {name: x.detach().double().cpu() for name, x in named.items()}


@each_rest
@each_order
@pytest.mark.parametrize(
    "size", [(64, 64, 64), (64, 16, 16), (32, 16, 32), (16, 16, 16)], ids=str
)
def test_kernels_attend_to_the_listed_blocks_and_to_the_rest(size, causal, rest):
    check(136, 136, causal, rest=rest, size=size, keep=3)


@each_order
@pytest.mark.parametrize("path", [fused, blocked], ids=lambda x: x.__name__[20:])
def test_both_paths_let_an_entry_stand_for_what_is_left_of_four_blocks(path, causal):
    """Of 64 keys, 16 to 64; the width is none of the kernels'."""
    how = dict(H=2, D=24, size=(64, 16, 64), keep=6)
    check(280, 280, causal, rest=True, path=path, **how)


@each_order
@each_dtype
def test_entries_of_four_blocks_stay_within_the_rounding_of_every_dtype(dtype, causal):
    check(200, 200, causal, rest=True, size=(64, 16, 64), keep=6, D=64, dtype=dtype)


@each_order
def test_entries_of_two_blocks_fill_more_than_a_tile(causal):
    check(560, 560, causal, rest=True, size=(64, 16, 32), keep=5)


@each_rest
@each_dtype
def test_autograd_through_the_kernels_is_autograd_through_the_other_path(
    dtype, rest, monkeypatch
):
    """From q, k and v laid out as a model has them, through means and all."""
    torch.manual_seed(0)
    shapes = (1, 150, 2, 24), (1, 150, 1, 24), (1, 150, 1, 24)
    given = [torch.randn(shape).to(dtype).double() for shape in shapes]
    blocks, dout = lists(1, 2, 150, 150, 6, 64, 16, True), torch.randn(1, 2, 150, 24)

    def by_blocks(where, kind):
        leaves = [x.to(where, kind).requires_grad_() for x in given]
        tensors = (x.transpose(1, 2) for x in leaves)
        how = dict(causal=True, rest=rest, return_lse=True)
        found = sparse.block_attention(*tensors, blocks.to(where), **how)
        back = dout.to(where, kind), slopes(found[1])
        grads = torch.autograd.grad(found, leaves, back)
        return as_found(*found, "qkv", grads)

    rest = "pooled" if rest else "none"
    exact, close = by_blocks("cpu", torch.float64), by_blocks("cpu", dtype)
    monkeypatch.setattr(sparse, "_path", lambda *_: fused)
    found = by_blocks(WHERE, dtype)
    for name, x in found.items():
        is_close(x, close[name], exact[name], exact["lse"], dtype)


@each_rest
@each_dtype
def test_every_dtype_and_grouped_heads_stay_within_their_rounding(dtype, rest):
    check(40, 40, True, rest=rest, B=2, H=4, Hkv=2, dtype=dtype)


@pytest.mark.parametrize("T", [1, 15, 32, 33, 290])
def test_lengths_around_a_block_leave_no_seam(T):
    """The last has more pooled entries than a tile."""
    check(T, T, True, rest=True)


@pytest.mark.parametrize("T, S", [(1, 97), (70, 33), (40, 300)])
def test_a_store_of_blocks_may_have_any_length(T, S):
    check(T, S, False, rest=True, H=2)


@each_order
def test_a_keep_of_more_than_there_is_is_attention(causal):
    """Nothing is left to pool, and every bias is -inf."""
    check(70, 70, causal, rest=True, keep=9, D=64)


@each_rest
@each_order
def test_empty_lists_give_zeros_and_send_back_zeros(causal, rest):
    """With a rest, rows see it alone; if causal, the first rows see nothing."""
    blocks = lists(1, 2, 96, 96, 3, 32, 16, causal)
    blocks[:, 0, :] = -1
    blocks[:, 1, 1] = -1
    check(96, 96, causal, rest=rest, blocks=blocks, H=2)


@each_rest
def test_rows_that_see_nothing_are_zeros_and_minus_infinity(rest):
    """Neither blocks nor, if there are pooled entries, one that is not left out."""
    blocks = torch.full((1, 1, 2, 2), -1, dtype=torch.int32, device=WHERE)
    q, how = torch.randn(1, 1, 40, 16, device=WHERE), (False, 0.25, 32, 16, 16)
    bias = torch.full((1, 1, 2, 3), -torch.inf, device=WHERE)
    pool = (bias, q[:, :, :3], q[:, :, 3:6]) if rest else (None,) * 3
    out, lse = block_forward.launch(q, q, q, blocks, *pool, *how)
    assert (out == 0).all() and lse.isneginf().all()
    at = q, q, q, blocks, *pool, out, lse, q, torch.zeros_like(lse)
    for x in block_backward.launch(*at, *how)[: 5 if rest else 3]:
        assert (x == 0).all()


def test_minus_ones_may_stand_anywhere():
    blocks = torch.tensor([[-1, 2, -1, 0], [1, -1, -1, 3]], dtype=torch.int32)
    check(64, 64, True, blocks=blocks[None, None], rest=True)


def test_a_block_of_the_future_is_not_seen():
    blocks = torch.tensor([[0, 3], [2, 3]], dtype=torch.int32)
    check(64, 64, True, blocks=blocks[None, None])


def test_unlisted_keys_are_never_read():
    blocks = torch.tensor([[0, 2], [1, 2]], dtype=torch.int32)[None, None]
    q, k, v = torch.randn(3, 1, 1, 64, 16, device=WHERE)
    k[:, :, 48:], v[:, :, 48:] = torch.nan, torch.nan
    at = q, k, v, blocks.to(WHERE), None, None, None
    out, lse = block_forward.launch(*at, False, 0.25, 32, 16, 16)
    assert out.isfinite().all() and lse.isfinite().all()


def test_tensors_may_lie_in_memory_as_a_model_leaves_them():
    """(B, T, H, D) transposed: the same numbers."""
    blocks = lists(2, 2, 50, 50, 2, 32, 16, True).to(WHERE)
    q, k, v, dout = torch.randn(4, 2, 50, 2, 16, device=WHERE).transpose(2, 3)
    assert not q.is_contiguous()
    found = []
    for tensors in ((q, k, v, dout), [x.contiguous() for x in (q, k, v, dout)]):
        *qkv, back = tensors
        listed, how = (*qkv, blocks, None, None, None), (True, 0.25, 32, 16, 16)
        out, lse = block_forward.launch(*listed, *how)
        dlse = torch.zeros_like(lse)
        found.append(
            (out, *block_backward.launch(*listed, out, lse, back, dlse, *how)[:3])
        )
    for x, y in zip(*found, strict=True):
        assert x.equal(y)


def test_visitors_are_the_query_blocks_that_list_a_block():
    blocks = lists(2, 3, 160, 160, 4, 32, 16, True)
    offsets, visits = block_backward.visitors(blocks, 10)
    assert offsets.dtype == visits.dtype == torch.int32
    for place in range(2 * 3 * 10):
        line, j = blocks[place // 30, place // 10 % 3], place % 10
        expected = (line == j).any(dim=-1).nonzero().flatten()
        assert visits[offsets[place] : offsets[place + 1]].tolist() == expected.tolist()


def check_decode(length, pages, *, H, D=32, rest=False, dtype=torch.float32, room=256):
    """One query against listed pages of a cache with more room than tokens."""
    heads, page = pages.shape[1], 16
    one = pages[:, :, None].repeat_interleave(H // heads, dim=1)  # (B, H, 1, n)
    given, _ = draw(1, room, one, Hkv=heads, D=D, pool=page, dtype=dtype)
    seen = listed_keys(one, 1, room, 1, page, False)
    seen[..., length:] = False
    bias = rest_of(one, length, 1, page, page, False) if rest else None
    for x in ("k", "v"):  # what lies past the length must not matter
        given[x][:, :, length:] = 7.0
    for x, whole in (("mean_k", "k"), ("mean_v", "v")):
        given[x] = pooled(given[whole][:, :, :length], page).to(dtype).double()

    exact = formula(
        *(given[x] for x in "qkv"), seen, bias, given["mean_k"], given["mean_v"]
    )
    low = {x: y.to(dtype) for x, y in given.items()}
    close = formula(*(low[x] for x in "qkv"), seen, bias, low["mean_k"], low["mean_v"])
    q, k, v, *means = (x.to(WHERE) for x in low.values())
    pool = (bias[:, :: H // heads, 0].to(WHERE), *means) if rest else (None,) * 3
    at = pages.to(WHERE), length, page, D**-0.5
    found = decode.launch(q, k, v, *at, *pool)
    assert found[0].dtype == dtype and found[1].dtype == torch.float32
    for x, y, z in zip(found, close, exact, strict=True):
        assert x.shape == z.shape
        is_close(x, y, z, exact[1], dtype)


PAGES = torch.tensor([[[0, 2, 5, 6, 9], [1, 3, 9, -1, -1]]], dtype=torch.int32)


@each_rest
@each_dtype
def test_decoding_attends_to_the_listed_pages_and_to_the_rest(dtype, rest):
    pages = torch.cat((PAGES, PAGES.flip(1)))
    check_decode(160, pages, H=4, rest=rest, dtype=dtype)


@each_rest
@pytest.mark.parametrize("programs", [1, 4, 512])
@pytest.mark.parametrize("length", [145, 159])
def test_a_split_over_programs_and_a_page_begun_change_nothing(
    length, programs, rest, monkeypatch
):
    monkeypatch.setattr(decode, "PROGRAMS", programs)
    check_decode(length, PAGES, H=2, rest=rest)


@pytest.mark.parametrize("programs", [1, 2, 512])
def test_more_pooled_entries_than_a_tile_are_split_too(programs, monkeypatch):
    monkeypatch.setattr(decode, "ENTRIES", 16)
    monkeypatch.setattr(decode, "PROGRAMS", programs)
    pages = torch.tensor([[[0, 14, 50]]], dtype=torch.int32)
    check_decode(900, pages, H=1, rest=True, room=1024)
    check_decode(1024, pages, H=20, D=16, rest=True, room=1024)


def test_decoding_with_no_page_gives_zeros():
    pages = torch.full((1, 1, 3), -1, dtype=torch.int32, device=WHERE)
    q, k = torch.ones(1, 4, 1, 16, device=WHERE), torch.ones(1, 1, 64, 16, device=WHERE)
    out, lse = decode.launch(q, k, k, pages, 50, 16, 0.25, None, None, None)
    assert (out == 0).all() and lse.isneginf().all()


@each_rest
@each_dtype
@pytest.mark.parametrize("length", [289, 304, 1000])
def test_decoding_from_a_cache_is_that_of_the_other_path(
    length, dtype, rest, monkeypatch
):
    """Two heads to each of keys, and lengths at a page's begin, end and middle."""
    torch.manual_seed(0)
    q, *kv = (torch.randn(2, H, n, 32) for H, n in ((4, 1), (2, length), (2, length)))
    q, k, v = (x.to(dtype).double() for x in (q, *kv))

    def by_decode(where, kind):
        cache = PagedCache(2, 2, 32, 1024, page=16, dtype=kind, device=where)
        cache.append(k.to(where, kind), v.to(where, kind))
        rests = "pooled" if rest else "none"
        return sparse_decode(q.to(where, kind), cache, 80, rest=rests, dense_below=0)

    exact, close = by_decode("cpu", torch.float64), by_decode("cpu", dtype)
    monkeypatch.setattr(paged, "has_kernels", lambda *_: True)
    monkeypatch.setattr(paged, "_gathered", None)
    found = by_decode(WHERE, dtype)
    assert found.dtype == dtype and found.shape == q.shape
    is_close(found, close, exact, torch.zeros(1), dtype)


def test_decoding_in_a_width_of_no_power_of_2_is_made_to_fit():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, n, 24, device=WHERE) for n in (1, 70, 70))
    cache = PagedCache(1, 2, 24, 80, page=16, device=WHERE)
    cache.append(k, v)
    pages = torch.arange(5, device=WHERE).expand(1, 2, 5)
    found = fused.decode_listed(q, cache, pages, None)
    seen = torch.ones(1, 2, 1, 70, dtype=torch.bool)
    exact = formula(*(x.double().cpu() for x in (q, k, v)), seen)
    close = formula(*(x.cpu() for x in (q, k, v)), seen)
    assert found.shape == q.shape
    is_close(found, close[0], exact[0], exact[1], torch.float32)
