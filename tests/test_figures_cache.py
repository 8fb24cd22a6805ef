"""Figures of the KV cache: how they are drawn, for `test_figures`; their arithmetic."""

import pytest

from sparse_attn import cost, figures
from sparse_attn.figures.cache import CARD, LENGTHS, LLAMA_13B, MISTRAL_7B
from sparse_attn.timing import Timing


def timing(s):
    return Timing(s, 0.9 * s, 1.2 * s, s, (s,))


EDGES = [0, 256, 512, 1024, 1536]
DRAWN = {  # figure -> (arguments, what its caption must state)
    "cache_size": (
        dict(T=4096, kv_heads=40, bytes_per_value=2),
        ["4,096 tokens", "40 key-value heads", "3.36 GB", "16 fit", "26 GB"],
    ),
    "decoding_speed": (
        dict(
            lengths=[64, 512],
            timings={
                "every token again": [timing(0.1), timing(0.5)],
                "with a cache": [timing(0.02), timing(0.025)],
            },
            device="a machine",
        ),
        ["a machine", "after 512", "again 2", "cache 40"],
    ),
    "past_training": (
        dict(
            edges=EDGES,
            bits={"all keys": [1.6, 1.3, 2.0, 4.0], "window": [1.6, 1.3, 1.2, 1.5]},
            trained=512,
        ),
        ["past position 512", "all keys 3.00", "window 1.35"],
    ),
    "reach": (
        dict(strength=[0, 0, 0, 1e-4, 0.1, 1.0], window=2, layers=2),
        ["2 layers", "window 2", "last of 6 sees 3 positions"],
    ),
    "shared_reads": (
        dict(
            timings={
                "enable_gqa": {12: timing(4e-3), 1: timing(2e-3)},
                "folded": {12: timing(4e-3), 1: timing(5e-4)},
            },
            device="a machine",
        ),
        ["1 instead of 12", "enable_gqa 2.0x faster", "folded 8.0x faster"],
    ),
    "window_cache": (
        dict(window=4096, T=16_384),
        ["window 4,096", "537 MB instead of 2.15 GB", "at most 16,384"],
    ),
}


def test_as_many_caches_fit_as_the_caption_says():
    weights = 2 * sum(cost.parameters(LLAMA_13B).values())
    one = cost.kv_cache_bytes(LLAMA_13B.but(kv_heads=8), 16_384, bytes_per_value=1)
    caption = figures.cache_size(16_384, 8, 1).caption
    fit = int(caption.split(" fit")[0].split(", ")[-1].replace(",", ""))
    assert weights + fit * one <= CARD < weights + (fit + 1) * one


@pytest.mark.parametrize("T", [LENGTHS[0], LENGTHS[-1]])
def test_reach_is_bounded_by_the_text_and_by_layers_times_window(T):
    caption = figures.window_cache(256, T).caption
    reach = min(T, MISTRAL_7B.layers * 255 + 1)
    assert f"at most {reach:,} tokens" in caption


def test_a_cache_that_does_not_fit_is_said_not_to():
    assert "0 fit" in figures.cache_size(131_072, 40, 2).caption
