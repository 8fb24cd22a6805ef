"""Distances between attentions and between models, each against its definition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from small_gpt import SMALL, lively, text
from test_apple_safety import LikeMPS
from test_bad_input import explains

from sparse_attn import metrics, training
from sparse_attn.attention import attention_weights, causal_mask

pytestmark = pytest.mark.usefixtures("one_thread")
steady = settings(max_examples=40)


def weights_and_pairs(T=9, S=9, B=2, H=2, seed=0, causal=True):
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(B, H, n, 4, generator=generator) for n in (T, S))
    pairs = torch.rand(B, H, T, S, generator=generator) < 0.4
    return attention_weights(q, k, k, causal=causal), pairs


def windows(N=5, T=12, seed=0):
    tokens = text(N, T + 1, SMALL.vocab, seed)
    return tokens[:, :-1], tokens[:, 1:]


# Recall


@steady
@given(
    T=st.integers(1, 9),
    more=st.integers(0, 4),
    K=st.integers(1, 13),
    seed=st.integers(0, 99),
    causal=st.booleans(),
)
def test_recall_at_k_is_the_share_of_the_heaviest_keys_that_are_kept(
    T, more, K, seed, causal
):
    S = T + more
    K = min(K, S)
    weights, pairs = weights_and_pairs(T, S, seed=seed, causal=causal)
    recall = metrics.recall_at_k(weights, pairs, K)
    for b in range(2):
        for h in range(2):
            kept = wanted = 0
            for t in range(T):
                seen = range(t + more + 1 if causal else S)
                row = weights[b, h, t].tolist()
                best = sorted(seen, key=lambda s: -row[s])[:K]
                wanted += len(best)
                kept += sum(pairs[b, h, t, s].item() for s in best)
            assert recall[b, h].item() == pytest.approx(kept / wanted)


def test_everything_recalls_all_and_nothing_none_with_few_keys_or_many():
    weights, pairs = weights_and_pairs()
    for K in (1, 4, 9):
        every = metrics.recall_at_k(weights, torch.ones_like(pairs), K)
        assert torch.equal(every, torch.ones(2, 2))
        none = metrics.recall_at_k(weights, torch.zeros_like(pairs), K)
        assert torch.equal(none, torch.zeros(2, 2))


@pytest.mark.parametrize("K", [0, 2.5, 10])
def test_recall_of_no_number_of_keys_is_refused(K):
    explains(lambda: metrics.recall_at_k(*weights_and_pairs(), K), "K", K)


def test_weights_and_pairs_that_do_not_fit_are_refused():
    weights, pairs = weights_and_pairs()
    for recall in (metrics.attention_recall, lambda w, p: metrics.recall_at_k(w, p, 2)):
        explains(lambda f=recall: f(2 * weights, pairs), "weights", "sum 2")
        explains(lambda f=recall: f(weights, pairs.float()), "pairs", "torch.float32")
        explains(lambda f=recall: f(weights, pairs[:1]), "pairs", (1, 2, 9, 9))


# Errors


def test_a_relative_error_is_the_norm_of_what_is_off_over_the_norm_of_all():
    exact = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert metrics.relative_error(exact, exact) == 0
    assert metrics.relative_error(0 * exact, exact) == 1
    assert metrics.relative_error(3 * exact, exact) == 2
    off = exact + torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    assert metrics.relative_error(off, exact) == pytest.approx(2 / 5)


def test_errors_of_different_shapes_are_refused():
    wrong, right = torch.ones(2, 3), torch.ones(3)
    explains(lambda: metrics.relative_error(wrong, right), "approximation", (2, 3))


# A model beside its teacher


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_a_model_beside_itself_is_not_off_at_all(batch):
    model, (x, y) = lively(SMALL), windows()
    exact = metrics.teacher_logits(model, x, batch)
    assert [len(part) for part in exact] == [len(part) for part in x.split(batch)]
    found = metrics.compare(exact, model, x, y)
    assert found.bits == found.teacher_bits and len(found.bits) == len(x)
    assert found.change == found.kl == found.logit_error == found.standard_error == 0


def test_bits_per_token_are_those_of_the_evaluation():
    teacher, model, (x, y) = lively(SMALL), lively(SMALL, seed=1), windows()
    found = metrics.compare(metrics.teacher_logits(teacher, x, 2), model, x, y)
    ours, theirs = (training.evaluate(m, x, y) for m in (model, teacher))
    assert found.bits_per_token == pytest.approx(ours, rel=1e-5)
    assert sum(found.teacher_bits) / len(x) == pytest.approx(theirs, rel=1e-5)
    assert found.change == pytest.approx(ours - theirs, rel=1e-4)
    each = [training.evaluate(model, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    assert found.bits == pytest.approx(each, rel=1e-5)


@pytest.mark.parametrize("seed", range(1, 5))
def test_divergence_and_logit_error_are_their_definitions(seed):
    teacher, model, (x, y) = lively(SMALL), lively(SMALL, seed=seed), windows(3)
    found = metrics.compare(metrics.teacher_logits(teacher, x, 2), model, x, y)
    with torch.no_grad():
        theirs, ours = teacher(x).double(), model(x).double()
    p, r = theirs.softmax(-1).numpy(), ours.softmax(-1).numpy()
    expected = stats.entropy(p, r, base=2, axis=-1).mean()
    assert found.kl == pytest.approx(expected, rel=1e-4) and found.kl > 0
    off = metrics.relative_error(ours, theirs)
    assert found.logit_error == pytest.approx(off, rel=1e-4)


def test_the_standard_error_is_of_the_differences_window_by_window():
    ours, theirs = (2.0, 3.5, 1.0, 4.0), (1.5, 3.25, 1.25, 3.0)
    found = metrics.Comparison(ours, theirs, 0.0, 0.0)
    changes = [a - b for a, b in zip(ours, theirs, strict=True)]
    assert found.standard_error == pytest.approx(stats.sem(changes))
    assert found.change == pytest.approx(sum(changes) / 4)
    assert found.standard_error < stats.sem(ours)  # windows differ more than models
    assert metrics.Comparison((2.0,), (1.0,), 0.0, 0.0).standard_error == 0


def test_a_model_that_knows_nothing_needs_the_bits_of_its_vocabulary():
    model, (x, y) = lively(SMALL), windows()
    uniform = tuple(torch.ones_like(p) for p in metrics.teacher_logits(model, x))
    found = metrics.compare(uniform, model, x, y)
    assert found.teacher_bits == pytest.approx([math.log2(SMALL.vocab)] * len(x))


def test_other_windows_than_the_teachers_are_refused():
    model, (x, y) = lively(SMALL), windows()
    exact = metrics.teacher_logits(model, x)
    explains(lambda: metrics.compare(exact, model, x[:4], y[:4]), "exact", "5 windows")
    explains(lambda: metrics.compare(exact, model, x, y[:4]), "y", (4, 12))
    explains(lambda: metrics.teacher_logits(model, x, 0), "batch", 0)


def test_it_runs_with_what_mps_has():
    model, (x, y) = lively(SMALL), windows()
    weights, pairs = attention_weights(*torch.ones(3, 1, 2, 5, 4)), causal_mask(5, 5)
    pairs = pairs.expand_as(weights)
    with LikeMPS():
        found = metrics.compare(metrics.teacher_logits(model, x), model, x, y)
        metrics.recall_at_k(weights, pairs, 2)
        assert metrics.relative_error(weights, weights) == 0
    assert found.change == 0
