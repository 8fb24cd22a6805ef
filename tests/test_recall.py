"""Associative recall: the task is what it says, and a small model solves it."""

from pathlib import Path

import pytest
import torch
from torch import nn

from sparse_attn import gpt, recall
from sparse_attn import patterns as P
from sparse_attn.attention import attention_weights
from sparse_attn.recall import GAP, accuracy, pairs_of, prepare, questions, vocabulary

pytestmark = pytest.mark.usefixtures("one_thread")

TEACHER = Path(__file__).resolve().parent.parent / "book" / "data"
TINY = gpt.GPTConfig(
    layers=2, heads=2, width=32, vocab=9, context=64, positions="rotary", norm="rms"
)
SMALL = dict(keys=4, values=4)  # the task that TINY has words for


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Lookup(nn.Module):
    """Answers by looking for the first place of each token: right, by construction.

    Logits one-hot at the token after the first occurrence of the last token.
    """

    def __init__(self, vocab, blind=False):
        super().__init__()
        self.vocab, self.blind = vocab, blind
        self.weight = nn.Parameter(torch.zeros(1))  # a model has a device

    def forward(self, x):
        first = (x[:, :, None] == x[:, None, :]).int().argmax(dim=-1)  # (B, T)
        after = x.gather(1, (first + 1).clamp(max=x.shape[1] - 1))
        if self.blind:
            after = torch.full_like(after, self.vocab - 2)  # always the last value
        return nn.functional.one_hot(after, self.vocab).float()


@pytest.mark.parametrize("T", [35, 36, 64, 97, 128, 256, 301, 512, 1024])
def test_each_question_has_its_key_once_before_and_the_answer_right_after(T):
    x, y, asked = questions(3, T, seeded())
    assert x.shape == y.shape == asked.shape == (3, T)
    assert (x.dtype, y.dtype, asked.dtype) == (torch.int64, torch.int64, torch.bool)
    assert x[:, 1:].equal(y[:, :-1])
    assert asked.sum(dim=1).tolist() == [pairs_of(T)] * 3
    for b, t in asked.nonzero().tolist():
        (before,) = (x[b, :t] == x[b, t]).nonzero().flatten().tolist()
        assert y[b, t] == x[b, before + 1]
        assert 0 <= x[b, t] < recall.KEYS <= y[b, t] < vocabulary() - 1
        assert t - (before + 1) > GAP


def test_what_is_not_pairs_or_questions_is_filler_and_every_pair_is_asked():
    x, y, asked = questions(4, 128, seeded(), pairs=5)
    whole = torch.cat((x, y[:, -1:]), dim=1)
    assert (whole[:, 10:-10] == vocabulary() - 1).all()
    told, again = (
        whole[:, :10].unflatten(1, (5, 2)),
        whole[:, -10:].unflatten(1, (5, 2)),
    )
    for a, b in zip(told.tolist(), again.tolist(), strict=True):
        assert sorted(a) == sorted(b)
    assert not told.equal(again)  # the order is another one
    assert asked.nonzero()[:, 1].view(4, 5)[0].tolist() == list(range(119, 128, 2))


def test_keys_values_and_orders_are_drawn_evenly():
    x, y, asked = questions(4000, 64, seeded(), keys=8, values=4)
    for tokens, size in ((x[:, 0], 8), (y[asked] - 8, 4)):
        share = tokens.bincount(minlength=size) / len(tokens)
        spread = (size * len(tokens)) ** -0.5  # of one share, at most
        assert share.sub(1 / size).abs().max() < 5 * spread
    first = (x[:, :16:2] == x[asked].view(4000, 8)[:, :1]).int().argmax(dim=1)
    share = first.bincount(minlength=8) / 4000  # which pair is asked first
    assert share.sub(1 / 8).abs().max() < 5 * (8 * 4000) ** -0.5


def test_a_seed_gives_the_same_questions_and_another_gives_others():
    a, b, c = (questions(2, 96, seeded(seed)) for seed in (3, 3, 4))
    assert all(p.equal(q) for p, q in zip(a, b, strict=True))
    assert not a[0].equal(c[0])


def test_pairs_grow_with_the_length_as_far_as_there_are_keys():
    assert [pairs_of(T) for T in (35, 64, 128, 256, 512, 4096)] == [
        1,
        8,
        16,
        32,
        64,
        64,
    ]
    assert pairs_of(512, keys=20) == 20
    assert all(T + 1 - 4 * pairs_of(T) >= GAP for T in range(35, 600))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(T=34), r"T=34: a whole number at least 35"),
        (dict(B=0), r"B=0"),
        (dict(pairs=0), r"pairs=0"),
        (dict(pairs=65), r"pairs=65: a whole number from 1 to 64"),
        (dict(pairs=9), r"T=64 leaves a gap of 29 beside pairs=9.*T=67"),
        (dict(keys=0), r"keys=0"),
        (dict(values=1.5), r"values=1.5"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    settings = dict(B=2, T=64) | changes
    with pytest.raises(ValueError, match=message):
        questions(settings.pop("B"), settings.pop("T"), seeded(), **settings)


def test_the_length_an_error_asks_for_is_the_least_that_fits():
    questions(1, 67, seeded(), pairs=9)
    with pytest.raises(ValueError, match="T=67"):
        questions(1, 66, seeded(), pairs=9)


def test_a_lookup_answers_everything_and_a_blind_guess_its_share():
    x, y, asked = questions(40, 256, seeded())
    assert accuracy(Lookup(vocabulary()), x, y, asked, batch=7) == 1
    blind = accuracy(Lookup(vocabulary(), blind=True), x, y, asked)
    assert blind == int((y[asked] == vocabulary() - 2).sum()) / int(asked.sum())
    assert 0 < blind < 3 / recall.VALUES


def test_accuracy_leaves_the_mode_and_refuses_what_does_not_fit():
    x, y, asked = questions(2, 64, seeded())
    model = Lookup(vocabulary())
    accuracy(model.train(), x, y, asked)
    assert model.training
    with pytest.raises(ValueError, match=r"shapes \[\(2, 64\), \(2, 63\), \(2, 64\)\]"):
        accuracy(model, x, y[:, 1:], asked)
    with pytest.raises(ValueError, match="True 0 times"):
        accuracy(model, x, y, torch.zeros_like(asked))
    with pytest.raises(ValueError, match=r"torch\.int64"):
        accuracy(model, x, y, asked.long())


def tiny():
    torch.manual_seed(0)
    return prepare(gpt.GPT(TINY))


LEARN = dict(lengths=(40, 48), tokens=512, muon=0.02, progress=False) | SMALL


def test_training_goes_below_a_blind_guess():
    losses = recall.train(tiny(), steps=60, **LEARN).losses
    assert len(losses) == 60
    assert losses[0] > 4  # bits; a blind guess of 4 values is 2
    assert sum(losses[-10:]) / 10 < 1.85


def test_the_same_seed_gives_the_same_losses_and_another_gives_others():
    first, again = (recall.train(tiny(), steps=3, **LEARN) for _ in range(2))
    assert first == again != recall.train(tiny(), steps=3, seed=1, **LEARN)


def test_longer_sequences_join_until_half_of_the_steps_are_done(monkeypatch):
    drawn = []

    def noted(B, T, *args, **kwargs):
        drawn.append((B, T))
        return questions(B, T, *args, **kwargs)

    monkeypatch.setattr(recall, "questions", noted)
    settings = LEARN | dict(lengths=(36, 40, 44, 48), tokens=90)
    recall.train(tiny(), steps=40, **settings)
    assert {T for _, T in drawn[:10]} == {36, 40}
    assert {T for _, T in drawn[10:20]} <= {36, 40, 44}
    assert {T for _, T in drawn[20:]} == {36, 40, 44, 48}
    assert all(B == 90 // T for B, T in drawn)


def test_training_that_diverges_says_so():
    model = tiny()
    with torch.no_grad():
        model.norm.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="smaller learning_rate"):
        recall.train(model, steps=1, **LEARN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(steps=0), "steps=0"),
        (dict(lengths=()), "lengths=0"),
        (dict(lengths=(40, 30), steps=20), "T=30"),
        (dict(learning_rate=float("nan")), "learning_rate=nan"),
        (dict(seed=-1), "seed=-1"),
        (dict(muon=0.0), r"muon=0\.0"),
    ],
)
def test_training_refuses_what_does_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        recall.train(tiny(), **(dict(steps=1) | LEARN | changes))


def test_a_prepared_head_looks_at_the_previous_token_whatever_the_tokens_are():
    model = prepare(gpt.GPT(TINY.but(width=64, context=512)))
    attention, T = model.blocks[0].attention, 512
    with torch.no_grad():
        attention.query.weight.zero_()  # what remains is the biases
        attention.key.weight.zero_()
        seen = []
        attention.scores.register_forward_pre_hook(lambda _, qkv: seen.append(qkv))
        model(torch.randint(TINY.vocab, (1, T), generator=seeded()))
    q, k, v = seen[0]
    weights = attention_weights(q, k, v, causal=True)
    first, second = weights[0]
    assert first[1:].argmax(dim=-1).equal(torch.arange(T - 1))
    even = torch.ones(T, T).tril() / torch.arange(1, T + 1)[:, None]
    assert (second - even).abs().max() < 1e-6  # the other heads look nowhere yet


@pytest.mark.parametrize("changes", [dict(positions="learned"), dict(bias=False)])
def test_only_a_model_with_rotary_positions_and_biases_is_prepared(changes):
    with pytest.raises(ValueError, match="positions='rotary' and bias"):
        prepare(gpt.GPT(TINY.but(**changes)))


@pytest.mark.parametrize("T", [128, 256])
def test_the_committed_model_answers_and_a_window_does_not(T):
    path = TEACHER / "recall.safetensors"
    assert path.stat().st_size < 1e6
    model, notes = gpt.load(path)
    asked = questions(8, T, seeded(T))
    right = accuracy(model, *asked)
    assert right >= 0.99
    assert float(notes[f"accuracy_{T}"]) >= 0.995
    with P.imposed(model, P.sliding_window(16)):
        assert accuracy(model, *asked) < 5 / recall.VALUES


class Heaviest(nn.Module):
    """Attention over the K heaviest keys of each query, in place of `layers.Scores`."""

    def __init__(self, K):
        super().__init__()
        self.K = K

    def forward(self, q, k, v, mask=None):
        heaviest = attention_weights(q, k, v, causal=True).topk(self.K, dim=-1)
        kept = torch.zeros(*q.shape[:3], k.shape[2])
        kept.scatter_(-1, heaviest.indices, heaviest.values)
        return kept / kept.sum(dim=-1, keepdim=True) @ v


@pytest.mark.parametrize("K", [1, 16])
def test_the_committed_model_needs_no_more_than_its_heaviest_keys(K):
    model, _ = gpt.load(TEACHER / "recall.safetensors")
    fresh = questions(8, 256, seeded(1))
    full = accuracy(model, *fresh)
    for block in model.blocks:
        block.attention.scores = Heaviest(K)
    assert accuracy(model, *fresh) >= 0.99 * full
