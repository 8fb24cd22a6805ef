"""FLOPs of a GPT by part: the formula against the counter, and known shares."""

import pytest
import torch

from sparse_attn import cost, counting
from sparse_attn.gpt import GPT, GPTConfig
from sparse_attn.profiling import ORDER

SMALL = GPTConfig(layers=2, heads=4, width=24, vocab=50, context=16)
SWITCHES = [
    {},
    dict(attend="formula"),
    dict(kv_heads=2),
    dict(kv_heads=1, attend="formula"),
    dict(mlp="swiglu", hidden=40, norm="rms"),
    dict(hidden=72, tied=False, bias=False),
    dict(positions="rotary"),
    dict(window=5),
    dict(window=5, sinks=2, attend="formula"),
    dict(window=16),
]


@pytest.mark.parametrize("changes", SWITCHES, ids=str)
@pytest.mark.parametrize("B, T", [(1, 1), (2, 7), (1, 16)])
def test_the_parts_add_up_to_what_the_counter_counts(changes, B, T):
    model = GPT(SMALL.but(**changes)).eval()
    tokens = torch.randint(50, (B, T))
    predicted = cost.flops_by_part(model.config, T, B=B)
    assert sum(predicted.values()) == counting.flops(lambda: model(tokens))


def test_the_parts_are_those_that_the_profiler_times():
    assert set(cost.flops_by_part(SMALL, 4)) <= set(ORDER)


def test_the_lm_head_takes_29_percent_of_gpt2_with_full_squares():
    found = cost.flops_by_part(GPTConfig.gpt2(attend="formula"), 512)
    assert f"{found['head'] / sum(found.values()):.2%}" == "29.03%"


@pytest.mark.parametrize("name", ["T", "B"])
def test_bad_sizes_are_explained(name):
    with pytest.raises(ValueError, match=f"{name}=0"):
        cost.flops_by_part(SMALL, **dict(T=4, B=1) | {name: 0})
