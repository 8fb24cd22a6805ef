"""Answers and likely mistakes for chapter 7, computed, not typed."""

import torch

from sparse_attn import patterns as P
from sparse_attn.exercises import Function, Number
from sparse_attn.patterns import graph

_T, _RADIUS = 4096, 256
_LONGFORMER = P.global_local(1, _RADIUS).pairs(_T)
_KEYS, _LENGTH, _LAYERS = 20, 256, 3


def _reaching(pattern) -> str | None:
    """A causal pattern of few keys that reaches everything in three layers."""
    if not isinstance(pattern, P.Pattern):
        return f"It gives {pattern!r}; a pattern is needed."
    mask = pattern.mask(_LENGTH)
    if mask.triu(1).any():
        return "It sees the future: add & P.Causal()."
    keys = pattern.pairs(_LENGTH) / _LENGTH
    if keys > _KEYS:
        return f"It has {keys:.1f} keys per query; at most {_KEYS} are allowed."
    reached = graph.reach(graph.adjacency(pattern, _LENGTH), _LAYERS)[-1]
    missed = int((torch.arange(1, _LENGTH + 1) - torch.from_numpy(reached)).sum())
    if missed:
        return f"After {_LAYERS} layers {missed:,} pairs are still out of reach."
    return None


def _by_order(every) -> str | None:
    """(q, k, v, stride) -> attention under Every(stride), for T a multiple of it."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 48, 8).unbind()
    for stride in (1, 4, 16):
        right = P.sparse_attention(q, k, v, P.Every(stride))
        got = every(q, k, v, stride)
        if not isinstance(got, torch.Tensor):
            return f"It gives {got!r}; a tensor is needed."
        if got.shape != right.shape:
            return f"It gives shape {tuple(got.shape)}, not {tuple(right.shape)}."
        if not torch.allclose(got, right, atol=1e-5):
            return f"Stride {stride}: the numbers are not those of the pattern."
    return None


EXERCISES = {
    "7.1": Number(
        100 * _LONGFORMER / _T**2,
        "The window is nearly all of it; the global token adds 0.04 points.",
        {
            100 * (2 * _RADIUS + 1) / _T: "The window is cut at both ends of the text.",
            100
            * P.Window(_RADIUS, _RADIUS).pairs(_T)
            / _T**2: "Don't forget the global token: its row, and its column.",
            100 * P.sliding_window(513).pairs(_T) / _T**2: "Both sides have 256 keys.",
        },
        tolerance=2e-4,
    ),
    "7.2": Number(
        12 * 63 + 1,
        "Each layer adds the 63 keys before the query; the token counts once.",
        {
            12 * 64: "Each layer adds W - 1: the token itself is no news.",
            12 * 63: "The token itself counts too, once.",
        },
        tolerance=1e-6,
    ),
    "7.3": Function(
        lambda make: _reaching(make()),
        "Near, middle, far: three scales, each the square root less of the last.",
    ),
    "7.4": Function(
        _by_order,
        "The same pairs in another order are solid blocks: no mask and no waste.",
    ),
    "7.5": Number(
        75,
        "A block of 256 on the diagonal holds four blocks of 64: a quarter is used.",
        {
            25: "That is what is used. What is wasted?",
            50: "In both directions, queries and keys.",
            0: "Only if the program's blocks are 64 too.",
        },
    ),
}
