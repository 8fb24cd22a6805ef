"""Tables by frequency: equal to a loop over tokens, trained in every part, causal."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small_gpt import SMALL, lively, text
from test_bad_input import explains
from torch import nn

from sparse_attn import cost
from sparse_attn.embeddings import (
    MULTIPLIERS,
    SPLIT,
    BespokeTokenEmbedding,
    FrequencyAnalysis,
    adaptive,
    band_widths,
    nats_by_band,
    with_embedding,
)
from sparse_attn.gpt import GPT, save
from sparse_attn.metrics import future_leak

pytestmark = pytest.mark.usefixtures("one_thread")
steady = settings(max_examples=40)
V, C = 23, 12
TIED = SMALL.but(vocab=V, width=C, heads=2)
EQUAL = (1, 1, 1)


def counted(vocab=V, seed=0):
    """Counts with ties and zeros, in no order."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(9, (vocab,), generator=generator)


def bands(vocab=V, split=SPLIT, seed=0):
    return FrequencyAnalysis(counted(vocab, seed), split)


def made(multipliers=MULTIPLIERS, base=C, seed=0, **how):
    torch.manual_seed(seed)
    return BespokeTokenEmbedding(V, base, bands(), multipliers, **how)


def one_by_one(embedding, tokens, analysis):
    """The vectors of a list of tokens, found the slow way."""
    vectors = []
    for token in tokens:
        i = int(analysis.band[token])
        vector = embedding.tables[i].weight[int(analysis.place[token])]
        project = embedding.projections[i]
        if isinstance(project, nn.Linear):
            vector = project.weight @ vector
        vectors.append(vector)
    return torch.stack(vectors)


# Bands


@steady
@given(
    counts=st.lists(st.integers(0, 6), min_size=10, max_size=60),
    split=st.sampled_from([SPLIT, (0.5, 0.5), (1.0,), (0.1, 0.2, 0.3, 0.4)]),
)
def test_bands_part_all_tokens_the_most_frequent_first_and_ties_by_id(counts, split):
    found = FrequencyAnalysis(counts, split)
    n = len(counts)
    expected = sorted(range(n), key=lambda token: (-counts[token], token))
    assert found.order.tolist() == expected
    assert sum(found.sizes) == n == found.vocab
    for i, size in enumerate(found.sizes):
        mine = expected[sum(found.sizes[:i]) :][:size]
        assert found.band[mine].tolist() == [i] * size
        assert found.place[mine].tolist() == list(range(size))
        assert abs(sum(found.sizes[: i + 1]) - n * sum(split[: i + 1])) <= 0.5 + 1e-9


@pytest.mark.parametrize("vocab, sizes", [
    (5, (1, 3, 1)), (7, (1, 5, 1)), (11, (2, 7, 2)), (13, (3, 7, 3)), (23, (5, 13, 5)),
    (200, (40, 120, 40)), (1000, (200, 600, 200)),
])  # fmt: skip
def test_sizes_are_shares_rounded_to_the_nearest_token(vocab, sizes):
    assert bands(vocab).sizes == sizes


def test_shares_whose_sum_is_1_but_for_rounding_lose_no_token():
    split = (0.2, 0.6, 0.1999992)  # of a million tokens, one short
    found = FrequencyAnalysis(torch.zeros(1_000_000, dtype=torch.long), split)
    assert sum(found.sizes) == 1_000_000
    assert len(found.band) == len(found.place) == 1_000_000
    assert found.band.bincount().tolist() == list(found.sizes)


def test_a_text_is_counted():
    tokens = torch.tensor([[3, 3, 1], [3, 1, 4]])
    found = FrequencyAnalysis.of(tokens, 5, (0.4, 0.6))
    assert found.order.tolist() == [3, 1, 4, 0, 2]
    assert found.band.tolist() == [1, 0, 1, 0, 1]
    assert found.place.tolist() == [1, 1, 2, 0, 0]
    for narrow in (tokens.to(torch.uint8), tokens.tolist()):
        assert torch.equal(FrequencyAnalysis.of(narrow, 5).order, found.order)


NO_COUNTS = {"two axes": [[1, 2]], "none": [], "below 0": [3, -1]}


@pytest.mark.parametrize("counts", NO_COUNTS.values(), ids=NO_COUNTS)
def test_counts_that_are_none_are_refused(counts):
    shape = tuple(torch.tensor(counts).shape)
    explains(lambda: FrequencyAnalysis(counts), "counts", shape)


@pytest.mark.parametrize("split, got", [
    ((0.5, 0.6), "(0.5, 0.6)"), ((1.2, -0.2), "-0.2"), ((0.0, 1.0), "(0.0, 1.0)"),
    ((), "()"), ((math.nan, 1.0), "nan"), ((0.01, 0.99), "(0, 23)"),
])  # fmt: skip
def test_shares_that_make_no_bands_are_refused(split, got):
    explains(lambda: bands(split=split), "split", got)


def test_ids_outside_of_the_vocabulary_are_refused():
    for tokens, got in (([0, 5], "0 to 5"), ([-1, 2], "-1 to 2")):
        explains(lambda t=tokens: FrequencyAnalysis.of(t, 5), "tokens", got)
    explains(lambda: FrequencyAnalysis.of([0], 0), "vocab", 0)


# The embedding


def test_the_published_widths_are_179_128_and_76_of_128():
    embedding = made(base=128)
    assert band_widths(128, MULTIPLIERS) == (179, 128, 76)
    assert [t.weight.shape[1] for t in embedding.tables] == [179, 128, 76]
    projections = [p for p in embedding.projections if isinstance(p, nn.Linear)]
    shapes = [tuple(p.weight.shape) for p in projections]
    assert shapes == [(128, 179), (128, 76)]


HOW = {
    "published": dict(),
    "reversed": dict(multipliers=MULTIPLIERS[::-1]),
    "equal": dict(multipliers=EQUAL),
    "equal, projected": dict(multipliers=EQUAL, project=True),
}
every_way = pytest.mark.parametrize("how", HOW.values(), ids=HOW)


@every_way
def test_it_is_a_loop_over_tokens(how):
    embedding, tokens = made(**how).double(), text(3, 17, V)
    expected = one_by_one(embedding, tokens.flatten().tolist(), bands())
    torch.testing.assert_close(embedding(tokens), expected.reshape(3, 17, C))


@every_way
def test_its_gradients_are_those_of_the_loop(how):
    embedding, tokens = made(**how).double(), text(2, 9, V)
    weights = list(embedding.parameters())
    cares = torch.randn(18, C, dtype=torch.float64)
    ours = torch.autograd.grad((embedding(tokens).flatten(0, 1) * cares).sum(), weights)
    looped = one_by_one(embedding, tokens.flatten().tolist(), bands())
    theirs = torch.autograd.grad((looped * cares).sum(), weights)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("shape", [(), (1,), (4,), (0,), (2, 3), (2, 0), (2, 3, 4)])
def test_any_shape_of_tokens_goes_in(shape):
    tokens = torch.arange(math.prod(shape)).reshape(shape) % V
    out = made()(tokens)
    assert out.shape == (*shape, C)
    if tokens.numel():
        torch.testing.assert_close(out.reshape(-1, C), made()(tokens.flatten()))


def test_every_table_and_projection_is_registered_and_learns():
    embedding = made()
    names = {name for name, _ in embedding.named_parameters()}
    assert names == {
        "tables.0.weight", "tables.1.weight", "tables.2.weight",
        "projections.0.weight", "projections.2.weight",
    }  # fmt: skip
    embedding(torch.arange(V)).square().sum().backward()
    for weight in embedding.parameters():
        assert weight.grad.ne(0).any(dim=-1).all()  # every token's, every output's


def test_in_a_plain_dict_as_published_nothing_is_registered():
    class Published(nn.Module):
        """The sketch's way to keep its tables."""

        def __init__(self):
            super().__init__()
            self.embeddings = {
                str(i): nn.Embedding(n, width)
                for i, (n, width) in enumerate(
                    zip((5, 13, 5), (16, 12, 7), strict=True)
                )
            }

    assert list(Published().parameters()) == [] and Published().state_dict() == {}
    tables = sum(table.weight.numel() for table in made().tables)
    assert tables == 5 * 16 + 13 * 12 + 5 * 7


@pytest.mark.parametrize("absent", range(3))
def test_a_token_that_is_absent_moves_nothing(absent):
    embedding, analysis = made(), bands()
    tokens = torch.arange(V)[analysis.band != absent]
    embedding(tokens).square().sum().backward()
    for i, (table, project) in enumerate(
        zip(embedding.tables, embedding.projections, strict=True)
    ):
        weights = [table.weight, *project.parameters()]
        assert all(bool(weight.grad.any()) == (i != absent) for weight in weights)


@every_way
def test_logits_are_products_with_every_tokens_own_vector(how):
    embedding = made(**how).double()
    x = torch.randn(2, 5, C, dtype=torch.float64)
    expected = x @ embedding(torch.arange(V)).mT
    torch.testing.assert_close(embedding.inverse(x), expected)
    torch.testing.assert_close(embedding.inverse(x[0, 0]), expected[0, 0])


@steady
@given(
    vocab=st.integers(10, 80),
    base=st.integers(2, 40),
    multipliers=st.tuples(*[st.sampled_from([0.5, 0.6, 1, 1.4, 2])] * 3),
    project=st.booleans(),
)
def test_it_holds_what_its_cost_says(vocab, base, multipliers, project):
    analysis = bands(vocab)
    with torch.device("cpu"):
        embedding = BespokeTokenEmbedding(
            vocab, base, analysis, multipliers, project=project
        )
    widths = [int(base * one) for one in multipliers]
    tables, projections = cost.banded_parameters(
        analysis.sizes, widths, base, project=project
    )
    assert sum(t.weight.numel() for t in embedding.tables) == tables
    assert sum(p.numel() for p in embedding.parameters()) == tables + projections


def test_equal_widths_without_projections_are_one_table_in_another_order():
    embedding, tokens = made(EQUAL), text(3, 11, V)
    assert sum(p.numel() for p in embedding.parameters()) == V * C
    by_rank = torch.cat([table.weight for table in embedding.tables])
    weight = torch.empty(V, C)
    for rank, token in enumerate(bands().order.tolist()):
        weight[token] = by_rank[rank].detach()
    assert torch.equal(embedding(tokens), F.embedding(tokens, weight))
    x = torch.randn(4, C)
    torch.testing.assert_close(embedding.inverse(x), x @ weight.mT)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_it_moves_to_another_dtype_with_its_indices_left_whole(dtype):
    embedding, tokens = made().to(dtype), text(2, 5, V)
    assert embedding(tokens).dtype == dtype
    assert embedding.inverse(embedding(tokens)).dtype == dtype
    assert {b.dtype for b in embedding.buffers()} == {torch.int64}
    expected = made()(tokens)
    off = (embedding(tokens).double() - expected.double()).abs().max()
    assert off <= 8 * torch.finfo(torch.bfloat16).eps * expected.abs().max()


def test_it_moves_to_another_device_with_its_indices():
    embedding = made().to("meta")
    found = {x.device.type for x in (*embedding.parameters(), *embedding.buffers())}
    assert found == {"meta"}
    assert embedding(torch.zeros(2, 5, dtype=torch.long, device="meta")).shape == (
        2,
        5,
        C,
    )


def test_vectors_of_every_band_start_as_large_as_those_of_gpt2():
    torch.manual_seed(0)
    analysis = bands(1000)
    embedding = BespokeTokenEmbedding(1000, 128, analysis, (2, 1, 0.5))
    for i in range(3):
        vectors = embedding(analysis.order[analysis.band[analysis.order] == i])
        assert vectors.std().item() == pytest.approx(0.02, rel=0.05)


def test_adaptive_inputs_are_four_times_narrower_band_by_band_and_all_projected():
    analysis = bands()
    embedding = adaptive(16, analysis)
    assert [tuple(t.weight.shape) for t in embedding.tables] == [
        (5, 16),
        (13, 4),
        (5, 1),
    ]
    assert [tuple(p.weight.shape) for p in embedding.projections] == [
        (16, 16), (16, 4), (16, 1),
    ]  # fmt: skip
    tokens = text(2, 7, V)
    expected = one_by_one(embedding, tokens.flatten().tolist(), analysis)
    torch.testing.assert_close(embedding(tokens), expected.reshape(2, 7, 16))


@pytest.mark.parametrize("factor", [1, 2, 3, 5, 7, 10])
def test_adaptive_widths_are_whole_divisions(factor):
    """7^-2 is no binary fraction: 49 · 7^-2 must not come out below 1."""
    base = factor**2
    widths = [t.weight.shape[1] for t in adaptive(base, bands(), factor).tables]
    assert widths == [factor**2, factor, 1]


FULL = bands(10)
BAD = {
    "another vocabulary": (dict(vocab_size=11), "vocab_size", 11),
    "no vocabulary": (dict(vocab_size=0), "vocab_size", 0),
    "no width": (dict(base_dim=0), "base_dim", 0),
    "a multiplier short": (dict(multipliers=(1, 1)), "multipliers", (1, 1)),
    "no multipliers": (dict(multipliers=()), "multipliers", ()),
    "a multiplier of 0": (dict(multipliers=(1, 1, 0)), "multipliers", (8, 8, 0)),
    "a negative one": (dict(multipliers=(1, -1, 1)), "multipliers", (8, -8, 8)),
    "a width of 0": (dict(multipliers=(1, 1, 0.1)), "base_dim", 8),
    "NaN": (dict(multipliers=(1, 1, math.nan)), "multipliers", "nan"),
}


@pytest.mark.parametrize("changed, name, got", BAD.values(), ids=BAD)
def test_arguments_that_do_not_fit_are_named(changed, name, got):
    good = dict(vocab_size=10, base_dim=8, frequency_analysis=FULL)
    BespokeTokenEmbedding(**good)
    explains(lambda: BespokeTokenEmbedding(**good | changed), name, got)


def test_a_factor_that_leaves_no_width_is_refused():
    explains(lambda: adaptive(8, FULL, 0), "factor", 0)
    explains(lambda: adaptive(8, FULL, 4), "base_dim", 8)  # 8, 2 and then none


# In a model


def banded_gpt(seed=0, config=TIED, **how):
    return with_embedding(lively(config, seed=seed), made(seed=seed, **how))


@every_way
def test_the_model_still_maps_tokens_to_finite_logits(how):
    model, tokens = banded_gpt(**how), text(2, 9, V)
    logits = model(tokens)
    assert logits.shape == (2, 9, V) and logits.isfinite().all()
    assert future_leak(model, text(3, 24, V)) < 1e-5


def test_it_is_tied_the_logits_are_products_with_the_vectors_that_went_in():
    model, tokens = banded_gpt().double(), text(2, 9, V)
    x = model.embed(tokens)
    for block in model.blocks:
        x = block(x)
    expected = model.norm(x) @ model.tokens(torch.arange(V)).mT
    torch.testing.assert_close(model(tokens), expected)


@every_way
def test_no_parameter_is_counted_twice(how):
    model, plain = banded_gpt(**how), GPT(TIED).parameter_count()
    embedding = sum(p.numel() for p in model.tokens.parameters())
    assert model.parameter_count() == plain - V * C + embedding
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert len(names) == len(list(model.parameters()))
    assert not [name for name in model.state_dict() if name.startswith("head")]


def test_every_weight_of_the_model_gets_a_gradient():
    model = banded_gpt()
    tokens = torch.arange(24)[None] % V
    F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
    for name, weight in model.named_parameters():
        assert weight.grad.any(), name


def test_a_state_dict_makes_the_same_model_elsewhere():
    model, other, tokens = banded_gpt(seed=0), banded_gpt(seed=1), text(2, 9, V)
    assert not torch.equal(model(tokens), other(tokens))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(tokens), other(tokens))


def test_a_copy_has_a_head_of_its_own_embedding():
    model, tokens = banded_gpt(), text(2, 9, V)
    copied, before = copy.deepcopy(model), model(tokens)
    assert torch.equal(copied(tokens), before)
    with torch.no_grad():
        for weight in copied.tokens.parameters():
            weight.zero_()
    assert not copied(tokens).any()
    assert torch.equal(model(tokens), before)


def test_a_model_that_does_not_fit_is_refused():
    untied, larger = GPT(TIED.but(tied=False)), GPT(TIED.but(vocab=V + 1))
    explains(lambda: with_embedding(untied, made()), "model", "tied=False")
    explains(lambda: with_embedding(larger, made()), "model", V + 1)
    wide = made(base=16)
    explains(lambda: with_embedding(GPT(TIED), wide), "embedding", 16)


# Loss by band


@pytest.mark.parametrize("seed", range(3))
def test_nats_by_band_are_the_loss_under_each_mask_and_add_up_to_the_whole(seed):
    band, targets = bands(seed=seed).band, text(4, 30, V, seed)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 30, V, generator=generator)
    found = nats_by_band(logits, targets, band)
    assert found.shape == (3,)
    counts = band[targets].flatten().bincount(minlength=3)
    for i in range(3):
        mine = band[targets] == i
        torch.testing.assert_close(
            found[i], F.cross_entropy(logits[mine], targets[mine])
        )
    whole = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close((found * counts).sum() / counts.sum(), whole)


def test_a_band_that_is_absent_has_no_loss_and_spoils_no_other():
    band, logits = bands().band, torch.zeros(1, 2, V)
    targets = torch.tensor([[int((band == i).nonzero()[0]) for i in (0, 2)]])
    found = nats_by_band(logits, targets, band)
    assert found.isnan().tolist() == [False, True, False]
    assert found[[0, 2]].tolist() == pytest.approx([math.log(V)] * 2)


def test_nats_by_band_are_of_full_precision_for_narrow_logits():
    band, targets = bands().band, text(2, 50, V)
    logits = torch.randn(
        2, 50, V, generator=torch.Generator().manual_seed(0)
    ).bfloat16()
    found = nats_by_band(logits, targets, band)
    torch.testing.assert_close(found, nats_by_band(logits.float(), targets, band))
    assert found.dtype == torch.float32


def test_a_state_dict_brings_its_bands_along():
    counts = torch.arange(V)
    found = [
        BespokeTokenEmbedding(V, C, FrequencyAnalysis(one))
        for one in (counts, counts.flip(0))
    ]
    ids = torch.arange(V)
    assert not torch.equal(found[0].band, found[1].band)
    found[1].load_state_dict(found[0].state_dict())
    assert torch.equal(found[1](ids), found[0](ids))


def test_a_model_that_its_config_does_not_describe_is_not_saved(tmp_path):
    path = tmp_path / "model.safetensors"
    explains(lambda: save(banded_gpt(), path), "model", "BespokeTokenEmbedding")
    assert not path.exists()
