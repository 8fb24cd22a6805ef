"""Writing with a cache: the same logits as without, a fixed size, the same text."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_gpt import SMALL, lively, text

from sparse_attn.attention import attention
from sparse_attn.decoding import Cache, generate
from sparse_attn.layers import rotate

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = [
    SMALL.but(kv_heads=kv_heads, positions=positions, **window)
    for kv_heads in (None, 2, 1)
    for positions in ("learned", "rotary")
    for window in ({}, dict(window=1), dict(window=5), dict(window=5, sinks=2))
]
STREAMING = SMALL.but(positions="rotary", window=5, sinks=2, kv_heads=2)

steady = settings(max_examples=10)
chunks = st.lists(st.integers(1, 9), min_size=1, max_size=24)


@torch.no_grad()
def in_chunks(model, tokens, sizes, cache):
    """The logits of `tokens`, given to the cache in pieces; the rest one by one."""
    T = tokens.shape[1]
    sizes = [size for i, size in enumerate(sizes) if sum(sizes[: i + 1]) <= T]
    sizes += [1] * (T - sum(sizes))
    return torch.cat([model(part, cache) for part in tokens.split(sizes, 1)], dim=1)


def name(config):
    return f"{config.kv_heads}-{config.positions}-{config.window}+{config.sinks}"


@pytest.mark.parametrize("config", KINDS, ids=name)
@steady
@given(sizes=chunks)
def test_cached_logits_are_the_uncached_ones_in_any_chunks(config, sizes):
    tokens = text(2, config.context, config.vocab)
    model = lively(config, torch.float64)
    with torch.no_grad():
        exact = model(tokens)
        plain = (lively(config)(tokens) - exact).abs().max()
    cached = in_chunks(model, tokens, sizes, Cache(model))
    assert (cached - exact).abs().max() <= 1e-10

    model = lively(config)
    cached = in_chunks(model, tokens, sizes, Cache(model))
    # As wrong as the uncached one at most twice, and a logit is a sum of C products.
    eps = torch.finfo(torch.float32).eps
    slack = config.width * eps * exact.abs().max()
    assert (cached - exact).abs().max() <= 2 * plain + slack


@pytest.mark.parametrize("config", KINDS, ids=name)
@torch.no_grad()
def test_the_cache_holds_what_later_queries_can_see_and_its_bytes_say_so(config):
    for B, dtype, size in ((1, torch.float32, 4), (3, torch.float64, 8)):
        model = lively(config, dtype)
        cache = Cache(model)
        assert (cache.seen, cache.bytes) == (0, 0)
        for seen, token in enumerate(text(B, 24, config.vocab).split(1, 1), start=1):
            model(token, cache)
            S = seen
            if config.window is not None:
                S = min(seen, config.sinks + config.window - 1)
            heads, D = config.kv_heads or config.heads, config.width // config.heads
            assert cache.seen == seen
            assert cache.bytes == 2 * config.layers * heads * D * S * size * B


@pytest.mark.parametrize("window, sinks", [(1, 0), (1, 3), (5, 0), (5, 2)])
@pytest.mark.parametrize("renumber", [False, True])
@pytest.mark.parametrize("prefill", [1, 3, 200])
def test_a_sliding_cache_never_grows(window, sinks, renumber, prefill):
    model = lively(SMALL.but(positions="rotary", window=window, sinks=sinks))
    cache = Cache(model, renumber=renumber)
    logits = in_chunks(model, text(1, 300, SMALL.vocab), [prefill], cache)
    assert logits.isfinite().all()
    assert cache.seen == 300
    kept = [*range(sinks), *range(300 - window + 1, 300)]
    for layer in cache.layers:
        assert layer.k[0].shape[-2] == layer.v[0].shape[-2] == sinks + window - 1
        assert layer.at.tolist() == kept


@torch.no_grad()
def test_a_cache_can_slide_over_a_model_that_was_made_without_a_window():
    tokens, plain = text(2, 24, SMALL.vocab), lively(SMALL, torch.float64)
    cached = in_chunks(plain, tokens, [3, 4], Cache(plain, window=5, sinks=2))
    exact = lively(SMALL.but(window=5, sinks=2), torch.float64)(tokens)
    assert (cached - exact).abs().max() <= 1e-10


def streamed(model, tokens):
    """Logits as StreamingLLM defines them: query t sees sinks and window, renumbered.

    Layer by layer and query by query, without a cache; (1, T) -> (1, T, V). Also the
    greatest distance of a key that any query met.
    """
    c, x, greatest = model.config, model.embed(tokens), 0
    for block in model.blocks:
        q, k, v = block.attention.project(block.norm_1(x))
        out = []
        for t in range(tokens.shape[1]):
            seen = [s for s in range(t + 1) if s > t - c.window or s < c.sinks]
            places = torch.arange(len(seen))
            here = rotate(q[:, :, t : t + 1], places[-1:])
            out.append(attention(here, rotate(k[:, :, seen], places), v[:, :, seen]))
            greatest = max(greatest, len(seen) - 1)
        x = x + block.attention.merge(torch.cat(out, dim=-2))
        x = x + block.mlp(block.norm_2(x))
    return model.head(model.norm(x)), greatest


@steady
@given(sizes=chunks)
@torch.no_grad()
def test_a_renumbering_cache_streams_within_the_trained_distance(sizes):
    model, tokens = lively(STREAMING, torch.float64), text(1, 80, SMALL.vocab)
    exact, greatest = streamed(model, tokens)
    assert greatest == STREAMING.sinks + STREAMING.window - 1 < STREAMING.context
    cached = in_chunks(model, tokens, sizes, Cache(model, renumber=True))
    assert (cached - exact).abs().max() <= 1e-10


@pytest.mark.parametrize("prefill", [1, 5, 40])
def test_no_position_of_a_renumbering_cache_is_beyond_its_size(monkeypatch, prefill):
    turned = []

    def spy(x, positions):
        turned.append(int(positions.max()))
        return rotate(x, positions)

    monkeypatch.setattr("sparse_attn.decoding.rotate", spy)
    model = lively(STREAMING)
    tokens = text(1, 200, SMALL.vocab)
    logits = in_chunks(model, tokens, [prefill], Cache(model, renumber=True))
    assert logits.isfinite().all()
    assert max(turned) == STREAMING.sinks + STREAMING.window - 1

    turned.clear()
    in_chunks(model, tokens, [prefill], Cache(model))
    assert max(turned) == 199, "without renumbering, positions go on and on"


@steady
@given(sizes=chunks)
def test_without_sinks_renumbering_changes_nothing_for_distances_are_the_same(sizes):
    model = lively(STREAMING.but(sinks=0), torch.float64)
    tokens = text(2, 60, SMALL.vocab)
    plain = in_chunks(model, tokens, sizes, Cache(model))
    renumbered = in_chunks(model, tokens, sizes, Cache(model, renumber=True))
    assert (renumbered - plain).abs().max() <= 1e-10


def test_with_sinks_renumbering_changes_nothing_until_a_key_is_dropped():
    model, tokens = lively(STREAMING, torch.float64), text(2, 60, SMALL.vocab)
    plain = in_chunks(model, tokens, [3], Cache(model))
    renumbered = in_chunks(model, tokens, [3], Cache(model, renumber=True))
    gap = (renumbered - plain).abs().amax(-1)
    full = STREAMING.sinks + STREAMING.window
    assert gap[:, :full].max() <= 1e-10
    assert gap[:, full:].min() > 1e-9


@pytest.mark.parametrize("config", [SMALL, SMALL.but(window=5), STREAMING], ids=name)
@torch.no_grad()
def test_greedy_text_is_the_argmax_of_the_uncached_model_step_by_step(config):
    model, tokens = lively(config, torch.float64), text(3, 4, config.vocab)
    written = generate(model, tokens, 20, temperature=0, progress=False)
    for _ in range(20):
        best = model(tokens)[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat((tokens, best), dim=1)
    assert written.equal(tokens)


def write(seed, **options):
    generator = torch.Generator().manual_seed(seed)
    model, start = lively(STREAMING), text(2, 3, SMALL.vocab)
    return generate(model, start, 40, generator=generator, progress=False, **options)


def test_a_seed_gives_the_same_text_and_another_seed_another():
    assert write(1).equal(write(1))
    assert not write(1).equal(write(2))


def test_the_texts_of_a_batch_are_extended_each_by_itself():
    model, tokens = lively(SMALL, torch.float64), text(4, 5, SMALL.vocab)
    together = generate(model, tokens, 9, temperature=0, progress=False)
    assert together.shape == (4, 14)
    assert together[:, :5].equal(tokens)
    for row, start in zip(together, tokens, strict=True):
        alone = generate(model, start[None], 9, temperature=0, progress=False)
        assert alone[0].equal(row)


def test_a_low_temperature_is_greedy():
    assert write(1, temperature=1e-6).equal(write(2, temperature=0))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_with_the_probabilities_of_the_temperature(temperature):
    model, n = lively(SMALL), 20_000
    start = text(1, 5, SMALL.vocab)
    with torch.no_grad():
        p = (model(start)[0, -1] / temperature).exp()
    p = p / p.sum()
    written = generate(
        model, start.expand(n, -1), 1, temperature=temperature, progress=False,
        generator=torch.Generator().manual_seed(3),
    )  # fmt: skip
    share = written[:, -1].bincount(minlength=SMALL.vocab) / n
    # Five standard errors of a share, for each of 11 tokens.
    assert ((share - p).abs() <= 5 * (p * (1 - p) / n).sqrt()).all()


def test_no_tokens_to_write_leave_the_text_as_it_is():
    tokens = text(2, 5, SMALL.vocab)
    assert generate(lively(SMALL), tokens, 0, progress=False).equal(tokens)


def test_a_text_can_be_continued_with_its_cache():
    model, start = lively(STREAMING, torch.float64), text(2, 5, SMALL.vocab)
    whole = generate(model, start, 20, temperature=0, progress=False)
    cache = Cache(model)
    some = generate(model, start, 8, cache=cache, temperature=0, progress=False)
    more = generate(model, some[:, -1:], 12, cache=cache, temperature=0, progress=False)
    assert torch.cat((some[:, :-1], more), dim=1).equal(whole)


def test_a_written_text_and_its_cache_can_be_used_in_training():
    model = lively(SMALL)
    cache = Cache(model)
    tokens = generate(model, text(1, 3, SMALL.vocab), 5, cache=cache, progress=False)
    model(tokens[:, -1:], cache).sum().backward()
    model(tokens).sum().backward()
    assert model.tokens.weight.grad.isfinite().all()


def test_the_progress_bar_counts_tokens_and_can_be_off(capsys):
    model, tokens = lively(SMALL), text(1, 3, SMALL.vocab)
    generate(model, tokens, 4)
    assert "4/4" in capsys.readouterr().err
    generate(model, tokens, 4, progress=False)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(count=-1), "count=-1"),
        (dict(count=2.0), "count=2.0"),
        (dict(temperature=-0.5), "temperature=-0.5"),
        (dict(temperature=float("nan")), "temperature=nan"),
        (dict(temperature=float("inf")), "temperature=inf"),
        (dict(tokens=torch.zeros(3, dtype=torch.long)), r"tokens has shape \(3,\)"),
        (dict(count=30), "25 tokens exceed the context of 24"),
    ],
)
def test_generate_refuses_by_name_and_value(changes, message):
    given = dict(tokens=text(1, 3, SMALL.vocab), count=2, progress=False) | changes
    with pytest.raises(ValueError, match=message):
        generate(lively(SMALL), **given)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(window=0), "window=0"),
        (dict(window=2.5), "window=2.5"),
        (dict(window=4, sinks=-1), "sinks=-1"),
        (dict(renumber=True), "renumber=True.*rotary.*learned"),
    ],
)
def test_a_cache_refuses_by_name_and_value(options, message):
    with pytest.raises(ValueError, match=message):
        Cache(lively(SMALL), **options)
