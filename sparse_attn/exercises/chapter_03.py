"""Answers and likely mistakes for chapter 3, computed, not typed."""

import torch

from sparse_attn import cost
from sparse_attn.exercises import Function, Number
from sparse_attn.gpt import GPTConfig

_LLAMA_70B = GPTConfig(layers=80, heads=64, kv_heads=8, width=8192, vocab=32_000)
_TOKEN = cost.kv_cache_bytes(_LLAMA_70B, 1)
_HEADS = 2 * 96 * 96 * 2048  # keys and values, layers, heads, tokens of GPT-3


def _folds(fold) -> str | None:
    """(B, H, 1, D) -> (B, Hkv, G, D), neighbors together, for several shapes."""
    for B, H, kv_heads in ((1, 4, 2), (2, 12, 4), (3, 8, 1)):
        q = torch.arange(B * H * 3.0).view(B, H, 1, 3)
        G = H // kv_heads
        right = q.view(B, kv_heads, G, 3)
        got = fold(q, kv_heads)
        here = f"With {H} query heads and {kv_heads} key-value heads"
        if not isinstance(got, torch.Tensor):
            return f"{here} it gives {got!r}; a tensor is needed."
        if got.shape != right.shape:
            return (
                f"{here} it gives shape {tuple(got.shape)}; {tuple(right.shape)} is "
                "needed."
            )
        if torch.equal(got, right):
            continue
        if torch.equal(got, q.view(B, G, kv_heads, 3).transpose(1, 2)):
            return f"{here} neighbors are dealt out like cards, not kept together."
        return f"{here} some queries are in the wrong group."
    return None


EXERCISES = {
    "3.1": Number(
        _TOKEN,
        "An eighth of what its 64 query heads would need with keys of their own.",
        {
            8 * _TOKEN: "Eight query heads share one key-value head: count the 8.",
            _TOKEN / 2: "Keys and values: two vectors per head.",
            2 * _TOKEN: "In fp16 a value takes 2 bytes.",
            _TOKEN / 80: "That is one layer of 80.",
        },
        tolerance=1e-4,
    ),
    "3.2": Number(
        32 * (4096 - 1) + 1,
        "Each layer reaches back a window less itself; the token counts once.",
        {
            32 * 4096: "That is the bound W x L. A window includes the token itself.",
            32 * (4096 - 1): "That many lie behind it; count the token itself too.",
            31 * (4096 - 1) + 1: "The first layer has a window too: 32 steps back.",
            4096: "That is one layer. What it sees has itself seen further back.",
        },
        tolerance=1e-6,
    ),
    "3.3": Number(
        400e12 / 2e12,
        "One FLOP per byte and sequence in fp16, so the ridge is the batch.",
        {
            2 * 400e12 / 2e12: "A weight of 2 bytes takes 2 FLOPs per sequence.",
            400e12 / 2e12 / 2: "A multiply-add is 2 FLOPs.",
            2e12 / 400e12: "The other way around: FLOP/s over byte/s.",
        },
    ),
    "3.4": Function(
        _folds,
        "Neighboring query heads share a key-value head, and the memory already lies "
        "in that order: a view, no copy.",
    ),
    "3.5": Number(
        _HEADS * (128 + 4),
        "A scale per head and token adds 4 bytes to 128.",
        {
            _HEADS * 128: "Each head and token has a scale of 4 bytes too.",
            _HEADS * (128 + 4) / 2: "Keys and values: two of each.",
            _HEADS * 128 * 2: "That is fp16.",
            _HEADS * (128 + 4) / 1e9: "In bytes, please, not GB.",
        },
        tolerance=1e-3,
    ),
}
