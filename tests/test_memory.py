"""Closed forms of memory against real models, their gradients and their caches."""

import pytest
import torch

from sparse_attn import cost
from sparse_attn.decoding import Cache
from sparse_attn.gpt import GPT, GPTConfig
from sparse_attn.profiling import saved_bytes

SMALL = GPTConfig(layers=2, heads=4, width=24, vocab=50, context=16)
SWITCHES = [
    {},
    dict(attend="formula"),
    dict(kv_heads=2),
    dict(kv_heads=1, attend="formula"),
    dict(norm="rms", mlp="swiglu", hidden=40),
    dict(positions="rotary"),
    dict(positions="rotary", kv_heads=1, norm="rms", bias=False),
    dict(tied=False, hidden=30, bias=False),
]
GPT3 = GPTConfig(layers=96, heads=96, width=96 * 128, context=2048)

each_switch = pytest.mark.parametrize("changes", SWITCHES, ids=str)


@each_switch
def test_parameters_are_those_of_the_model(changes):
    config = SMALL.but(**changes)
    assert sum(cost.parameters(config).values()) == GPT(config).parameter_count()


def test_gpt2_small_has_its_published_parameters():
    assert sum(cost.parameters(GPTConfig.gpt2()).values()) == 124_439_808


@each_switch
@pytest.mark.parametrize("B, T", [(1, 1), (2, 1), (2, 7), (3, 16)])
def test_activations_are_those_saved_by_a_training_step(changes, B, T):
    model = GPT(SMALL.but(**changes))
    tokens, targets = torch.randint(50, (2, B, T))
    found = saved_bytes(model, tokens, targets)
    predicted = cost.saved_activations(model.config, T, B=B)
    assert {part: n for part, n in predicted.items() if n} == found


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_a_cache_holds_what_the_formula_says(kv_heads):
    model = GPT(SMALL.but(kv_heads=kv_heads)).eval()
    cache = Cache(model)
    with torch.no_grad():
        model(torch.randint(50, (3, 7)), cache)
    assert cache.bytes == cost.kv_cache_bytes(model.config, 7, B=3, bytes_per_value=4)


@pytest.mark.parametrize("T", [3, 7, 16])
def test_a_window_bounds_the_cache(T):
    model = GPT(SMALL.but(window=4, sinks=2)).eval()
    cache = Cache(model)
    with torch.no_grad():
        model(torch.randint(50, (1, T)), cache)
    assert cache.bytes == cost.kv_cache_bytes(model.config, T, bytes_per_value=4)


def test_gpt3_keeps_nine_megabytes_per_token_in_fp32_and_half_in_fp16():
    assert cost.kv_cache_bytes(GPT3, 1, bytes_per_value=4) == 9_437_184
    assert cost.kv_cache_bytes(GPT3, 2048, bytes_per_value=4) == 19_327_352_832
    assert cost.kv_cache_bytes(GPT3, 1) == 4_718_592


def test_training_state_is_four_times_the_weights_and_the_activations():
    state = cost.training_bytes(SMALL, 16, B=2)
    weights = 4 * GPT(SMALL).parameter_count()
    assert (state["parameters"], state["gradients"]) == (weights, weights)
    assert state["AdamW"] == 2 * weights
    assert state["activations"] == sum(cost.saved_activations(SMALL, 16, B=2).values())


@pytest.mark.parametrize(
    "call, got",
    [
        (lambda: cost.kv_cache_bytes(SMALL, 0), "T=0"),
        (lambda: cost.kv_cache_bytes(SMALL, 1, bytes_per_value=0), "bytes_per_value=0"),
        (
            lambda: cost.saved_activations(SMALL.but(window=4, attend="formula"), 8),
            "window=4",
        ),
        (lambda: cost.saved_activations(SMALL.but(window=4, sinks=1), 8), "sinks=1"),
        (lambda: cost.saved_activations(SMALL.but(dropout=0.1), 8), "dropout=0.1"),
        (lambda: cost.training_bytes(SMALL, 8, B=-1), "B=-1"),
    ],
)
def test_bad_input_is_explained(call, got):
    with pytest.raises(ValueError, match=got):
        call()
