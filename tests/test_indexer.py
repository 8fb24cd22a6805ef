"""Selectors against brute force; what learns, learns; a model gets its scores back."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import draw
from small_gpt import SMALL, lively, text
from test_apple_safety import LikeMPS
from test_bad_input import explains

from sparse_attn import indexer, kernels
from sparse_attn.attending import attending
from sparse_attn.attention import attention, attention_weights, causal_mask
from sparse_attn.decoding import Cache
from sparse_attn.indexer import Mass, pairs_of
from sparse_attn.indexer.learned import BUCKETS, bucket
from sparse_attn.layers import window_mask
from sparse_attn.metrics import attention_recall, relative_error

pytestmark = pytest.mark.usefixtures("one_thread")
steady = settings(max_examples=60)
H, D = 4, 8


def lasting(make, seed=0):
    """A learned selector in float64, each of its weights drawn anew."""
    torch.manual_seed(seed)
    selector = make().double()
    for weight in selector.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return selector


SELECTORS = {
    "oracle": indexer.Oracle(),
    "recent": indexer.Recent(),
    "recent and sinks": indexer.Recent(sinks=2),
    "previous": indexer.Previous(),
    "random": indexer.Random(),
    "block means": indexer.BlockMean(4),
    "block bounds": indexer.BlockBounds(4),
    "low rank": lasting(lambda: indexer.LowRank(H, D, 3)),
    "low rank, MLP": lasting(lambda: indexer.LowRank(H, D, 3, hidden=5)),
    "shared": lasting(lambda: indexer.SharedIndexer(H, D, 3, index_heads=2)),
    "positions": lasting(lambda: indexer.Positions(H, D, 64, hidden=5)),
}
# Chance is drawn anew at every call, the others give the same score to the same pair.
LASTING = {name: s for name, s in SELECTORS.items() if name != "random"}
each_selector = pytest.mark.parametrize("selector", SELECTORS.values(), ids=SELECTORS)
each_lasting = pytest.mark.parametrize("selector", LASTING.values(), ids=LASTING)
LEARNED = {name: s for name, s in SELECTORS.items() if list(s.parameters())}
BLOCKS = {"mean": indexer.BlockMean, "bounds": indexer.BlockBounds}
each_block = pytest.mark.parametrize("kind", BLOCKS.values(), ids=BLOCKS)
each_order = pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
SHAPES = [(1, 1), (2, 2), (17, 17), (1, 33), (5, 33), (9, 4)]
each_shape = pytest.mark.parametrize("T, S", SHAPES)


def vectors(T, S=None, Hkv=H, B=2, seed=0):
    q, k, _ = draw(T, S or T, B=B, H=H, Hkv=Hkv, D=D, seed=seed)
    return q, k


def seen_by(T, S, causal):
    return causal_mask(T, S) if causal else torch.ones(T, S, dtype=torch.bool)


# What every selector answers


@each_selector
@each_order
@each_shape
@pytest.mark.parametrize("Hkv", [4, 2, 1])
@pytest.mark.parametrize("K", [1, 6, 99])
def test_each_query_gets_k_keys_that_it_may_see_or_all_of_them(
    selector, causal, T, S, Hkv, K
):
    q, k = vectors(T, S, Hkv)
    indices = selector.select(q, k, K, causal=causal)
    assert indices.shape == (2, H, T, min(K, S)) and indices.dtype == torch.int64
    seen = seen_by(T, S, causal)
    taken = (indices != indexer.EMPTY).sum(dim=-1)
    assert torch.equal(taken, seen.sum(dim=-1).clamp(max=K).expand_as(taken))
    pairs = pairs_of(indices, S)
    assert not (pairs & ~seen).any()
    assert torch.equal(pairs.sum(dim=-1), taken)  # none of them twice
    empty = indices == indexer.EMPTY
    assert not (empty[..., :-1] & ~empty[..., 1:]).any()  # which come last


@each_selector
def test_keys_that_come_later_change_nothing(selector):
    q, k = vectors(33)
    other = torch.cat((k[:, :, :21], 3 * k[:, :, :12]), dim=2)
    before, after = (selector.scores(q, keys)[:, :, :21, :21] for keys in (k, other))
    assert torch.equal(before.tril(), after.tril())


@each_lasting
def test_queries_that_come_alone_rank_keys_as_they_do_together(selector):
    q, k = vectors(33)
    every = selector.scores(q, k)
    for T in (1, 5):
        torch.testing.assert_close(selector.scores(q[:, :, -T:], k), every[:, :, -T:])
    for t in (0, 3, 18):
        alone = selector.scores(q[:, :, t : t + 1], k[:, :, : t + 1])
        together = every[:, :, t : t + 1, : t + 1]
        ranks, expected = (x[..., None] > x[..., None, :] for x in (alone, together))
        assert torch.equal(ranks, expected)


@each_lasting
@each_order
def test_rows_at_some_positions_are_the_rows_of_all(selector, causal):
    q, k = vectors(33, Hkv=2)
    at = torch.tensor([20, 0, 32, 7])
    every = selector.select(q, k, 33, causal)[:, :, at]
    some = selector.select(q[:, :, at], k, 33, causal, at=at)
    assert torch.equal(pairs_of(some, 33), pairs_of(every, 33))
    scores, rows = selector.scores(q, q)[:, :, at], selector.scores(q[:, :, at], q, at)
    torch.testing.assert_close(rows, scores)


@each_selector
def test_more_keys_keep_the_best(selector):
    q, k = vectors(17)
    few, many = (selector.select(q, k, K) for K in (3, 9))
    values = selector.scores(q, k).gather(-1, many.clamp(min=0))
    assert values.where(many >= 0, -torch.inf).diff(dim=-1).nan_to_num(-1).le(0).all()
    lowest = values[..., 2].where(many[..., 2] >= 0, -torch.inf)
    best = selector.scores(q, k).gather(-1, few.clamp(min=0))
    assert (best >= lowest[..., None]).logical_or(few < 0).all()


@pytest.mark.parametrize("K", [0, -1, 2.5, True, None])
def test_a_budget_that_is_none_is_refused(K):
    explains(lambda: indexer.Oracle().select(*vectors(5), K), "K", K)


def test_queries_and_keys_that_do_not_fit_are_refused():
    (q, k), select = vectors(5), indexer.Oracle().select
    explains(lambda: select(q, k[:, :3], 2), "k", (2, 3, 5, 8))
    explains(lambda: select(q[0], k, 2), "q", (4, 5, 8))
    explains(lambda: select(q, k.float(), 2), "k", "torch.float32")


# Baselines


@each_order
@each_shape
@pytest.mark.parametrize("K", [1, 5])
def test_the_oracle_takes_the_keys_of_the_largest_weights(causal, T, S, K):
    q, k = vectors(T, S, Hkv=2)
    pairs = pairs_of(indexer.Oracle().select(q, k, K, causal), S)
    weights = attention_weights(q, k, k, causal=causal)
    for row, kept in zip(weights.flatten(0, 2), pairs.flatten(0, 2), strict=True):
        best = sorted(range(S), key=lambda s: -row[s])[:K]
        assert kept.nonzero().flatten().tolist() == sorted(
            s for s in best if row[s] > 0
        )


def test_a_negative_scale_turns_the_oracle_round():
    q, k = vectors(9)
    worst = indexer.Oracle(scale=-1.0).select(q, k, 1, causal=False)
    assert torch.equal(worst[..., 0], (q @ k.mT).argmin(dim=-1))


@each_shape
@pytest.mark.parametrize("K, sinks", [(1, 0), (5, 0), (5, 2), (3, 2)])
def test_recent_keys_are_a_window_beside_the_sinks(T, S, K, sinks):
    """A budget of K is a window of K - sinks: that, and no key more or less."""
    pairs = pairs_of(indexer.Recent(sinks).select(*vectors(T, S), K), S)
    assert torch.equal(pairs, window_mask(T, S, K - sinks, sinks).expand_as(pairs))


def test_the_previous_token_comes_first_and_then_its_neighbors():
    indices = indexer.Previous().select(*vectors(7), 3)
    first, near = indices[..., 0], indices.sort(dim=-1).values
    assert (first[..., 1:] == torch.arange(6)).all() and (first[..., 0] == 0).all()
    assert (near[..., 2:, :] == torch.arange(5)[:, None] + torch.arange(3)).all()


def test_random_keys_are_a_seed_and_meet_every_key_alike():
    q, k = vectors(64, B=8)
    draws = [indexer.Random(seed).select(q, k, 16, causal=False) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    hits = pairs_of(draws[0], 64).sum(dim=(0, 1, 2))  # of 8·4·64 queries, each by 1/4
    n = 8 * 4 * 64
    assert (hits - n / 4).abs().max() < 5 * math.sqrt(n * 3 / 16)


def test_random_keys_leave_the_random_state_of_the_reader_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    indexer.Random().select(*(x.float() for x in (torch.ones(2, 1, 1, 5, 4))), 2)
    assert torch.equal(torch.rand(1), expected)


@each_order
def test_nothing_selects_nothing(causal):
    indices = indexer.Nothing().select(*vectors(7), 3, causal)
    assert indices.shape == (2, H, 7, 3) and (indices == indexer.EMPTY).all()


def members(S, size, t, s):
    """The keys that stand for block ⌊s/size⌋ before query t."""
    start = s // size * size
    end = min(start + size, S)
    return slice(start, t + 1 if start <= t < end else end)


@steady
@given(
    T=st.integers(1, 9),
    more=st.integers(0, 9),
    size=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_blocks_score_by_their_mean_or_a_bound_of_all_their_keys(T, more, size, seed):
    S = T + more
    q, k = vectors(T, S, B=1, seed=seed)
    mean, bound = (kind(size).scores(q, k) for kind in BLOCKS.values())
    for t, s in itertools.product(range(T), range(S)):
        keys, x = k[:, :, members(S, size, t + more, s)], q[:, :, t, None]
        expected = (x @ keys.mean(dim=2, keepdim=True).mT)[..., 0, 0]
        torch.testing.assert_close(mean[:, :, t, s], expected)
        low, high = keys.amin(dim=2, keepdim=True), keys.amax(dim=2, keepdim=True)
        expected = torch.maximum(x * low, x * high).sum(dim=(-2, -1))
        torch.testing.assert_close(bound[:, :, t, s], expected)
        best = (x @ keys.mT).amax(dim=(-2, -1))
        assert (bound[:, :, t, s] >= best - 1e-12 * x.norm() * keys.norm()).all()


@each_block
@pytest.mark.parametrize("size, S", [(4, 32), (5, 33), (16, 40)])
def test_whole_blocks_are_taken(kind, size, S):
    q, k = vectors(S)
    pairs = pairs_of(kind(size).select(q, k, 2 * size, causal=False), S)
    sizes = pairs.split(size, dim=-1)
    parts = torch.stack([part.sum(dim=-1) for part in sizes], dim=-1)  # (B, H, T, n)
    lengths = torch.tensor([part.shape[-1] for part in sizes])
    cut = (parts > 0) & (parts < lengths)
    assert (cut.sum(dim=-1) <= 1).all()  # the last one, where a short block was taken
    assert S % size or not cut.any()


def test_blocks_of_one_key_are_the_oracle():
    q, k = vectors(9)
    expected = indexer.Oracle().select(q, k, 3)
    for kind in BLOCKS.values():
        assert torch.equal(kind(1).select(q, k, 3), expected)


def test_sizes_of_baselines_that_are_none_are_refused():
    explains(lambda: indexer.Recent(sinks=-1), "sinks", -1)
    explains(lambda: indexer.Random(seed=-1), "seed", -1)
    for kind in BLOCKS.values():
        explains(lambda make=kind: make(0), "size", 0)


# A budget of mass


@steady
@given(
    p=st.floats(0.05, 0.999),
    cap=st.one_of(st.none(), st.integers(1, 20)),
    T=st.integers(1, 17),
    seed=st.integers(0, 99),
)
def test_mass_keeps_the_fewest_keys_that_hold_it(p, cap, T, seed):
    q, k = vectors(T, B=1, seed=seed)
    indices = indexer.Oracle().select(3 * q, k, Mass(p, cap))
    weights = attention_weights(3 * q, k, k, causal=True)
    for row, kept in zip(weights.flatten(0, 2), indices.flatten(0, 2), strict=True):
        total, needed = 0.0, []
        for s in sorted(range(T), key=lambda s: -row[s])[:cap]:
            if total >= p:
                break
            needed.append(s)
            total += row[s].item()
        assert [s for s in kept.tolist() if s != indexer.EMPTY] == needed


@pytest.mark.parametrize("name", LEARNED)
def test_mass_grows_with_p_and_keeps_to_its_cap(name):
    q, k = vectors(33)
    kept = [
        pairs_of(LEARNED[name].select(q, k, Mass(p)), 33) for p in (0.1, 0.5, 0.9, 1)
    ]
    for fewer, more in itertools.pairwise(kept):
        assert not (fewer & ~more).any() and more.sum() > fewer.sum()
    assert kept[0].any(dim=-1).all()  # the best key, whatever it weighs
    capped = LEARNED[name].select(q, k, Mass(0.9, cap=5))
    assert capped.shape[-1] == 5
    free = kept[2].sum(dim=-1)
    assert torch.equal((capped >= 0).sum(dim=-1), free.clamp(max=5))


@pytest.mark.parametrize("name", LEARNED)
def test_a_floor_gives_every_query_its_best_keys_and_takes_none_away(name):
    q, k = vectors(33)
    free, floored, best = (
        pairs_of(LEARNED[name].select(q, k, K), 33)
        for K in (Mass(0.5), Mass(0.5, least=6), 6)
    )
    assert torch.equal(floored, free | best) and (floored & ~free).any()


def test_the_mass_that_the_oracle_keeps_is_at_least_p():
    q, k = vectors(33)
    weights = attention_weights(q, k, k, causal=True)
    for p in (0.2, 0.5, 0.9, 0.99):
        pairs = pairs_of(indexer.Oracle().select(q, k, Mass(p)), 33)
        assert ((weights * pairs).sum(dim=-1) >= p * (1 - 1e-12)).all()
        least = weights.where(pairs, torch.inf).amin(dim=-1)  # without it, too little
        assert ((weights * pairs).sum(dim=-1) - least < p).all()


@each_order
def test_all_mass_is_all_keys_up_to_rounding(causal):
    q, k = vectors(33)
    pairs = pairs_of(indexer.Oracle().select(q, k, Mass(1.0), causal), 33)
    weights = attention_weights(q, k, k, causal=causal)
    lost = seen_by(33, 33, causal) & ~pairs
    assert (weights * lost).sum(dim=-1).max() <= 40 * torch.finfo(q.dtype).eps
    assert lost.sum() < 0.01 * pairs.sum()


def test_where_nothing_is_seen_there_is_no_mass():
    indices = indexer.Oracle().select(*vectors(9, 4), Mass(0.5))
    assert (indices[:, :, :5] == indexer.EMPTY).all() and (
        indices[:, :, 5:, 0] >= 0
    ).all()


def test_mass_that_is_none_is_refused():
    for p in (0, -0.5, 1.5, math.nan, "half"):
        explains(lambda p=p: Mass(p), "p", repr(p))
    explains(lambda: Mass(0.5, cap=0), "cap", 0)
    explains(lambda: Mass(0.5, cap=4, least=5), "cap", 4)
    explains(lambda: Mass(0.5, least=0), "least", 0)
    for name in ("recent", "random", "block means", "block bounds"):
        kind = type(SELECTORS[name]).__name__
        explains(lambda n=name: SELECTORS[n].select(*vectors(5), Mass(0.5)), "K", kind)


# Learned selectors


def test_a_low_rank_as_wide_as_the_head_can_be_the_oracle():
    finder = indexer.LowRank(H, D, D).double()
    with torch.no_grad():
        for maps in (finder.query, finder.key):
            maps.linear.copy_(torch.eye(D))
    q, k = vectors(33, Hkv=2)
    for K in (5, Mass(0.8)):
        assert torch.equal(finder.select(q, k, K), indexer.Oracle().select(q, k, K))


def test_an_mlp_starts_as_nothing():
    torch.manual_seed(0)
    finder = indexer.LowRank(H, D, 3, hidden=5).double()
    q, k = vectors(9)
    mapped = (x @ maps.linear for x, maps in ((q, finder.query), (k, finder.key)))
    left, right = mapped
    torch.testing.assert_close(finder.scores(q, k), left @ right.mT / math.sqrt(3))


def test_the_bias_sees_distance_alone():
    finder = SELECTORS["low rank"]
    q, k = vectors(45)
    for start in (1, 12):
        tail = finder.scores(q[:, :, start:], k[:, :, start:])
        torch.testing.assert_close(
            tail.tril(), finder.scores(q, k)[:, :, start:, start:].tril()
        )
    bias = finder.scores(torch.zeros_like(q), k)
    for distance in range(45):
        expected = finder.near[:, bucket(torch.tensor(distance))]
        along = bias.diagonal(-distance, dim1=-2, dim2=-1)
        assert torch.equal(along, expected[:, None].expand_as(along))


@pytest.mark.parametrize("name", [n for n in LEARNED if n != "positions"])
@pytest.mark.parametrize("S", [1, 3, 5000])
def test_no_length_is_unknown(name, S):
    q, k = vectors(1, S, B=1)
    indices = LEARNED[name].select(q, k, 7)
    assert (indices >= 0).sum() == H * min(S, 7)
    assert LEARNED[name].scores(q, k).isfinite().all()


def test_buckets_are_exact_when_near_and_four_an_octave_beyond():
    distances = torch.arange(20_000)
    found = bucket(distances)
    assert torch.equal(found[:16], distances[:16])
    assert set(found.diff().tolist()) == {0, 1} and found[-1] == BUCKETS - 1
    for d in (16, 17, 100, 512, 1500):
        assert found[2 * d] == found[d] + 4
    assert found[3444] == BUCKETS - 2 and found[3445] == BUCKETS - 1
    assert (bucket(torch.tensor([-1, -99])) == 0).all()


def test_a_shared_indexer_selects_the_same_for_all_heads():
    for K in (5, Mass(0.5)):
        one_for_all = SELECTORS["shared"].select(*vectors(17), K)
        assert (one_for_all == one_for_all[:, :1]).all()
        one_each = SELECTORS["low rank"].select(*vectors(17), K)
        assert (one_each != one_each[:, :1]).any(dim=(0, 2, 3))[1:].all()


def test_a_shared_indexer_is_the_formula_of_its_paper():
    finder, (q, k) = SELECTORS["shared"], vectors(6, B=1)
    x, y = (z.transpose(1, 2).flatten(2)[0] for z in (q, k))  # (T, H D)
    index = (x @ finder.query.weight.T).unflatten(-1, (2, 3))
    key, weight = y @ finder.key.weight.T, finder.weight(x)
    for t, s in itertools.product(range(6), repeat=2):
        met = [max(0.0, (index[t, j] @ key[s] / 3**0.5).item()) for j in range(2)]
        expected = sum(weight[t, j].item() * met[j] for j in range(2))
        expected += finder.near[0, max(0, t - s)].item()
        assert finder.scores(q, k)[0, 0, t, s].item() == pytest.approx(expected)


def test_positions_know_one_length_and_no_key():
    finder = SELECTORS["positions"]
    q, k = vectors(64)
    assert torch.equal(finder.select(q, k, 5), finder.select(q, 0 * k, 5))
    explains(lambda: finder.select(*vectors(1, 65), 5), "k", "65 keys")


def test_parameters_are_counted_by_hand():
    def count(selector):
        return sum(weight.numel() for weight in selector.parameters())

    assert count(SELECTORS["low rank"]) == 2 * H * D * 3 + H * 48
    mlp = 2 * H * (D * 5 + 5 * 3)
    assert count(SELECTORS["low rank, MLP"]) == 2 * H * D * 3 + H * 48 + mlp
    shared = H * D * (2 * 3 + 3 + 2) + 2 + 48
    assert count(SELECTORS["shared"]) == shared
    assert count(SELECTORS["positions"]) == H * (D * 5 + 5 + 5 * 64 + 64)
    assert {name for name, s in SELECTORS.items() if count(s)} == set(LEARNED)


@pytest.mark.parametrize("make", [
    indexer.LowRank, indexer.SharedIndexer, indexer.Positions,
])  # fmt: skip
def test_sizes_of_what_learns_that_are_none_are_refused(make):
    explains(lambda: make(0, D, 3), "heads", 0)
    explains(lambda: make(H, 2.5, 3), "width", 2.5)
    explains(lambda: make(H, D, 0), "seq_len|rank", 0)


def test_hidden_layers_of_no_width_are_refused():
    explains(lambda: indexer.LowRank(H, D, 3, hidden=0), "hidden", 0)


# Learning


def teacher(**changes):
    """A small GPT whose attention is sharp enough to be found."""
    model = lively(SMALL.but(**changes))
    with torch.no_grad():
        for block in model.blocks:
            block.attention.query.weight *= 4
    return model


def texts(generator):
    return torch.randint(SMALL.vocab, (4, SMALL.context), generator=generator)


def low_ranks(rank=4, seed=0):
    torch.manual_seed(seed)
    width = SMALL.width // SMALL.heads
    return [indexer.LowRank(SMALL.heads, width, rank) for _ in range(SMALL.layers)]


LEARN = dict(rows=16, progress=False)


def mass_kept(model, selectors, K=3, seed=5):
    """Attention mass in the selected keys, mean over queries, heads and layers."""
    heard = indexer.signals(model, text(8, SMALL.context, SMALL.vocab, seed))
    kept = [
        attention_recall(
            attention_weights(q, k, v, causal=True),
            pairs_of(selector.select(q, k, K), SMALL.context),
        ).mean()
        for selector, (q, k, v) in zip(selectors, heard, strict=True)
    ]
    return sum(kept) / len(kept)


@pytest.mark.parametrize("kv_heads", [None, 2])
def test_distilled_indexers_find_what_the_teacher_attends_to(kv_heads):
    model, fitted = teacher(kv_heads=kv_heads), low_ranks()
    drawn = mass_kept(model, fitted)
    how = dict(steps=150, learning_rate=0.03)
    losses = indexer.distill(model, fitted, texts, **how, **LEARN)
    assert len(losses) == 150 and sum(losses[-10:]) < 0.6 * sum(losses[:10])
    found = mass_kept(model, fitted)
    chance = mass_kept(model, [indexer.Random()] * 2)
    best = mass_kept(model, [indexer.Oracle()] * 2)
    assert chance + 0.7 * (best - chance) < found < best
    assert drawn < chance + 0.5 * (best - chance)


def test_the_loss_of_the_teachers_own_scores_is_their_entropy():
    model = teacher()
    exact = low_ranks()
    with torch.no_grad():
        for finder in exact:
            for maps in (finder.query, finder.key):
                maps.linear.copy_(torch.eye(4))
    given = dict(steps=1, learning_rate=0.0, rows=SMALL.context, progress=False)
    loss = indexer.distill(model, exact, texts, **given)[0]
    heard = indexer.signals(model, texts(torch.Generator().manual_seed(0)))
    weights = torch.stack([attention_weights(*qkv, causal=True) for qkv in heard])
    entropy = torch.special.entr(weights).sum(dim=-1).mean()
    assert loss == pytest.approx(entropy.item(), rel=1e-4)
    worse = indexer.distill(model, low_ranks(), texts, **given)[0]
    assert worse > loss


def test_the_teacher_is_left_as_it_was():
    model = teacher()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    scores = [block.attention.scores for block in model.blocks]
    fitted = low_ranks()
    started = [finder.key.linear.clone() for finder in fitted]
    indexer.distill(model, fitted, texts, steps=2, **LEARN)
    assert all(
        not torch.equal(finder.key.linear, start)
        for finder, start in zip(fitted, started, strict=True)
    )
    mends = corrections()
    indexer.fit_corrections(model, fitted, mends, texts, 3, steps=2, **LEARN)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(x.grad is None and x.requires_grad for x in model.parameters())
    assert [block.attention.scores for block in model.blocks] == scores
    assert not any(one._forward_pre_hooks for one in scores)


def test_learning_is_a_seed():
    def losses(seed):
        return indexer.distill(
            teacher(), low_ranks(), texts, steps=3, seed=seed, **LEARN
        )

    assert losses(0) == losses(0) != losses(1)


def corrections(seed=0):
    torch.manual_seed(seed)
    width = SMALL.width // SMALL.heads
    return [indexer.Correction(SMALL.heads, width, 16) for _ in range(SMALL.layers)]


@pytest.mark.parametrize("rest", ["mlp", "both"])
@pytest.mark.parametrize("K", [2, Mass(0.4)], ids=str)
def test_corrections_lessen_the_error_of_a_head(rest, K):
    model, mends, finder = teacher(), corrections(), indexer.Oracle()
    given = dict(rest=rest, block=4, steps=60, learning_rate=0.01)
    losses = indexer.fit_corrections(model, finder, mends, texts, K, **given, **LEARN)
    assert sum(losses[-10:]) < sum(losses[:10])
    heard = indexer.signals(model, text(8, SMALL.context, SMALL.vocab, seed=5))
    for (q, k, v), fitted, fresh in zip(heard, mends, corrections(), strict=True):
        exact, chosen = attention(q, k, v, causal=True), finder.select(q, k, K)
        how = dict(causal=True, rest=rest, block=4)
        with torch.no_grad():
            outs = [
                indexer.selected_attention(q, k, v, chosen, **how, correction=one)
                for one in (fitted, fresh)
            ]
        off = [relative_error(out, exact) for out in outs]
        assert off[0] < off[1]


def test_what_cannot_be_fitted_is_refused():
    model, one = teacher(), low_ranks()[:1]
    explains(lambda: indexer.distill(model, one, texts, **LEARN), "modules", 1)
    explains(lambda: indexer.distill(model, low_ranks(), texts, steps=0), "steps", 0)

    def fit(selectors=None, mends=None, **given):
        selectors = low_ranks() if selectors is None else selectors
        mends = corrections() if mends is None else mends
        return lambda: indexer.fit_corrections(
            model, selectors, mends, texts, 3, **LEARN | given
        )

    explains(fit(selectors=one), "selectors", 1)
    explains(fit(mends=corrections()[:1], selectors=one), "modules", 1)
    explains(fit(rest="pooled"), "rest", "'pooled'")
    explains(fit(rows=0), "rows", 0)


# In a model

CONFIGS = [
    SMALL.but(kv_heads=kv_heads, positions=positions)
    for kv_heads in (None, 2)
    for positions in ("learned", "rotary")
]
each_config = pytest.mark.parametrize(
    "config", CONFIGS, ids=lambda c: f"{c.kv_heads}-{c.positions}"
)
TOKENS = text(2, SMALL.context, SMALL.vocab)


def heads_of(model, layer, tokens=TOKENS):
    """What the scores of a layer give, (B, H, T, D)."""
    heard = []
    scores = model.blocks[layer].attention.scores
    hook = scores.register_forward_hook(lambda *call: heard.append(call[-1]))
    with torch.no_grad():
        model(tokens)
    hook.remove()
    return heard[0]


@each_config
def test_signals_are_what_each_layer_attends_with(config):
    model, inside = lively(config, torch.float64), []
    hooks = [
        block.attention.register_forward_hook(lambda *call: inside.append(call[-1]))
        for block in model.blocks
    ]
    heard = indexer.signals(model, TOKENS)
    for block, qkv, out in zip(model.blocks, heard, inside, strict=True):
        assert qkv.q.shape[1] == 4 and qkv.k.shape[1] == (config.kv_heads or 4)
        merged = block.attention.merge(attention(*qkv, causal=True))
        torch.testing.assert_close(merged, out)
        assert not qkv.q.requires_grad
    for hook in hooks:
        hook.remove()
    assert not any(block.attention.scores._forward_pre_hooks for block in model.blocks)


@each_config
@torch.no_grad()
def test_a_model_that_selects_everything_is_the_model(config):
    model = lively(config, torch.float64)
    plain = model(TOKENS)
    for rest in ("none", "pooled"):
        how = dict(K=SMALL.context, rest=rest)
        with indexer.selecting(model, indexer.Oracle(), **how) as same:
            assert same is model
            torch.testing.assert_close(model(TOKENS), plain)
            assert indexer.keys_kept(model) == (SMALL.context + 1) / 2
    assert torch.equal(model(TOKENS), plain)


@torch.no_grad()
def test_nothing_selected_is_a_model_without_attention():
    model = lively(SMALL)
    with indexer.selecting(model, indexer.Nothing(), 5):
        assert not heads_of(model, 0).any()
        assert indexer.keys_kept(model) == 0
        other = (TOKENS + 1) % SMALL.vocab
        other[:, 7] = TOKENS[:, 7]
        torch.testing.assert_close(model(other)[:, 7], model(TOKENS)[:, 7])


@each_selector
@torch.no_grad()
def test_a_model_that_selects_never_sees_the_future(selector):
    if selector in LEARNED.values():  # made for heads of another width
        torch.manual_seed(0)
        make = {"rank": 3} if hasattr(selector, "rank") else {"seq_len": SMALL.context}
        selector = type(selector)(4, 4, **make)
    model, other = lively(SMALL), TOKENS.clone()
    other[:, 15:] = (other[:, 15:] + 3) % SMALL.vocab
    for rest in ("none", "pooled"):
        with indexer.selecting(model, selector, 6, rest=rest, block=4):
            ours, theirs = model(TOKENS), model(other)
        torch.testing.assert_close(ours[:, :15], theirs[:, :15])
        assert not torch.equal(ours[:, 15:], theirs[:, 15:])


def test_scores_are_given_back_whatever_happens():
    model = lively(SMALL)
    before = [block.attention.scores for block in model.blocks]
    names = set(model.state_dict())
    midway = pytest.raises(RuntimeError, match="midway")
    with midway, indexer.selecting(model, low_ranks(), 3):
        assert all(block.attention.scores not in before for block in model.blocks)
        raise RuntimeError("midway")
    assert [block.attention.scores for block in model.blocks] == before
    assert set(model.state_dict()) == names
    explains(lambda: indexer.keys_kept(model), "model", "selecting")


@torch.no_grad()
def test_only_the_layers_asked_for_are_replaced():
    model = lively(SMALL)
    first, second = (heads_of(model, layer) for layer in range(2))
    before = model.blocks[0].attention.scores
    with indexer.selecting(model, indexer.Recent(), 2, layers=[1]):
        assert model.blocks[0].attention.scores is before
        assert torch.equal(heads_of(model, 0), first)
        assert (heads_of(model, 1) != second)[:, :, 2:].any(dim=-1).all()
        assert indexer.keys_kept(model) == pytest.approx((1 + 2 * 23) / 24)


@pytest.mark.parametrize("window", [None, 5])
@torch.no_grad()
def test_only_the_heads_asked_for_are_replaced(window):
    model = lively(SMALL.but(window=window))
    plain = heads_of(model, 0)
    with indexer.selecting(model, indexer.Recent(), 2):
        replaced = heads_of(model, 0)
    with indexer.selecting(model, indexer.Recent(), 2, heads=[0, 2]):
        found = heads_of(model, 0)
    assert torch.equal(found[:, 1::2], plain[:, 1::2])
    assert torch.equal(found[:, ::2], replaced[:, ::2])
    assert (found != plain)[:, ::2, 2:].any(dim=-1).all()


@torch.no_grad()
def test_keys_kept_are_the_mean_over_layers_of_the_last_call():
    model = lively(SMALL)
    with indexer.selecting(model, indexer.Oracle(), 5):
        model(TOKENS)
        kept = 1 + 2 + 3 + 4 + 5 * 20
        assert indexer.keys_kept(model) == pytest.approx(kept / 24)
        model(TOKENS[:, :4])
        assert indexer.keys_kept(model) == (1 + 2 + 3 + 4) / 4
    with indexer.selecting(model, indexer.Oracle(), Mass(0.5)):
        heard = indexer.signals(model, TOKENS)
        kept = [indexer.Oracle().select(q, k, Mass(0.5)) for q, k, _ in heard]
        mean = sum((one >= 0).sum().item() for one in kept) / (2 * 2 * 4 * 24)
        assert indexer.keys_kept(model) == pytest.approx(mean)


@pytest.mark.parametrize("rest", indexer.RESTS)
def test_a_model_learns_while_it_selects(rest):
    model = lively(SMALL).train()
    mends = corrections() if rest in ("mlp", "both") else None
    how = dict(rest=rest, block=4, corrections=mends, heads=[0, 1])
    with indexer.selecting(model, low_ranks(), 4, **how):
        model(TOKENS).logsumexp(dim=-1).sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad.isfinite().all(), name
        if not name.endswith("key.bias"):  # which moves all scores of a query alike
            assert weight.grad.any(), name


def test_a_cache_is_refused():
    model = lively(SMALL)
    cache = Cache(model)
    with torch.no_grad():
        model(TOKENS[:, :5], cache)
        with indexer.selecting(model, indexer.Oracle(), 3):
            explains(lambda: model(TOKENS[:, 5:6], cache), "cache", "5 of 6 keys")


def test_a_selection_that_does_not_fit_is_refused():
    model = lively(SMALL)

    def enter(selectors=None, K=3, **given):
        def call():
            with indexer.selecting(model, selectors or indexer.Oracle(), K, **given):
                pass

        return call

    explains(enter(low_ranks()[:1]), "selectors", 1)
    explains(enter(corrections=corrections()[:1]), "corrections", 1)
    explains(enter(rest="all"), "rest", "'all'")
    explains(enter(layers=[2]), "layers", 2)
    explains(enter(heads=[-1]), "heads", -1)
    explains(enter(K=0), "K", 0)
    explains(enter(K=2.5), "K", 2.5)


# Any attention in a model


@each_config
@torch.no_grad()
def test_a_model_under_the_attention_that_it_has_is_the_model(config):
    model, layers = lively(config, torch.float64), []
    plain = model(TOKENS)

    def attend(layer, q, k, v):
        layers.append(layer)
        assert q.shape[1] == 4 and k.shape == v.shape
        assert k.shape[1] == (config.kv_heads or 4) and q.shape[2] == TOKENS.shape[1]
        return attention(q, k, v, causal=True)

    with attending(model, attend) as same:
        assert same is model
        torch.testing.assert_close(model(TOKENS), plain)
        assert layers == [0, 1]
    assert torch.equal(model(TOKENS), plain) and len(layers) == 2


@torch.no_grad()
def test_each_layer_gets_the_attention_of_its_number():
    model = lively(SMALL)

    def attend(layer, q, k, v):
        return (layer + 1.0) * v

    with attending(model, attend):
        heard = indexer.signals(model, TOKENS)
        for layer, (_, _, v) in enumerate(heard):
            assert torch.equal(heads_of(model, layer), (layer + 1.0) * v)


@each_config
@torch.no_grad()
def test_a_model_under_sparse_attention_reads_blocks_and_not_the_future(config):
    model, other = lively(config.but(context=160)), text(2, 160, SMALL.vocab)
    tokens = other.clone()
    other[:, 130:] = (other[:, 130:] + 3) % SMALL.vocab

    def attend(keep):
        how = dict(causal=True, rest="pooled", dense_below=0)
        how |= dict(block_q=16, block_k=8, pool=16)
        return lambda layer, q, k, v: kernels.sparse_attention(q, k, v, keep, **how)

    plain = model(tokens)
    with attending(model, attend(64)):
        ours, theirs = model(tokens), model(other)
    assert torch.equal(ours[:, :128], theirs[:, :128])
    torch.testing.assert_close(ours[:, :64], plain[:, :64])  # all blocks are kept
    assert not torch.allclose(ours[:, 128:], plain[:, 128:])
    with attending(model, attend(160)):
        torch.testing.assert_close(model(tokens), plain)


def test_a_model_learns_under_sparse_attention():
    model = lively(SMALL).train()
    how = dict(causal=True, rest="pooled", dense_below=0, block_q=8, block_k=4, pool=8)

    def attend(layer, q, k, v):
        return kernels.sparse_attention(q, k, v, 12, **how)

    with attending(model, attend):
        model(TOKENS).logsumexp(dim=-1).sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad.isfinite().all(), name
        if not name.endswith("key.bias"):  # which moves all scores of a query alike
            assert weight.grad.any(), name


def test_the_attention_is_given_back_whatever_happens():
    model = lively(SMALL)
    before = [block.attention.scores for block in model.blocks]
    names = set(model.state_dict())

    def attend(layer, q, k, v):
        raise RuntimeError("midway")

    midway = pytest.raises(RuntimeError, match="midway")
    with midway, attending(model, attend):
        assert set(model.state_dict()) == names
        model(TOKENS)
    assert [block.attention.scores for block in model.blocks] == before


@torch.no_grad()
def test_any_attention_may_be_put_around_another():
    model = lively(SMALL)
    plain = model(TOKENS)
    with attending(model, lambda layer, q, k, v: 2 * v):
        outer = model(TOKENS)
        with indexer.selecting(model, indexer.Oracle(), SMALL.context):
            torch.testing.assert_close(model(TOKENS), plain)
        assert torch.equal(model(TOKENS), outer)
    assert torch.equal(model(TOKENS), plain)


def test_any_attention_refuses_a_cache():
    model = lively(SMALL)
    cache = Cache(model)
    with torch.no_grad():
        model(TOKENS[:, :5], cache)
        with attending(model, lambda layer, q, k, v: v):
            explains(lambda: model(TOKENS[:, 5:6], cache), "cache", "5 of 6 keys")


@each_selector
def test_selectors_run_with_what_mps_has(selector):
    q, k = (x.float() for x in vectors(9, Hkv=2))
    if selector in LEARNED.values():
        make = {"rank": 3} if hasattr(selector, "rank") else {"seq_len": 9}
        selector = type(selector)(H, D, **make)
    with LikeMPS():
        pairs_of(selector.select(q, k, 3), 9)
        if selector.estimates:
            selector.select(q, k, Mass(0.5, cap=4))


def test_learning_and_selecting_run_with_what_mps_has():
    model, fitted, mends = teacher(), low_ranks(), corrections()
    with LikeMPS():
        indexer.distill(model, fitted, texts, steps=1, **LEARN)
        indexer.fit_corrections(model, fitted, mends, texts, 3, steps=1, **LEARN)
        how = dict(rest="both", corrections=mends, heads=[1])
        with indexer.selecting(model, fitted, 3, **how):
            assert model(TOKENS).isfinite().all()
            assert indexer.keys_kept(model) > 0
