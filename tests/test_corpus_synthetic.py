"""Text whose entropy is known, and the book's text in words: the source is what it
says, and so is the least loss."""

import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats
from test_bad_input import explains

from sparse_attn import corpus
from sparse_attn.corpus import word_level


def law_of(vocab, exponent):
    return torch.from_numpy(corpus.zipf_probabilities(vocab, exponent))


def zipf(*args, **more):
    """What `corpus.zipf` gives, its arrays as tensors to compute with."""
    found = corpus.zipf(*args, **more)
    chances = found.chances if found.chances is None else torch.tensor(found.chances)
    return SimpleNamespace(
        tokens=found.tokens,
        probabilities=torch.tensor(found.probabilities),
        chances=chances,
        floor=found.floor,
        unigram_floor=found.unigram_floor,
    )


steady = settings(max_examples=40)
LONG = 100_000


# Independent tokens


@steady
@given(vocab=st.integers(1, 500), exponent=st.floats(0, 3))
def test_probabilities_follow_the_power_of_the_rank_and_sum_to_1(vocab, exponent):
    p = law_of(vocab, exponent)
    assert p.dtype == torch.float64 and len(p) == vocab
    assert float(p.sum()) == pytest.approx(1, abs=1e-12)
    for rank in {1, 2, (vocab + 1) // 2, vocab} & set(range(1, vocab + 1)):
        assert float(p[rank - 1] / p[0]) == pytest.approx(rank**-exponent)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.4])
def test_the_frequencies_of_a_long_text_are_the_probabilities(exponent):
    text = zipf(50, exponent, LONG)
    counts = text.tokens.bincount(minlength=50)
    expected = LONG * law_of(50, exponent)
    assert torch.equal(text.probabilities * LONG, expected)
    assert stats.chisquare(counts, expected).pvalue > 1e-3


def test_neighbors_are_independent():
    tokens = zipf(4, 1.0, LONG).tokens
    pairs = (4 * tokens[:-1:2] + tokens[1::2]).bincount(minlength=16).reshape(4, 4)
    assert stats.chi2_contingency(pairs).pvalue > 1e-3


@pytest.mark.parametrize("vocab", [1, 2, 10, 1000])
def test_the_entropy_of_equal_chances_is_log_v(vocab):
    text = zipf(vocab, 0.0, 5)
    assert text.floor == text.unigram_floor == pytest.approx(math.log(vocab))


@pytest.mark.parametrize("vocab, exponent, nats", [
    (1000, 1.0, 5.191), (1000, 1.2, 4.2275), (1000, 1.4, 3.312), (200, 1.4, 2.9483),
])  # fmt: skip
def test_the_floors_of_the_experiment(vocab, exponent, nats):
    text = zipf(vocab, exponent, 5)
    places = len(str(nats).split(".")[1])
    assert round(text.floor, places) == nats
    assert text.floor == text.unigram_floor and text.chances is None
    assert text.floor == pytest.approx(stats.entropy(text.probabilities))


def test_what_never_happens_adds_nothing_to_the_entropy():
    p = torch.tensor([0.5, 0.0, 0.25, 0.25])
    assert corpus.entropy(p.numpy()) == pytest.approx(1.5 * math.log(2))
    assert corpus.entropy(np.array([0.0, 1.0])) == 0


# A chain


@pytest.fixture(scope="module")
def chain():
    return zipf(1000, 1.2, LONG, order=1)


def test_chances_are_half_the_law_and_an_eighth_for_each_successor(chain):
    law = law_of(1000, 1.2)
    torch.testing.assert_close(chain.chances.sum(dim=1), torch.ones(1000).double())
    eighths = 8 * (chain.chances - law / 2)
    torch.testing.assert_close(eighths, eighths.round(), rtol=0, atol=1e-12)
    assert (eighths.round() >= 0).all()
    assert (eighths.round().sum(dim=1) == 4).all()


@pytest.mark.parametrize("vocab", [1, 2, 7, 1000])
def test_what_a_chain_settles_at_stays(vocab):
    text = zipf(vocab, 1.2, 5, order=1)
    after = text.probabilities @ text.chances
    torch.testing.assert_close(after, text.probabilities, rtol=0, atol=1e-13)
    assert float(text.probabilities.sum()) == pytest.approx(1, abs=1e-12)


def test_stationary_frequencies_solve_their_equations():
    chances = torch.rand(6, 6, generator=torch.Generator().manual_seed(0)).double()
    chances /= chances.sum(dim=1, keepdim=True)
    equations = torch.cat((chances.mT - torch.eye(6), torch.ones(1, 6).double()))
    sums = torch.tensor([[0.0] * 6 + [1.0]]).double().mT
    expected = torch.linalg.lstsq(equations, sums).solution.flatten()
    torch.testing.assert_close(
        torch.from_numpy(corpus.stationary(chances.numpy())), expected
    )


def test_a_chain_is_near_its_law_and_its_past_is_worth_knowing(chain):
    law = law_of(1000, 1.2)
    assert (chain.probabilities - law).abs().sum() < 0.5
    assert not torch.allclose(chain.probabilities, law)
    assert chain.floor < chain.unigram_floor - 0.5
    rows = [corpus.entropy(row.numpy()) for row in chain.chances]
    mean = sum(
        p * row for p, row in zip(chain.probabilities.tolist(), rows, strict=True)
    )
    assert chain.floor == pytest.approx(mean)


def block_errors(nats, size=100):
    """The mean, and its standard error from blocks: neighbors are not independent."""
    blocks = nats[: len(nats) // size * size].reshape(-1, size).mean(dim=1)
    return float(nats.mean()), float(blocks.std() / math.sqrt(len(blocks)))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_long_text_costs_its_source_the_floor_and_no_less(seed):
    text = zipf(1000, 1.2, LONG, order=1, seed=seed)
    before, after = text.tokens[:-1], text.tokens[1:]
    nats = -text.chances[before, after].log()
    mean, error = block_errors(nats)
    assert error < 0.02 and abs(mean - text.floor) < 4 * error
    mean, error = block_errors(-text.probabilities[text.tokens].log())
    assert error < 0.02 and abs(mean - text.unigram_floor) < 4 * error


def test_tokens_follow_each_other_as_often_as_the_chances_say():
    text = zipf(5, 1.0, LONG, order=1)
    before, after = text.tokens[:-1], text.tokens[1:]
    pairs = (5 * before + after).bincount(minlength=25).reshape(5, 5)
    for seen, chances in zip(pairs, text.chances, strict=True):
        assert stats.chisquare(seen, seen.sum() * chances).pvalue > 1e-3


def test_a_chain_begins_where_it_settles():
    first = [zipf(3, 1.0, 1, 1, seed).tokens.item() for seed in range(2000)]
    expected = zipf(3, 1.0, 1, 1).probabilities * 2000
    counts = torch.tensor(first).bincount(minlength=3)
    assert stats.chisquare(counts, expected).pvalue > 1e-3


def test_successors_are_the_same_for_every_text(chain):
    other = zipf(1000, 1.2, 50, order=1, seed=7)
    assert torch.equal(chain.chances, other.chances)
    assert torch.equal(chain.probabilities, other.probabilities)


# Both


@pytest.mark.parametrize("order", [0, 1])
def test_a_text_depends_on_its_seed_alone(order):
    first, again, other = (zipf(50, 1.0, 400, order, seed).tokens for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.shape == (400,) and first.dtype == torch.int64
    assert first.min() >= 0 and first.max() < 50


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("vocab, length", [(1, 1), (1, 9), (9, 1), (2, 2)])
def test_the_smallest_texts(vocab, length, order):
    text = zipf(vocab, 1.0, length, order)
    assert text.tokens.shape == (length,) and text.tokens.max() < vocab
    assert vocab > 1 or (text.floor, text.unigram_floor) == (0, 0)


@pytest.mark.parametrize("changed, name, got", [
    (dict(vocab=0), "vocab", 0), (dict(length=0), "length", 0),
    (dict(exponent=math.nan), "exponent", "nan"), (dict(order=2), "order", 2),
    (dict(order=-1), "order", -1), (dict(seed=-1), "seed", -1),
    (dict(seed=0.5), "seed", 0.5), (dict(vocab=2.0), "vocab", 2.0),
])  # fmt: skip
def test_arguments_that_do_not_fit_are_named(changed, name, got):
    explains(lambda: corpus.zipf(**dict(vocab=5) | changed), name, got)


# Words


@pytest.fixture(scope="module")
def text():
    return corpus.words(2000)


def walked(numbers, names, text):
    """Go through `text` by the words' names; the unknown words, and where it ends."""
    at, unknown = 0, []
    for number in numbers.tolist():
        if number == len(names) - 1:
            word = word_level.WORD.match(text, at)[0]
            unknown.append(word)
        else:
            word = names[number]
            assert text.startswith(word, at), (word, text[at : at + 40])
        at += len(word)
    return unknown, at


def read(part):
    return bytes(part.numpy()).decode()


def test_joined_names_are_the_text_but_for_unknown_words(text):
    source = corpus.load()
    whole = read(source.validation)
    unknown, end = walked(text.validation, text.names, whole)
    assert end == len(whole)
    assert not set(unknown) & set(text.names)
    walked(text.train[:LONG], text.names, read(source.train[: 10 * LONG]))


def test_every_word_has_a_number_and_a_name_of_its_own(text):
    assert len(text.names) == len(set(text.names)) == 2000
    assert text.names[-1] == corpus.UNKNOWN
    for part in (text.train, text.validation):
        assert part.ndim == 1 and part.dtype == torch.int64
        assert part.min() >= 0 and part.max() < 2000


def test_names_come_in_order_of_frequency(text):
    counts = text.train.bincount(minlength=2000)[:-1]
    assert (counts.diff() <= 0).all() and counts.min() > 0
    assert {" ", "(", "self"} <= set(text.names[:50])


def test_few_words_are_unknown(text):
    for part in (text.train, text.validation):
        assert 0.01 < (part == 1999).double().mean() < 0.1


def test_both_parts_are_long_enough_for_the_experiment(text):
    assert len(text.validation) >= 60_000
    assert len(text.train) >= 10 * 100_000
    share = len(text.validation) / (len(text.validation) + len(text.train))
    assert 0.03 < share < 0.07  # one document in twenty


def test_words_are_cut_once(text):
    assert corpus.words(2000) is text


@pytest.fixture
def small(monkeypatch):
    """Words of a text of one's own, past the cache: small(train, validation, vocab)."""

    def cut(train, validation, vocab):
        parts = (
            torch.frombuffer(bytearray(part.encode()), dtype=torch.uint8)
            for part in (train, validation)
        )
        source = corpus.Corpus(*parts, documents={}, sha256="")
        monkeypatch.setattr(word_level, "load", lambda: source)
        return corpus.words.__wrapped__(vocab)

    return cut


def test_a_text_cut_by_hand(small):
    found = small("if x_1 == 12:\n    x_1 é", "1 y", 10)
    names = [" ", "x_", "1", "=", "if", "2", ":", "\n    ", "é", corpus.UNKNOWN]
    counts = Counter(found.train.tolist())
    assert sorted(found.names) == sorted(names)
    assert found.names[:4] == (" ", "1", "x_", "=") and counts[0] == 4
    assert "".join(found.names[i] for i in found.train) == "if x_1 == 12:\n    x_1 é"
    assert [found.names[i] for i in found.validation] == ["1", " ", corpus.UNKNOWN]


@settings(steady, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    train=st.text(min_size=1, max_size=40), validation=st.text(min_size=1, max_size=9)
)
def test_with_all_words_known_any_text_comes_back(small, train, validation):
    distinct = len(set(word_level.WORD.findall(train)))
    found = small(train, validation, distinct + 1)
    assert "".join(found.names[i] for i in found.train) == train
    _, end = walked(found.validation, found.names, validation)
    assert end == len(validation)


@pytest.mark.parametrize("vocab", [1, 0, 2.5, True])
def test_fewer_than_two_words_are_refused(vocab):
    explains(lambda: corpus.words(vocab), "vocab", vocab)


def test_more_words_than_the_text_has_are_refused(small):
    assert small("a b a", "a", 4).names == ("a", " ", "b", corpus.UNKNOWN)
    explains(lambda: small("a b a", "a", 5), "vocab", 5)
