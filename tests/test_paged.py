"""Decoding from pages: the cache, the choice of pages by loops, every path alike."""

from functools import partial

import pytest
import torch
from oracle import off
from test_apple_safety import LikeMPS
from test_bad_input import META, explains

from sparse_attn.attention import attention
from sparse_attn.kernels import PagedCache, sparse_decode
from sparse_attn.kernels.compiled import attend_pages
from sparse_attn.kernels.paged import CROSSOVER
from sparse_attn.layers import fused_attention

pytestmark = pytest.mark.usefixtures("one_thread")
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
each_dtype = pytest.mark.parametrize("dtype", FLOATS, ids=str)
each_rest = pytest.mark.parametrize("rest", ["none", "pooled"])
each_group = pytest.mark.parametrize("H, Hkv", [(2, 2), (4, 2), (4, 1)])
ENDS = (161, 175, 176, 177, 191, 192, 193)  # around the ends of pages of 16
PAGE, D = 16, 8


def drawn(L, H=4, Hkv=2, *, B=2, dtype=torch.float32, seed=0):
    """q (B, H, 1, D) and the past, (B, Hkv, L, D) each."""
    torch.manual_seed(seed)
    q = torch.randn(B, H, 1, D)
    k, v = torch.randn(2, B, Hkv, L, D)
    return tuple(y.to(dtype) for y in (q, k, v))


def filled(k, v, *, page=PAGE, room=30):
    B, Hkv, L, _ = k.shape
    cache = PagedCache(B, Hkv, D, L + room, page=page, dtype=k.dtype)
    cache.append(k, v)
    return cache


PATHS = {"gathered": None, "in fixed shapes": attend_pages}
each_path = pytest.mark.parametrize("kernel", PATHS.values(), ids=PATHS)


# The cache


@each_dtype
@pytest.mark.parametrize("sizes", [[100], [1] * 40, [5, 1, 11, 1, 16, 33, 1, 15, 1]])
def test_a_cache_holds_the_past_and_its_sums_however_it_came(sizes, dtype):
    _, k, v = drawn(sum(sizes), dtype=dtype)
    cache = PagedCache(2, 2, D, 100, page=PAGE, dtype=dtype)
    assert (cache.length, cache.pages, cache.capacity) == (0, 0, 112)
    for new_k, new_v in zip(k.split(sizes, 2), v.split(sizes, 2), strict=True):
        cache.append(new_k, new_v)
    L = sum(sizes)
    assert (cache.length, cache.pages) == (L, -(-L // PAGE))
    kept = ((cache.k, cache.key_sums, k), (cache.v, cache.value_sums, v))
    for there, sums, given in kept:
        assert torch.equal(there[:, :, :L], given) and there.dtype == dtype
        assert sums.dtype == torch.float32
        parts = given.double().split(PAGE, dim=2)
        exact = torch.stack([part.sum(dim=2) for part in parts], dim=2)
        size = torch.stack([part.double().abs().sum(dim=2) for part in parts], dim=2)
        rounding = PAGE * torch.finfo(torch.float32).eps * size
        assert (off(sums[:, :, : cache.pages], exact) <= rounding).all()
        assert not sums[:, :, cache.pages :].any()


def test_float64_is_summed_in_float64():
    assert PagedCache(1, 1, D, 5, dtype=torch.float64).key_sums.dtype == torch.float64


@pytest.mark.parametrize("n", [1, 5])
def test_tokens_that_do_not_fit_are_refused_and_change_nothing(n):
    _, k, v = drawn(32)
    cache = PagedCache(2, 2, D, 30, page=PAGE)  # rounded up to 32
    cache.append(k[:, :, : 33 - n], v[:, :, : 33 - n])
    before = [y.clone() for y in (cache.k, cache.v, cache.key_sums, cache.value_sums)]
    new = k[:, :, :n]
    explains(lambda: cache.append(new, new), "k", f"{n} tokens: {n - 1} fit the 32")
    after = cache.k, cache.v, cache.key_sums, cache.value_sums
    assert all(map(torch.equal, before, after)) and cache.length == 33 - n
    if n > 1:
        cache.append(new[:, :, 1:], new[:, :, 1:])
    assert cache.length == cache.capacity


def test_what_is_appended_leaves_its_graph_behind():
    _, k, v = drawn(20)
    k.requires_grad_()
    cache = PagedCache(2, 2, D, 40, page=PAGE)
    cache.append(k[:, :, :19], v[:, :, :19])
    cache.append(k[:, :, 19:], v[:, :, 19:])
    assert not any(y.requires_grad for y in (cache.k, cache.key_sums))


# Which pages, and what is computed with them


def chosen_pages(q, k, n, *, sinks=1, local=1):
    """(B, Hkv, n) by loops: those always in, then the best score among the heads."""
    (B, Hkv, L, _), found = k.shape, []
    last, groups = (L - 1) // PAGE, q.shape[1] // k.shape[1]
    forced = {last, *range(max(0, last - local), last), *range(min(sinks, last))}
    assert len(forced) <= n
    for b in range(B):
        for h in range(Hkv):
            asks = q[b, h * groups : (h + 1) * groups, 0].double()
            means = [part.double().mean(dim=0) for part in k[b, h].split(PAGE)]
            best = {j: (asks @ means[j]).max().item() for j in range(last)}
            others = sorted(set(best) - forced, key=lambda j: -best[j])
            found.append(sorted(forced | set(others[: n - len(forced)])))
    return torch.tensor(found).view(B, Hkv, n)


def formula(q, k, v, pages, rest):
    """Attention over the tokens of these pages, and the means of the others."""
    Hkv, L = k.shape[1:3]
    page = torch.arange(L) // PAGE
    seen = (page == pages[..., None]).any(dim=2)[:, :, None]  # (B, Hkv, 1, L)
    bias = torch.zeros(seen.shape, dtype=q.dtype)
    if rest == "pooled":
        full = L // PAGE
        mean = [y[:, :, : full * PAGE].unflatten(2, (-1, PAGE)).mean(3) for y in (k, v)]
        k, v = (torch.cat(pair, dim=2) for pair in zip((k, v), mean, strict=True))
        others = (torch.arange(full) != pages[..., None]).all(dim=2)[:, :, None]
        others[..., (L - 1) // PAGE :] = False
        seen = torch.cat((seen, others), dim=3)
        more = torch.full(others.shape, PAGE, dtype=torch.float64).log().to(q.dtype)
        bias = torch.cat((bias, more), dim=3)
    k, v, seen, bias = (
        y.repeat_interleave(q.shape[1] // Hkv, dim=1) for y in (k, v, seen, bias)
    )
    scores = (D**-0.5 * (q @ k.mT) + bias).masked_fill(~seen, -torch.inf)
    return scores.softmax(dim=-1) @ v


def is_close(out, q, k, v, pages, rest):
    """At most twice the error of the formula in the same precision, or, where that is
    lucky, of one rounding of values and of scores up to 8."""
    exact = formula(*(y.double() for y in (q, k, v)), pages, rest)
    rough = formula(q, k, v, pages, rest)
    least = torch.finfo(q.dtype).eps + 8 * torch.finfo(torch.float32).eps
    budget = 2 * max(off(rough, exact).max(), least * v.double().abs().max())
    assert out.shape == q.shape and out.dtype == q.dtype
    assert off(out, exact).max() <= budget


@each_path
@each_rest
@each_group
@pytest.mark.parametrize("L", ENDS)
def test_a_query_attends_to_the_pages_of_the_rule_by_loops(L, H, Hkv, rest, kernel):
    q, k, v = drawn(L, H, Hkv)
    cache = filled(k, v)
    decode = partial(sparse_decode, q, cache, rest=rest, dense_below=0, kernel=kernel)
    for n, more in ((3, {}), (6, {}), (4, dict(sinks=2, local=0)), (5, dict(local=3))):
        out = decode(n * PAGE, **more)
        is_close(out, q, k, v, chosen_pages(q, k, n, **more), rest)


@each_path
@each_rest
@each_dtype
def test_every_dtype_stays_within_its_rounding(dtype, rest, kernel):
    for L in (177, 192):
        q, k, v = drawn(L, dtype=dtype)
        cache = filled(k, v)
        pages = chosen_pages(q, k, 5)
        out = sparse_decode(q, cache, 5 * PAGE, rest=rest, dense_below=0, kernel=kernel)
        is_close(out, q, k, v, pages, rest)


@each_path
@each_rest
def test_token_by_token_it_is_attention_over_the_same_pages(rest, kernel):
    """The room that is kept for pages holds nothing of the token before."""
    q, k, v = drawn(230)
    cache = filled(k[:, :, :150], v[:, :, :150], room=80)
    for L in range(151, 231):
        cache.append(k[:, :, L - 1 : L], v[:, :, L - 1 : L])
        n = 4 if L % 7 else 6  # and a room of another size now and then
        how = dict(rest=rest, dense_below=0, kernel=kernel)
        out = sparse_decode(q, cache, n * PAGE, **how)
        past = k[:, :, :L], v[:, :, :L]
        is_close(out, q, *past, chosen_pages(q, past[0], n), rest)


@each_path
def test_one_page_is_the_one_being_filled(kernel):
    q, k, v = drawn(70)
    how = dict(sinks=0, local=0, dense_below=0, kernel=kernel)
    out = sparse_decode(q, filled(k, v), PAGE, **how)
    expected = attention(q, k[:, :, 64:], v[:, :, 64:])
    torch.testing.assert_close(out, expected)


@each_path
@each_rest
def test_a_page_that_one_head_of_a_group_wants_is_found(rest, kernel):
    q, k, v = drawn(320, 4, 1)
    wanted = slice(7 * PAGE, 8 * PAGE)
    q[:, [0, 1, 3]] = -q[:, 2:3]  # the others would rather not, and are three
    k[:, :, wanted] = 10 * torch.nn.functional.normalize(q[:, 2:3], dim=-1)
    how = dict(rest=rest, dense_below=0, kernel=kernel)
    out = sparse_decode(q, filled(k, v), 4 * PAGE, **how)
    pages = chosen_pages(q, k, 4)
    assert (pages == 7).any(dim=-1).all()
    is_close(out, q, k, v, pages, rest)


@each_group
@pytest.mark.parametrize("L", [1, 16, 17, 100])
def test_all_pages_kept_are_attention(L, H, Hkv):
    q, k, v = drawn(L, H, Hkv)
    cache, keep = filled(k, v, room=100), -(-L // PAGE) * PAGE
    how = dict(sinks=0, local=0, dense_below=0)
    for given in (keep, keep + PAGE):
        out = sparse_decode(q, cache, given, **how)
        assert torch.equal(out, fused_attention(q, cache.k[:, :, :L], v))


def test_up_to_the_crossover_attention_is_exact():
    keep = 3 * PAGE
    q, k, v = drawn(CROSSOVER * keep + 1)
    short = filled(k[:, :, :-1], v[:, :, :-1])
    long = filled(k, v)
    dense = fused_attention(q, k[:, :, :-1], v[:, :, :-1])
    assert torch.equal(sparse_decode(q, short, keep), dense)
    listed = sparse_decode(q, short, keep, dense_below=0)
    assert not torch.allclose(listed, dense)
    assert torch.equal(
        sparse_decode(q, short, keep, dense_below=CROSSOVER * keep - 1), listed
    )
    listed = sparse_decode(q, long, keep, dense_below=0)
    assert torch.equal(sparse_decode(q, long, keep), listed)
    dense = fused_attention(q, k, v)
    assert torch.equal(
        sparse_decode(q, long, keep, dense_below=CROSSOVER * keep + 1), dense
    )


@each_path
def test_means_lessen_the_error_of_what_is_dropped(kernel):
    q, k, v = drawn(400)
    exact, cache = attention(*(y.double() for y in (q, k, v))), filled(k, v)
    errors = {}
    for rest in ("none", "pooled"):
        for n in (4, 24):
            how = dict(rest=rest, dense_below=0, kernel=kernel)
            out = sparse_decode(q, cache, n * PAGE, **how)
            errors[rest, n] = off(out, exact).mean()
    assert errors["pooled", 4] < errors["none", 4]
    assert all(errors[rest, 24] < errors[rest, 4] for rest in ("none", "pooled"))


@each_path
@each_rest
def test_large_values_in_fp16_do_not_overflow_in_sums(rest, kernel):
    """Of 16 values of 30,000 the sum is past the range of fp16; their mean is not."""
    q, k, v = drawn(160, dtype=torch.float16)
    v[:] = 30_000
    how = dict(rest=rest, dense_below=0, kernel=kernel)
    out = sparse_decode(q, filled(k, v), 3 * PAGE, **how)
    rounding = 2 * torch.finfo(torch.float16).eps * 30_000
    assert off(out, v[:, :1, :1].double()).max() <= rounding


def test_no_gradient_is_kept():
    q, k, v = drawn(100)
    out = sparse_decode(q.requires_grad_(), filled(k, v), 3 * PAGE, dense_below=0)
    assert not out.requires_grad
    assert not sparse_decode(q, filled(k, v), 112).requires_grad


@each_path
@each_rest
def test_decoding_runs_with_what_mps_has(rest, kernel):
    q, k, v = drawn(100)
    with LikeMPS():
        cache = filled(k, v)
        cache.append(k[:, :, :1], v[:, :, :1])
        how = dict(rest=rest, dense_below=0, kernel=kernel)
        assert sparse_decode(q, cache, 3 * PAGE, **how).isfinite().all()


# Arguments that do not fit


@pytest.mark.parametrize("name", ["B", "Hkv", "D", "capacity", "page"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_a_cache_explains_its_sizes(name, value):
    sizes = dict(B=1, Hkv=1, D=D, capacity=32, page=PAGE) | {name: value}
    explains(lambda: PagedCache(**sizes), name, value)


NEW = torch.ones(2, 2, 3, D)
APPENDED = {
    "k of three axes": ("k", (2, 3, 8), dict(k=NEW[0])),
    "no tokens": ("k", (2, 2, 0, 8), dict(k=NEW[:, :, :0])),
    "fewer values": ("v", (2, 2, 2, 8), dict(v=NEW[:, :, :2])),
    "values in another dtype": ("v", "torch.float16", dict(v=NEW.half())),
    "another batch": ("k", (1, 2, 3, 8), dict(k=NEW[:1], v=NEW[:1])),
    "other heads": ("k", (2, 1, 3, 8), dict(k=NEW[:, :1], v=NEW[:, :1])),
    "another width": ("k", (2, 2, 3, 4), dict(k=NEW[..., :4], v=NEW[..., :4])),
    "another dtype": ("k", "torch.float16", dict(k=NEW.half(), v=NEW.half())),
    "elsewhere": ("k", "meta", dict(k=NEW.to(META), v=NEW.to(META))),
    "too many": ("k", 3, dict(k=NEW, v=NEW)),
}


@pytest.mark.parametrize("name, got, changed", APPENDED.values(), ids=APPENDED)
def test_appending_explains(name, got, changed):
    cache = PagedCache(2, 2, D, 2, page=2)
    explains(lambda: cache.append(**dict(k=NEW, v=NEW) | changed), name, got)
    assert not cache.length and not cache.k.any() and not cache.key_sums.any()


ONE = torch.ones(2, 4, 1, D)
DECODED = {
    "q of three axes": ("q", (4, 1, 8), dict(q=ONE[0])),
    "two queries": ("q", (2, 4, 2, 8), dict(q=ONE.expand(2, 4, 2, D))),
    "another batch": ("q", (1, 4, 1, 8), dict(q=ONE[:1])),
    "heads that do not group": ("q", (2, 3, 1, 8), dict(q=ONE[:, :3])),
    "another width": ("q", (2, 4, 1, 4), dict(q=ONE[..., :4])),
    "another dtype": ("q", "torch.float16", dict(q=ONE.half())),
    "elsewhere": ("q", "meta", dict(q=ONE.to(META))),
    "whole numbers": ("q", "torch.int64", dict(q=ONE.long())),
    "no such rest": ("rest", "'mlp'", dict(rest="mlp")),
    "an empty cache": ("cache", "empty", dict(cache=PagedCache(2, 2, D, 8, page=4))),
    "keep below a page": ("keep", 8, dict(keep=8)),
    "keep is no whole page": ("keep", 40, dict(keep=40)),
    "keep is a fraction": ("keep", 32.0, dict(keep=32.0)),
    "sinks are negative": ("sinks", -1, dict(sinks=-1)),
    "local is a fraction": ("local", 0.5, dict(local=0.5)),
    "keep below what is always in": ("keep", 32, dict(keep=32)),
    "dense_below is negative": ("dense_below", -1, dict(dense_below=-1)),
}


@pytest.mark.parametrize("name, got, changed", DECODED.values(), ids=DECODED)
def test_decoding_explains(name, got, changed):
    call = dict(q=ONE, cache=filled(NEW, NEW), keep=3 * PAGE) | changed
    explains(lambda: sparse_decode(**call), name, got)
