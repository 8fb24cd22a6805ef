"""Patterns: each is what its paper says, and its blocks and its count say the same."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from test_bad_input import explains

from sparse_attn.patterns import (
    Blockwise,
    Causal,
    Columns,
    Every,
    First,
    Full,
    Globals,
    Named,
    Random,
    SameBlock,
    Window,
    best_height,
    bigbird,
    blocks,
    fixed,
    flex_attention,
    global_local,
    imposed,
    lambda_shaped,
    longformer_heads,
    sliding_window,
    sparse_attention,
    strided,
)
from sparse_attn.patterns.drawn import _drawn

RAGGED = (1, 2, 6, 63, 97, 300)
each_length = pytest.mark.parametrize("T", RAGGED)
steady = settings(max_examples=150)


def strided_of_the_paper(q, k, T, stride=7):
    """Child et al. 2019, section 4.3: A1 = {t, ..., i}, A2 = {j: (i - j) mod l = 0}."""
    first = k in range(max(0, q - stride), q + 1)
    return first or (k <= q and (q - k) % stride == 0)


def fixed_of_the_paper(q, k, T, size=8, count=3):
    """The same: A1 = {j: ⌊j/l⌋ = ⌊i/l⌋}, A2 = {j: j mod l in {l - c, ..., l - 1}}."""
    return k <= q and (k // size == q // size or k % size in range(size - count, size))


def blocks_of_the_paper(q, k, T, n=4, shift=1):
    """Qiu et al. 2020, section 3: the permutation π sends block i to block π(i)."""
    size = math.ceil(T / n)
    return [*range(shift, n), *range(shift)][q // size] == k // size


def globals_of_the_paper(q, k, T, positions=(-1, 5, 99, -98)):
    """Zaheer et al. 2020, section 2: tokens that see all and that all see."""
    text = list(range(T))
    at = [text[p] for p in positions if -T <= p < T]
    return q in at or k in at


def among(q, k, T, radius=2, positions=(0, -1, 9)):
    """The same beside a window."""
    return abs(q - k) <= radius or globals_of_the_paper(q, k, T, positions)


PAPERS = {  # name: (pattern, the same rule (q, k, T) -> bool, said without tensors)
    "full": (Full(), lambda q, k, T: True),
    "causal": (Causal(), lambda q, k, T: k <= q),
    "window": (Window(5, 2), lambda q, k, T: q - 5 <= k <= q + 2),
    "own key": (Window(0), lambda q, k, T: q == k),
    "ahead": (Window(0, 4), lambda q, k, T: k in range(q, q + 5)),
    "sliding": (sliding_window(9), lambda q, k, T: k in range(q - 8, q + 1)),
    "dilated": (Window(2, 2, 3), lambda q, k, T: k - q in (-6, -3, 0, 3, 6)),
    "far": (Window(3, 1, 40), lambda q, k, T: k - q in (-120, -80, -40, 0, 40)),
    "every": (Every(7), lambda q, k, T: k <= q and (q - k) % 7 == 0),
    "seldom": (Every(50), lambda q, k, T: k in range(q, -1, -50)),
    "columns": (Columns(8, 2), lambda q, k, T: k <= q and k % 8 in (6, 7)),
    "own block": (SameBlock(8), lambda q, k, T: q // 8 == k // 8),
    "first": (First(4), lambda q, k, T: k < 4),
    "globals": (Globals((-1, 5, 99, -98)), globals_of_the_paper),
    "strided": (strided(7), strided_of_the_paper),
    "fixed": (fixed(8, 3), fixed_of_the_paper),
    "lambda": (lambda_shaped(9, 4), lambda q, k, T: k <= q and (q - k < 9 or k < 4)),
    "itc": (global_local((0, -1, 9), 2), among),
    "etc": (global_local(3, 2), lambda q, k, T: among(q, k, T, 2, (0, 1, 2))),
    "permuted": (Blockwise(4, 1), blocks_of_the_paper),
    "16 blocks": (Blockwise(16), lambda q, k, T: blocks_of_the_paper(q, k, T, 16, 0)),
    "words": (Window(1).of_blocks(5), lambda q, k, T: 0 <= q // 5 - k // 5 <= 1),
    "none": (~Full(), lambda q, k, T: False),
}  # fmt: skip
each_paper = pytest.mark.parametrize("pattern, rule", PAPERS.values(), ids=PAPERS)
COMPUTED = [one for one, _ in PAPERS.values()] + [
    Random(3, seed=1),
    Random(2, among=Causal() & ~Window(2)),
    bigbird(8, 2),
    Random(3, seed=2).of_blocks(5),
    ~strided(5) & Causal(),
]


@each_length
@each_paper
def test_a_pattern_is_what_its_paper_says(pattern, rule, T):
    expected = [[bool(rule(q, k, T)) for k in range(T)] for q in range(T)]
    assert pattern.mask(T).tolist() == expected


@each_length
@pytest.mark.parametrize("pattern", COMPUTED, ids=str)
def test_its_pairs_are_counted_without_its_mask(pattern, T):
    assert pattern.pairs(T) == pattern.mask(T).sum()


def test_at_lengths_around_every_corner_too():
    """Closed forms change where a window, a block or the sinks outgrow the text."""
    for pattern in COMPUTED:
        for T in range(1, 45):
            assert pattern.pairs(T) == pattern.mask(T).sum(), (pattern, T)


def the_blocks_are_those_of(mask, pattern, block_q, block_k):
    """Everything that `blocks` says, against the mask cut into blocks."""
    T = len(mask)
    rows, columns = math.ceil(T / block_q), math.ceil(T / block_k)
    # No key lies past the text; a query past it, in the last row, is as the last one.
    tiles = np.pad(mask, ((0, rows * block_q - T), (0, 0)), mode="edge")
    tiles = np.pad(tiles, ((0, 0), (0, columns * block_k - T)))
    tiles = tiles.reshape(rows, block_q, columns, block_k).swapaxes(1, 2)
    some, full = tiles.any((2, 3)), tiles.all((2, 3))
    size = np.minimum(block_q, T - block_q * np.arange(rows))[:, None]
    size = size * np.minimum(block_k, T - block_k * np.arange(columns))

    near = pattern.near(T, block_q, block_k)
    assert near.shape == (rows, columns) and near.dtype == torch.bool
    assert near.numpy()[some].all()

    found = blocks(pattern, T, block_q, block_k)
    assert np.array_equal(np.argwhere(some), torch.stack((found.row, found.column), 1))
    assert np.array_equal(found.full, full[some])
    assert found.pairs == mask.sum() and found.listed == some.sum()
    assert np.array_equal(found.counts, some.sum(1))
    for row, (first, n) in enumerate(zip(found.first, found.counts, strict=True)):
        assert (found.row[first : first + n] == row).all()
    inside = found.inside[found.partial[~found.full]]
    assert np.array_equal(inside, tiles[some & ~full])
    assert np.array_equal(found.blind, ~mask.any(1))
    assert found.is_full == mask.all()
    assert found.is_causal == np.array_equal(mask, np.tri(T, dtype=bool))
    assert found.share == some.mean()
    computed = size[some].sum()
    thrown_away = (computed - mask.sum()) / computed if computed else 0
    assert found.waste == pytest.approx(thrown_away, abs=1e-12)
    edges = torch.stack(found.edges(), 1).tolist()
    assert sorted(edges) == np.argwhere(mask).tolist()


@pytest.mark.parametrize("block_q, block_k", [(7, 5), (1, 3), (16, 31), (128, 64)])
@each_length
@pytest.mark.parametrize("pattern", COMPUTED, ids=str)
def test_its_blocks_are_those_of_its_mask(pattern, T, block_q, block_k):
    if block_q * block_k >= 35 or T < 100:
        the_blocks_are_those_of(pattern.mask(T).numpy(), pattern, block_q, block_k)


@pytest.mark.parametrize("block_q, block_k", [(1, 1), (4, 4), (7, 5)])
def test_as_many_pairs_as_causal_but_after_the_query_are_not_causal(block_q, block_k):
    for pattern in (Window(0, 20), ~Causal() | Window(0)):
        assert pattern.pairs(20) == Causal().pairs(20)
        the_blocks_are_those_of(pattern.mask(20).numpy(), pattern, block_q, block_k)


@pytest.mark.parametrize(
    "pattern", [Window(5, 2), Window(3, 1, 40), Every(50), Columns(64, 2)], ids=str
)
def test_between_keys_far_apart_no_block_is_looked_at(pattern):
    for block_q, block_k in ((16, 8), (7, 5), (64, 16)):
        near = pattern.near(300, block_q, block_k)
        found = blocks(pattern, 300, block_q, block_k)
        assert near.nonzero().equal(torch.stack((found.row, found.column), 1))


few = st.integers(1, 9)
LEAVES = st.one_of(
    st.just(Full()),
    st.just(Causal()),
    st.builds(Window, st.integers(0, 9), st.integers(0, 9), st.integers(1, 30)),
    st.builds(Every, st.integers(1, 40)),
    st.builds(lambda a, b: Columns(max(a, b), min(a, b)), few, few),
    st.builds(lambda n, shift: Blockwise(n, shift % n), few, st.integers(0, 8)),
    st.builds(SameBlock, st.integers(1, 40)),
    st.builds(First, few),
    st.builds(Globals, st.lists(st.integers(-50, 50), min_size=1, max_size=4)),
    st.builds(Random, few, few),
    st.builds(strided, few),
    st.builds(lambda a, b: fixed(max(a, b), min(a, b)), few, few),
    st.builds(lambda_shaped, few, few),
    st.builds(global_local, few, few),
    st.builds(bigbird, few, few),
)
# Each with its mask by NumPy: (pattern, T -> (T, T) bool)
SAID_TWICE = st.recursive(
    LEAVES.map(lambda a: (a, lambda T: a.mask(T).numpy())),
    lambda inner: st.one_of(
        inner.map(lambda a: (~a[0], lambda T: ~a[1](T))),
        st.builds(
            lambda a, b: (a[0] & b[0], lambda T: a[1](T) & b[1](T)), inner, inner
        ),
        st.builds(
            lambda a, b: (a[0] | b[0], lambda T: a[1](T) | b[1](T)), inner, inner
        ),
        st.builds(
            lambda a, n: (a[0].of_blocks(n), lambda T: enlarged(a[1], n, T)), inner, few
        ),
    ),
    max_leaves=4,
)


def enlarged(mask, n, T):
    """Each entry of the coarse mask as n x n entries, cut where the text ends."""
    return np.kron(mask(math.ceil(T / n)), np.ones((n, n), dtype=bool))[:T, :T]


@steady
@given(SAID_TWICE, st.integers(1, 130), st.integers(1, 40), st.integers(1, 40))
def test_whatever_is_composed_has_the_mask_pairs_and_blocks_of_its_parts(
    composed, T, block_q, block_k
):
    pattern, mask = composed[0], composed[1](T)
    assert np.array_equal(pattern.mask(T), mask)
    assert pattern.pairs(T) == mask.sum()
    the_blocks_are_those_of(mask, pattern, block_q, block_k)


def test_patterns_made_alike_are_equal_so_that_their_blocks_are_kept():
    def make():
        seldom = Random(2, seed=4, among=~Window(1))
        return (strided(8) | Globals((0,))) & ~seldom.of_blocks(3)

    assert make() == make() and make() != make() | Causal()
    assert Random(2) != Random(2, seed=1) and First(3) != SameBlock(3)
    assert blocks(make(), 50) is blocks(make(), 50)


def test_a_name_changes_nothing_but_the_name():
    named = Named("near", Window(2), lambda T: Window(2).pairs(T))
    assert str(named) == "near" and named != Window(2)
    the_blocks_are_those_of(Window(2).mask(30).numpy(), named, 7, 5)


# The counts that the slides print.


@pytest.mark.parametrize("T", [4, 6, 7, 512])
def test_windows_of_3_and_5_keys_count_as_on_the_slides(T):
    assert Window(1, 1).pairs(T) == 3 * T - 2
    assert Window(2, 2).pairs(T) == 5 * T - 6


def test_the_slides_count_16_24_and_21_pairs_of_36_and_131_328_at_512():
    assert [one.pairs(6) for one in (Window(1, 1), Window(2, 2))] == [16, 24]
    assert Causal().pairs(6) == 21 and Causal().pairs(512) == 131_328


def test_a_global_first_token_adds_its_row_and_its_column():
    near, T = Window(1, 1), 7
    row_only = near.mask(T)
    row_only[0] = True  # the first sees all, all do not see it
    assert row_only.sum() == 24
    assert (near | ~First(1) & Window(0, T) & Globals((0,))).pairs(T) == 24
    assert (near | Globals((0,))).pairs(T) == global_local(1, 1).pairs(T) == 29


@pytest.mark.parametrize("n, percent", [(2, 50), (4, 25), (8, 12.5), (16, 6.25)])
def test_permuted_blocks_keep_one_nth_and_all_shifts_cover_everything_once(n, percent):
    T = 16 * n
    seen = torch.stack([Blockwise(n, shift).mask(T) for shift in range(n)])
    assert (100 * seen.flatten(1).double().mean(1) == percent).all()
    assert {Blockwise(n, shift).pairs(T) for shift in range(n)} == {T * T // n}
    assert (seen.sum(0) == 1).all()


@pytest.mark.parametrize("n", [3, 5, 16, 40])
def test_ragged_blocks_cover_everything_once_too(n):
    seen = sum(Blockwise(n, shift).mask(37).int() for shift in range(n))
    assert (seen == 1).all()


def test_two_strides_reach_everything_in_two_hops_and_one_does_not():
    reached = strided(8).mask(64).double()
    assert not reached.bool().equal(Causal().mask(64))
    assert (reached @ reached).bool().equal(Causal().mask(64))


@pytest.mark.parametrize("r", [1, 3])
@pytest.mark.parametrize("T", [96, 93])
def test_bigbird_sees_first_last_neighbors_and_exactly_r_blocks_of_the_rest(T, r):
    n, block = 12, 8
    mask = bigbird(block, r, seed=3).mask(T)
    at = torch.arange(n) * block
    seen = mask[at][:, at]
    assert enlarged(lambda _: seen.numpy(), block, T).tolist() == mask.tolist()
    rest = []
    for i, row in enumerate(seen.tolist()):
        keys = {j for j in range(n) if row[j]}
        near = {0, n - 1, i - 1, i, i + 1} & set(range(n))
        assert near <= keys
        if i in (0, n - 1):
            assert keys == set(range(n))
        else:
            assert len(keys - near) == r
            rest.append(frozenset(keys - near))
    assert len(set(rest)) > 1  # drawn for each row


def test_bigbird_is_full_when_there_is_no_more_to_draw_from():
    assert bigbird(8, 1).mask(32).all() and bigbird(8, 50).mask(100).all()
    assert not bigbird(8, 1).mask(48).all()


def test_the_last_heads_of_longformer_are_dilated():
    near, far = Window(4, 4), Window(4, 4, 3)
    heads = longformer_heads(4, 4, dilated=1, gap=3)
    assert heads == (near, near, near, far)
    assert longformer_heads(2, 4, dilated=2, gap=3) == (far, far)
    assert longformer_heads(2, 4, dilated=0, gap=3) == (near, near)


# Random keys.


@pytest.mark.parametrize("allowed", [Full(), Causal(), ~Window(3, 3)], ids=str)
@pytest.mark.parametrize("degree", [1, 5, 200])
@each_length
def test_each_query_draws_as_many_different_allowed_keys_as_there_are(
    degree, allowed, T
):
    pattern = Random(degree, seed=7, among=allowed)
    mask, may = pattern.mask(T), allowed.mask(T)
    assert not (mask & ~may).any()
    assert mask.sum(1).equal(may.sum(1).clamp(max=degree))


def test_a_seed_gives_one_draw_and_another_seed_another():
    kept = Random(5, seed=3).drawn(100).sort(dim=1).values
    Random(5, seed=4).drawn(100)
    _drawn.cache_clear()
    again = Random(5, seed=3).drawn(100).sort(dim=1).values
    other = Random(5, seed=4).drawn(100).sort(dim=1).values
    assert again.equal(kept)
    # Two of 100 sets out of C(100, 5) = 75 million are alike once in 15,000 seeds.
    assert len({tuple(row) for row in kept.tolist() + other.tolist()}) == 200


def test_a_draw_is_the_one_the_book_was_computed_with_and_takes_no_one_s_numbers():
    before = torch.get_rng_state()
    _drawn.cache_clear()
    drawn = Random(2, seed=0).drawn(6).sort(dim=1).values
    assert torch.get_rng_state().equal(before)
    assert drawn.tolist() == [[1, 5], [1, 3], [4, 5], [3, 5], [1, 2], [0, 1]]


@pytest.mark.parametrize("allowed", [Full(), Causal()], ids=str)
def test_every_allowed_key_is_drawn_equally_often(allowed):
    """Chi-square of how often query q drew key k; seeds are fixed, so is the verdict.

    d of n without repetition vary less than d times 1 of n, by (n - d) / (n - 1).
    """
    T, degree, draws = 12, 3, 1000
    drawn = sum(
        Random(degree, seed, among=allowed).mask(T).int() for seed in range(draws)
    )
    off, freedom = 0.0, 0
    for row, may in zip(drawn.tolist(), allowed.mask(T).tolist(), strict=True):
        n = sum(may)
        if n > degree:
            expected = draws * degree / n
            squares = sum((x - expected) ** 2 for x in row[:n]) / expected
            off += squares * (n - 1) / (n - degree)
            freedom += n - 1
    assert freedom > 60
    assert 1e-3 < chi2.sf(off, freedom) < 1 - 1e-3


# The same words elsewhere.


def of_transformers(function, T):
    at = torch.arange(T)
    return function(0, 0, at[:, None], at).broadcast_to(T, T)


@pytest.mark.parametrize("W", [1, 2, 7, 64, 500])
def test_a_sliding_window_is_that_of_transformers(W):
    masks = pytest.importorskip("transformers.masking_utils")
    theirs = masks.sliding_window_causal_mask_function(W)
    assert sliding_window(W).mask(97).equal(of_transformers(theirs, 97))
    theirs = masks.sliding_window_bidirectional_mask_function(W)
    assert Window(W, W).mask(97).equal(of_transformers(theirs, 97))


# Errors.


def x(*shape):
    return torch.ones(shape or (1, 2, 5, 8))


def entered(pattern):
    class OfNoLayers:
        blocks = ()

    with imposed(OfNoLayers(), pattern):
        pass


def heads(dilated=1, **changed):
    how = dict(heads=2, radius=1, gap=2) | changed
    return longformer_heads(how.pop("heads"), how.pop("radius"), dilated=dilated, **how)


ERRORS = {
    "strided": (lambda: strided(0), "stride", 0),
    "strided backwards": (lambda: strided(-1), "stride", -1),
    "strided by half": (lambda: strided(2.5), "stride", 2.5),
    "fixed": (lambda: fixed(8, 9), "count", 9),
    "fixed to nothing": (lambda: fixed(0), "size", 0),
    "fixed without columns": (lambda: fixed(8, 0), "count", 0),
    "window": (lambda: Window(-1), "left", -1),
    "window ahead": (lambda: Window(1, -1), "right", -1),
    "window gap": (lambda: Window(1, 1, 0), "gap", 0),
    "sliding window": (lambda: sliding_window(0), "keys", 0),
    "every": (lambda: Every(0), "stride", 0),
    "columns": (lambda: Columns(3, 4), "count", 4),
    "columns of nothing": (lambda: Columns(0), "size", 0),
    "own block": (lambda: SameBlock(0), "size", 0),
    "first": (lambda: First(0), "count", 0),
    "no globals": (lambda: Globals(()), "positions", "()"),
    "a global number": (lambda: Globals(5), "positions", 5),
    "a global between": (lambda: Globals((1.5,)), "positions", 1.5),
    "globals in words": (lambda: Globals("12"), "positions", "'12'"),
    "blocks": (lambda: Blockwise(0), "n", 0),
    "shift": (lambda: Blockwise(4, 4), "shift", 4),
    "random": (lambda: Random(0), "degree", 0),
    "random seed": (lambda: Random(2, -1), "seed", -1),
    "random among": (lambda: Random(2, 0, 3), "among", 3),
    "lambda window": (lambda: lambda_shaped(0, 2), "window", 0),
    "lambda sinks": (lambda: lambda_shaped(2, 0), "sinks", 0),
    "global tokens": (lambda: global_local(0, 2), "positions", 0),
    "no global places": (lambda: global_local((), 2), "positions", "()"),
    "half a global": (lambda: global_local(2.5, 1), "positions", 2.5),
    "local radius": (lambda: global_local(2, -1), "radius", -1),
    "bigbird block": (lambda: bigbird(0, 1), "block", 0),
    "bigbird random": (lambda: bigbird(8, 0), "random", 0),
    "bigbird seed": (lambda: bigbird(8, 1, seed=-1), "seed", -1),
    "heads": (lambda: heads(heads=0), "heads", 0),
    "heads radius": (lambda: heads(radius=-1), "radius", -1),
    "heads gap": (lambda: heads(gap=0), "gap", 0),
    "dilated heads": (lambda: heads(dilated=3), "dilated", 3),
    "dilated words": (lambda: heads(dilated="a"), "dilated", "'a'"),
    "or": (lambda: Causal() | 3, "other", 3),
    "and": (lambda: Causal() & None, "other", None),
    "of blocks": (lambda: Causal().of_blocks(0), "size", 0),
    "mask": (lambda: Causal().mask(0), "T", 0),
    "pairs": (lambda: Full().pairs(-2), "T", -2),
    "named pairs": (lambda: strided(3).pairs(2.5), "T", 2.5),
    "blocks of T": (lambda: blocks(Causal(), 0), "T", 0),
    "blocks of what": (lambda: blocks(3, 5), "pattern", 3),
    "block of queries": (lambda: blocks(Causal(), 5, 0), "block_q", 0),
    "block of keys": (lambda: blocks(Causal(), 5, 4, 2.5), "block_k", 2.5),
    "height": (lambda: best_height(Causal(), 0), "T", 0),
    "height of what": (lambda: best_height("x", 5), "pattern", "'x'"),
    "heights": (
        lambda: sparse_attention(x(), x(), x(), Causal(), block_q=0),
        "block_q",
        0,
    ),
    "widths": (
        lambda: sparse_attention(x(), x(), x(), Causal(), block_k=0),
        "block_k",
        0,
    ),
    "imposed": (lambda: entered(3), "pattern", 3),
    "imposed heads": (lambda: entered([Causal(), 3]), "pattern", 3),
}


@pytest.mark.parametrize("call, name, got", ERRORS.values(), ids=ERRORS)
def test_what_does_not_fit_is_explained(call, name, got):
    explains(call, name, got)


@pytest.mark.parametrize("attend", [sparse_attention, flex_attention])
def test_attention_explains_patterns_and_lengths_that_do_not_fit(attend):
    for pattern in (3, None, [Causal()], [Causal()] * 3, [Causal(), 3], "ab"):
        explains(lambda pattern=pattern: attend(x(), x(), x(), pattern), "pattern", 2)
    explains(lambda: attend(x(1, 2, 3, 8), x(), x(), Causal()), "k", "3 queries")
    explains(lambda: attend(x(), x(), x(1, 2, 4, 8), Causal()), "v", (1, 2, 4, 8))
