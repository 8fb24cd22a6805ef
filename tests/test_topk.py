"""The top-K / MLP method: equal to exact attention where it must be, and each switch
does what it says."""

import math
from functools import partial

import pytest
import torch
from small_gpt import SMALL, lively, text

from sparse_attn import cost, counting, topk
from sparse_attn.attention import attention
from sparse_attn.gpt import GPTConfig
from sparse_attn.topk.picks import SLOTS

T, D, K = 12, 4, 3


@pytest.fixture(scope="module", params=[None, 2], ids=["own keys", "shared keys"])
def model(request):
    return lively(SMALL.but(kv_heads=request.param, positions="rotary"))


def vectors(B=2, T=T, D=D, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, B, T, D, generator=generator).unbind()


def scores(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def networks(seq_len=T, K=K, D=D):
    torch.manual_seed(0)
    return topk.KeySelector(D, seq_len, 8), topk.HeadApproximator(K * D, D, 8)


# --- picks


@pytest.mark.parametrize("S, K", [(1, 1), (7, 7), (7, 3), (12, 1)])
def test_picks_are_the_highest_scores_best_first(S, K):
    s = scores(2, S, S)
    picks = topk.pick_keys(s, K)
    torch.testing.assert_close(s.gather(-1, picks.indices), s.topk(K).values)
    assert picks.valid.all()


def test_a_causal_pick_is_never_of_the_future_and_leaves_slots_empty():
    picks = topk.pick_keys(scores(50, T, T), 5, causal=True)
    t = torch.arange(T)[:, None]
    assert (picks.indices <= t).logical_or(~picks.valid).all()
    kept = (t.squeeze() + 1).clamp(max=5).expand(50, T)
    assert torch.equal(picks.valid.sum(-1), kept)
    assert not picks.pairs(T).triu(1).any()
    assert torch.equal(picks.pairs(T).sum(-1), kept)


def test_without_a_causal_mask_half_of_random_picks_are_ahead():
    B = 4000
    picks = topk.random_keys(causal=False)(torch.zeros(B, T, D), None, 1)
    ahead = (picks.indices[..., 0] > torch.arange(T)).float().mean().item()
    expected = topk.future_share(T)
    assert expected == 1 / 2 - 1 / (2 * T)
    assert abs(ahead - expected) < 4 * math.sqrt(0.25 / (B * T))


def test_ties_go_to_the_earlier_key():
    picks = topk.pick_keys(torch.zeros(1, 4, 4), 2)
    assert picks.indices[0, 3].tolist() == [0, 1]


def test_slots_change_the_order_and_not_the_keys():
    weights = scores(3, T, T).tril().softmax(-1).tril()
    picks = topk.pick_keys(scores(3, T, T, seed=1), 4, causal=True)
    by = {slots: topk.lay_out(picks, slots, weights) for slots in SLOTS}
    for laid in by.values():
        assert torch.equal(laid.pairs(T), picks.pairs(T))
        assert torch.equal(laid.valid, picks.valid)  # empty ones stay last
    full = picks.valid.all(-1)
    assert by["position"].indices[full].diff(dim=-1).gt(0).all()
    in_order = weights.gather(-1, by["weight"].indices)[full]
    assert in_order.diff(dim=-1).le(0).all()
    assert torch.equal(by["ranked"].indices, picks.indices)
    assert not torch.equal(by["ranked"].indices, by["position"].indices)
    assert not torch.equal(by["ranked"].indices, by["weight"].indices)


def test_gathered_values_are_those_of_the_picks_and_zero_in_empty_slots():
    _, _, v = vectors()
    picks = topk.pick_keys(scores(2, T, T), K, causal=True)
    found = topk.gather_values(v, picks)
    for b, t, slot in ((0, 0, 0), (1, 5, 2), (0, T - 1, 1)):
        assert torch.equal(found[b, t, slot], v[b, picks.indices[b, t, slot]])
    assert not found[:, 0, 1:].any()


def test_bad_picks_are_refused():
    with pytest.raises(ValueError, match="K=9: a whole number from 1 to 8"):
        topk.pick_keys(torch.zeros(1, 8, 8), 9)
    picks = topk.pick_keys(torch.zeros(1, 8, 8), 2)
    with pytest.raises(ValueError, match="slots='random': choose from"):
        topk.lay_out(picks, "random")
    with pytest.raises(ValueError, match="needs the exact attention weights"):
        topk.lay_out(picks, "weight")


# --- heads


def exact(q, k, v, mask=None):
    q, k, v = (x[:, None] for x in (q, k, v))
    return attention(q, k, v, causal=True, mask=mask)[:, 0]


def test_the_oracle_with_all_keys_is_exact_attention():
    q, k, v = vectors()
    head = topk.TopKHead(topk.oracle, None, T)
    torch.testing.assert_close(head(q, k, v), exact(q, k, v))


def test_the_oracle_keeps_more_mass_than_anybody():
    q, k, _ = vectors(B=8)
    weights = topk.exact_weights(q, k)

    def mass(choose):
        return float((weights * choose(q, k, K).pairs(T)).sum(-1).mean())

    best = mass(topk.oracle)
    assert best == pytest.approx(weights.topk(K).values.sum(-1).mean().item())
    assert best > mass(topk.last_keys) and best > mass(topk.random_keys())


def test_the_window_is_the_last_keys():
    q, k, _ = vectors()
    seen = topk.last_keys(q, k, K).pairs(T)[0]
    t = torch.arange(T)
    apart = t[:, None] - t
    assert torch.equal(seen, (apart >= 0) & (apart < K))


def test_exact_softmax_over_picks_is_attention_under_their_mask():
    q, k, v = vectors()
    choose = topk.random_keys(seed=3)
    pairs = choose(q, k, K).pairs(T)[:, None]
    head = topk.TopKHead(choose, None, K)
    torch.testing.assert_close(head(q, k, v), exact(q, k, v, mask=pairs))


def test_a_head_of_equal_keys_is_the_running_mean():
    q, k, v = vectors()
    same = k[:, :1].expand_as(k)
    torch.testing.assert_close(topk.RunningMean()(q, k, v), exact(q, same, v))


def test_the_published_head_never_looks_at_keys():
    q, k, v = vectors()
    selector, approximator = networks()
    head = topk.TopKHead(topk.Chosen(selector), approximator, K)
    assert torch.equal(head(q, k, v), head(q, torch.randn_like(k), v))
    assert not torch.equal(head(q, k, v), head(q, k, v.flip(1)))


@pytest.mark.parametrize("causal", [False, True])
def test_only_the_causal_switch_keeps_the_future_out(causal):
    q, k, v = vectors()
    changed = v.clone()
    changed[:, T // 2 :] += 1
    selector, approximator = networks()
    head = topk.TopKHead(topk.Chosen(selector, causal=causal), approximator, K)
    before = slice(0, T // 2)
    same = torch.equal(head(q, k, v)[:, before], head(q, k, changed)[:, before])
    assert same == causal


def test_the_order_of_slots_matters_to_the_approximator_alone():
    q, k, v = vectors()
    selector, approximator = networks()
    outputs = [
        topk.TopKHead(topk.Chosen(selector), net, K, slots=slots)(q, k, v)
        for net in (approximator, None)
        for slots in SLOTS
    ]
    learned, softmax = outputs[:3], outputs[3:]
    assert not torch.equal(learned[0], learned[1])
    assert not torch.equal(learned[0], learned[2])
    assert torch.equal(softmax[0], softmax[1]) and torch.equal(softmax[0], softmax[2])


def test_gradients_reach_the_approximator_and_never_the_selector():
    """A choice of indices has no slope: the selector must learn from elsewhere."""
    q, k, v = vectors()
    selector, approximator = networks()
    topk.TopKHead(topk.Chosen(selector), approximator, K)(q, k, v).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in approximator.parameters())
    assert all(p.grad is None for p in selector.parameters())


def test_networks_refuse_what_does_not_fit():
    selector, approximator = networks()
    with pytest.raises(ValueError, match=r"q has 5 numbers per token.* takes 4"):
        selector(torch.zeros(2, 3, 5))
    with pytest.raises(ValueError, match=r"values has 4 numbers .* takes 12"):
        approximator(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="seq_len=0"):
        topk.KeySelector(4, 0)
    with pytest.raises(ValueError, match="slots='best'"):
        topk.TopKHead(topk.oracle, None, 2, slots="best")


# --- the hybrid


def test_heads_of_oracle_pieces_leave_the_model_as_it_was(model):
    x = text(2, T, SMALL.vocab)
    before = model(x)
    whole = topk.TopKHead(topk.oracle, None, T)
    with topk.replaced(
        model, {0: {0: whole, 3: whole}, 1: dict.fromkeys(range(4), whole)}
    ):
        torch.testing.assert_close(model(x), before)
        assert isinstance(model.blocks[0].attention, topk.ReplacedHeads)
    assert torch.equal(model(x), before)


def test_a_zeroed_head_is_a_head_whose_output_weights_are_zero(model):
    x, head, D = text(2, T, SMALL.vocab), 2, SMALL.width // SMALL.heads
    with topk.replaced(model, {1: {head: topk.Constant()}}):
        zeroed = model(x)
    out = model.blocks[1].attention.out
    kept = out.weight.detach().clone()
    with torch.no_grad():
        out.weight[:, head * D : (head + 1) * D] = 0
        removed = model(x)
        out.weight.copy_(kept)
    torch.testing.assert_close(zeroed, removed)
    assert not torch.allclose(zeroed, model(x))


def test_the_other_heads_stay_exact(model):
    attention, seen = model.blocks[0].attention, []
    selector, approximator = networks()
    hybrid = topk.HybridCausalSelfAttention(
        attention, {1: selector}, {1: approximator}, K
    )
    hook = attention.out.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    x = torch.randn(2, T, SMALL.width)
    attention(x), hybrid(x)
    hook.remove()
    full, ours = (y.unflatten(-1, (SMALL.heads, -1)) for y in seen)
    torch.testing.assert_close(ours[..., [0, 2, 3], :], full[..., [0, 2, 3], :])
    assert not torch.allclose(ours[..., 1, :], full[..., 1, :])


def test_a_hybrid_can_take_the_place_of_a_layer(model):
    selector, approximator = networks()
    hybrid = topk.HybridCausalSelfAttention(
        model.blocks[0].attention, {0: selector}, {0: approximator}, K, causal=True
    )
    x = text(2, T, SMALL.vocab)
    with topk.replaced(model, {0: hybrid}):
        one = model(x)
    head = topk.TopKHead(topk.Chosen(selector, causal=True), approximator, K)
    with topk.replaced(model, {0: {0: head}}):
        assert torch.equal(model(x), one)


def test_a_model_is_restored_after_an_error(model):
    before = model.blocks[0].attention
    with pytest.raises(RuntimeError), topk.replaced(model, {0: {0: topk.Constant()}}):
        raise RuntimeError
    assert model.blocks[0].attention is before


def hybrid(model, **changes):
    selector, approximator = networks()
    how = dict(selectors={0: selector}, approximators={0: approximator}, K=K) | changes
    return topk.HybridCausalSelfAttention(model.blocks[0].attention, **how)


def test_the_hybrid_knows_one_length_and_no_cache(model):
    with pytest.raises(ValueError, match="q has 11 tokens: this selector has 12"):
        hybrid(model)(torch.zeros(1, T - 1, SMALL.width))
    with pytest.raises(ValueError, match="cache is given"):
        hybrid(model)(torch.zeros(1, T, SMALL.width), cache=object())


def test_parts_that_do_not_fit_are_refused(model):
    selector, approximator = networks()
    with pytest.raises(ValueError, match="each head needs both"):
        hybrid(model, approximators={1: approximator})
    with pytest.raises(ValueError, match="head=4: a whole number from 0 to 3"):
        hybrid(model, selectors={4: selector}, approximators={4: approximator})
    with pytest.raises(ValueError, match=r"approximator.d_in=12 of head 0: K=2 .* 8"):
        hybrid(model, K=2)
    with pytest.raises(ValueError, match=r"selector.d_in=5 .* need 4"):
        hybrid(model, selectors={0: topk.KeySelector(5, T)})
    with pytest.raises(ValueError, match="K=13: a whole number from 1 to 12"):
        hybrid(model, K=13)
    with pytest.raises(ValueError, match="layer=2"), topk.replaced(model, {2: {}}):
        pass


def test_flops_of_the_published_head_are_the_formula():
    selector, approximator = networks(seq_len=16, K=5, D=8)
    head = topk.TopKHead(topk.Chosen(selector), approximator, 5)
    q, k, v = vectors(B=1, T=16, D=8)
    counted = counting.flops(lambda: head(q, k, v))
    assert counted == cost.topk_mlp_flops(16, 8, 8, 5)


# --- the five steps, in small

TINY = GPTConfig(
    layers=1, heads=2, width=8, vocab=8, context=8, tied=False, attend="formula"
)


@pytest.fixture(scope="module")
def taught():
    tokens = topk.random_tokens(500, vocab=8)
    model = topk.make_baseline(TINY)
    losses = topk.train_baseline(model, tokens, steps=20)
    signals = topk.collect_signals(model, tokens, head=1, batches=2)
    return model, tokens, losses, signals


def test_a_seed_gives_the_same_run_and_leaves_the_global_one_alone(taught):
    _, tokens, losses, signals = taught
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again = topk.make_baseline(TINY)
    assert topk.train_baseline(again, tokens, steps=20) == losses
    picked = partial(topk.train_approximator, gathered="picked", batch=64)
    for train in (topk.train_selector, topk.train_approximator, picked):
        one, two = (train(signals, K=2, steps=3)[1] for _ in range(2))
        other = train(signals, K=2, steps=3, seed=1)[1]
        assert one == two != other
    assert torch.equal(torch.get_rng_state(), before)


def test_the_start_is_pytorchs_own_with_positions_at_zero():
    model = topk.make_baseline(topk.PUBLISHED)
    assert not model.positions.weight.any()
    assert model.tokens.weight.std().item() == pytest.approx(1, abs=0.05)
    assert model.head.weight is not model.tokens.weight
    bound = 1 / math.sqrt(128)
    assert bound * 0.99 < model.blocks[0].mlp.up.weight.abs().max() <= bound


def test_signals_are_what_the_teacher_computes(taught):
    signals = taught[-1]
    q, k, v = (z[:, None] for z in (signals.q, signals.k, signals.v))
    torch.testing.assert_close(signals.output, attention(q, k, v, causal=True)[:, 0])
    assert not signals.weights.triu(1).any()
    assert signals.q.shape == (64, 8, 4)


def test_teacher_picks_hold_the_future_only_without_the_mask(taught):
    signals = taught[-1]
    t = torch.arange(8)[:, None]
    published, causal = (signals.picks(3, causal=c) for c in (False, True))
    assert (published.indices > t).any(-1).all(0).tolist() == [True] * 2 + [False] * 6
    assert not causal.valid[:, :2].all(-1).any() and causal.valid[:, 2:].all()


@pytest.mark.parametrize("loss, causal", [
    ("top1", False), ("top1", True), ("topk", False), ("topk", True)])  # fmt: skip
def test_a_selector_learns_by_either_loss(taught, loss, causal):
    signals = taught[-1]
    how = dict(loss=loss, causal=causal, K=2)
    selector, losses = topk.train_selector(signals, steps=60, **how)
    assert losses[-1] < losses[0] and all(map(math.isfinite, losses))
    fresh, _ = topk.train_selector(signals, steps=1, **how)

    def mass(selector):
        picks = topk.Chosen(selector, causal=causal)(signals.q, signals.k, 2)
        return float((signals.weights * picks.pairs(8)).sum(-1).mean())

    assert mass(selector) > mass(fresh)


def test_the_two_losses_are_cross_entropies_of_the_teachers_weights(taught):
    signals = taught[-1]
    for loss, K in (("top1", 1), ("topk", 3)):
        _, losses = topk.train_selector(signals, loss=loss, K=3, steps=1)
        torch.manual_seed(0)
        log_p = topk.KeySelector(4, 8)(signals.q).log_softmax(-1)
        top = signals.weights.topk(K)
        share = top.values / top.values.sum(-1, keepdim=True)
        expected = -(share * log_p.gather(-1, top.indices)).sum(-1)[:, 2:]
        kept = signals.picks(K).indices[:, 2:].sort().values
        assert torch.equal(kept, top.indices[:, 2:].sort().values)
        first = -(signals.weights[:, :2] * log_p[:, :2])
        first = (
            first.sum(-1)
            if loss == "topk"
            else -log_p[:, :2].gather(-1, signals.picks(1).indices[:, :2])[..., 0]
        )
        mean = torch.cat((first, expected), 1).mean().item()
        assert losses[0] == pytest.approx(mean, rel=1e-5)


def test_an_approximator_of_all_values_in_place_beats_a_mean_vector(taught):
    signals = taught[-1]
    _, losses = topk.train_approximator(
        signals, K=8, gathered="picked", slots="position", steps=150, causal=True
    )
    assert losses[-1] < signals.output.var(dim=(0, 1), correction=0).mean()


def test_an_approximator_may_learn_from_other_picks(taught):
    signals = taught[-1]
    own = topk.last_keys(signals.q, signals.k, 2)
    how = dict(K=2, steps=1, gathered="picked")
    ours = topk.train_approximator(signals, picks=own, **how)[1]
    assert ours != topk.train_approximator(signals, **how)[1]


def test_as_published_the_approximator_learns_from_the_querys_own_value(taught):
    """Equal rows are merged: the same losses as with every row by itself."""
    signals = taught[-1]
    own = torch.arange(8)[:, None].expand(64, 8, 2)
    own = topk.Picks(own, torch.ones_like(own, dtype=torch.bool))
    how = dict(K=2, steps=20)
    published = topk.train_approximator(signals, **how)[1]
    plain = topk.train_approximator(signals, gathered="picked", picks=own, **how)[1]
    assert published == pytest.approx(plain, rel=1e-3)
    for slots in SLOTS:  # copies of one value have no order
        assert published == topk.train_approximator(signals, slots=slots, **how)[1]


@pytest.mark.parametrize("causal", [False, True])
def test_merging_equal_queries_changes_no_loss(taught, causal):
    signals = taught[-1]
    twice = topk.Signals(*(torch.cat((x, x)) for x in vars(signals).values()))
    how = dict(causal=causal, steps=20)
    one, two = (topk.train_selector(s, **how)[1] for s in (signals, twice))
    assert one == pytest.approx(two, rel=1e-4)
    torch.manual_seed(0)
    logits = topk.KeySelector(4, 8)(signals.q)
    if causal:
        logits = logits.masked_fill(torch.ones(8, 8).triu(1).bool(), -1e30)
    best = signals.picks(1).indices[..., 0]
    plain = torch.nn.functional.cross_entropy(logits.flatten(0, 1), best.flatten())
    assert one[0] == pytest.approx(plain.item(), rel=1e-5)


def test_evaluation_is_zero_for_the_teacher_itself_and_not_for_less(taught):
    model, tokens, _, _ = taught
    whole = topk.TopKHead(topk.oracle, None, 8)
    same = topk.evaluate(model, {0: {1: whole}}, tokens, batches=2)
    zeroed = topk.evaluate(model, {0: {1: topk.Constant()}}, tokens, batches=2)
    assert same < 1e-5 < zeroed


def test_the_oracle_is_always_right_about_the_first(taught):
    assert topk.top1_accuracy(topk.oracle, taught[-1]) == 1


def test_bad_arguments_of_the_steps_are_refused(taught):
    model, tokens, _, signals = taught
    with pytest.raises(ValueError, match="loss='top2': choose from"):
        topk.train_selector(signals, loss="top2")
    with pytest.raises(ValueError, match="head=2"):
        topk.collect_signals(model, tokens, head=2)
    with pytest.raises(ValueError, match=r"batch=600: .* from 1 to 512"):
        topk.train_approximator(signals, gathered="picked", batch=600)
    with pytest.raises(ValueError, match="steps=0"):
        topk.train_approximator(signals, K=2, steps=0)
    with pytest.raises(ValueError, match="gathered='all': choose from"):
        topk.train_approximator(signals, gathered="all")


def test_the_table_has_the_rows_that_could_embarrass_and_they_all_run(taught):
    model, tokens, _, signals = taught
    few = topk.Signals(*(x[:8] for x in vars(signals).values()))
    assert torch.equal(few.weights, signals.weights[:8])
    parts = topk.train_parts(few, K=1)
    given = topk.train_parts(few, K=1, published=parts.selectors["published"])
    assert given.selectors["published"] is parts.selectors["published"]
    losses = [net[1] for net in given.approximators.values()]
    assert losses == [net[1] for net in parts.approximators.values()]
    groups = topk.stand_ins(parts, few, K=1)
    rows = {row: head for group in groups.values() for row, head in group.items()}
    assert len(rows) == sum(map(len, groups.values()))  # no name twice
    errors = {
        row: topk.evaluate(model, {0: {1: head}}, tokens, batches=1)
        for row, head in rows.items()
    }
    assert all(0 < x < 10 for x in errors.values())
    assert topk.DELETED in errors
    assert errors["softmax, 6 keys"] < errors["softmax, 1 keys"]
    causal = {row for row, h in rows.items() if getattr(
        getattr(h, "choose", None), "causal", True)}  # fmt: skip
    assert set(rows) - causal == {"as published", "+ values gathered"}


# --- floors


@pytest.mark.parametrize("T", [1, 2, 64])
def test_floors_are_their_sums(T):
    assert topk.chance_top1(T) == pytest.approx(sum(1 / n for n in range(1, T + 1)) / T)
    pays = [math.log(n) for n in range(1, T + 1)]
    assert topk.prefix_loss(T) == pytest.approx(sum(pays) / T)
    t = torch.arange(T)
    assert topk.future_share(T) == pytest.approx((t > t[:, None]).float().mean().item())


def test_values_alone_leave_what_the_weights_would_have_told():
    unordered, ordered = (topk.values_only_error(16, ordered=o) for o in (False, True))
    assert unordered == pytest.approx(0.727, abs=0.003)
    assert ordered == pytest.approx(0.297, abs=0.003)
    assert topk.values_only_error(1, ordered=False) == 0
    even = topk.values_only_error(8, ordered=False, spread=0.01)
    assert even == pytest.approx(0.01, rel=0.1)  # nearly equal weights: nearly known


@pytest.mark.parametrize("ordered", [False, True])
def test_that_error_is_reached_by_the_best_fixed_weights(ordered):
    """Least squares over 40,000 draws can do no better, and no worse."""
    K, D, n = 4, 8, 40_000
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(n, K, generator=generator).softmax(-1)
    v = torch.randn(n, K, D, generator=generator)
    y = (w[..., None] * v).sum(1)
    if ordered:
        order = w.argsort(-1, descending=True)
        v = v.gather(1, order[..., None].expand_as(v))
    columns, target = v.mT.flatten(0, 1), y.flatten()
    fit = torch.linalg.lstsq(columns, target[:, None]).solution
    error = (columns @ fit - target[:, None]).norm() / target.norm()
    predicted = topk.values_only_error(K, ordered=ordered)
    assert error.item() == pytest.approx(predicted, rel=0.02)


def test_the_error_of_an_exact_top_k_is_that_of_attention_over_them():
    n, T, K, D = 20_000, 16, 4, 4
    generator = torch.Generator().manual_seed(2)
    logits = 2 * torch.randn(n, T, generator=generator)
    v = torch.randn(n, T, D, generator=generator)
    kept = topk.pick_keys(logits[:, None], K).pairs(T)[:, 0]
    exact = logits.softmax(-1)[:, None] @ v
    ours = logits.masked_fill(~kept, -torch.inf).softmax(-1)[:, None] @ v
    error = (ours - exact).norm() / exact.norm()
    predicted = topk.exact_topk_error(K, T, spread=2)
    assert error.item() == pytest.approx(predicted, rel=0.02)
    assert topk.exact_topk_error(T, T) < 1e-6


def test_who_sees_the_weights_errs_less_than_who_sees_their_order_than_who_does_not():
    errors = [
        topk.exact_topk_error(8, 64, spread=2),
        topk.values_only_error(8, ordered=True, T=64, spread=2),
        topk.values_only_error(8, ordered=False, T=64, spread=2),
    ]
    assert errors == sorted(errors) and errors[0] < errors[2] < 1
    with pytest.raises(ValueError, match="K=9: a whole number from 1 to 8"):
        topk.values_only_error(9, ordered=True, T=8)
