"""Answers and likely mistakes for chapter 6, computed, not typed."""

import torch

from sparse_attn import cost
from sparse_attn.exercises import Function, Number

_VISITED = cost.tiles(4096, 128, 128, causal=True).visited
_N, _D, _TILES = 4096, 128, 4096 // 128
_MOVED = cost.outer_q_elements(_N, _D, 128, 128).moved


def _rows(delta) -> str | None:
    """(out, dout), both (B, H, T, D) -> (B, H, T): their dot product, row by row."""
    out = torch.linspace(-1, 1, 48).view(1, 2, 3, 8)
    dout = torch.linspace(0, 2, 48).view(1, 2, 3, 8)
    right, got = (out * dout).sum(dim=-1), delta(out, dout)
    if not isinstance(got, torch.Tensor):
        return f"It gives {got!r}; a tensor is needed."
    if got.shape != right.shape:
        return f"It gives shape {tuple(got.shape)}; {tuple(right.shape)} is needed."
    if not torch.allclose(got, right):
        return "The numbers are not the dot products of the rows."
    return None


EXERCISES = {
    "6.1": Number(
        _VISITED,
        "A little more than half: those on the diagonal are visited whole.",
        {
            32 * 32: "That is all of them: those above the diagonal are skipped.",
            32 * 31 // 2: "The tiles on the diagonal are visited too.",
            32 * 32 // 2: "Half, and then half of the diagonal.",
        },
        tolerance=1e-3,
    ),
    "6.2": Number(
        2,
        "Width counts twice, fast memory once.",
        {
            1: "The width is squared.",
            8: "More fast memory means less traffic.",
            0.5: "The width is in the numerator, squared.",
        },
    ),
    "6.3": Number(
        _MOVED,
        "Nearly all of it is keys and values, read again for each tile of queries.",
        {
            _MOVED - _N: "One log-sum-exp for each row is written too.",
            _MOVED - _N * _D * _TILES: "Keys and values: two of each.",
            4 * _N * _D + _N: "Each tile of queries reads all keys and values.",
        },
        tolerance=1e-4,
    ),
    "6.4": Function(
        _rows,
        "With it, the gradient of a softmax needs no whole row of weights.",
    ),
    "6.5": Number(
        200,
        "Two bytes against 2d FLOPs: the ridge itself.",
        {
            400: "Scores take 2d FLOPs: a multiply-add is two.",
            100: "Two bytes and two FLOPs per coordinate: the twos cancel.",
        },
    ),
}
