"""Answers and likely mistakes for chapter 8, computed, not typed."""

import math

import torch

from sparse_attn import hashing
from sparse_attn.exercises import Function, Number

_P = hashing.collision_probability(math.radians(60), 16)
_ROUNDS = math.ceil(math.log(0.1) / math.log(1 - _P))
_CHUNK, _TIMES = 64, 4


def _hash(bucket) -> str | None:
    """(x (T, D), R (D, b/2)) -> (T,): the number of each vector's bucket."""
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    R = hashing.rotations(8, 16, seed=3)
    right, got = hashing.hash_buckets(x, R)[0], bucket(x, R[0])
    if not isinstance(got, torch.Tensor):
        return f"It gives {got!r}; a tensor is needed."
    if got.shape != right.shape:
        return f"It gives shape {tuple(got.shape)}, not {tuple(right.shape)}."
    if got.max() < 8 <= right.max():
        return "Only half of the buckets occur: what about the negatives?"
    wrong = int((got != right).sum())
    return f"{wrong} of 64 vectors are in another bucket." if wrong else None


def _crowd(pairs) -> str | None:
    """sizes, a list -> pairs that share a bucket over those of even buckets."""
    for sizes in ([4, 4, 4, 4], [16, 0, 0, 0], [7, 1, 0, 4, 3, 9], [5]):
        right = len(sizes) * sum(n * n for n in sizes) / sum(sizes) ** 2
        got = pairs(sizes)
        if not math.isclose(got, right, rel_tol=1e-6):
            return f"For sizes {sizes} it gives {got!r}, not {right:.4g}."
    return None


EXERCISES = {
    "8.1": Number(
        _ROUNDS,
        "Each round misses three times in four, and misses multiply.",
        {
            math.ceil(0.9 / _P): "Chances do not add: multiply those of missing.",
            _ROUNDS - 1: "One round fewer falls just short of 90%.",
        },
        tolerance=1e-6,
    ),
    "8.2": Function(_hash, "Largest of both halves: the negative ones count too."),
    "8.3": Number(
        2 * (2 * _CHUNK * _TIMES),
        "Causal attention has T/2 pairs per query, so the text must be twice as long.",
        {
            2 * _CHUNK * _TIMES: "A causal query meets only half of the text.",
            2 * _CHUNK: "That is for one round, and for a full square.",
            4 * _CHUNK: "That is for one round.",
            2 * _CHUNK * _TIMES // 2: "Two chunks per round: its own, and one before.",
        },
        tolerance=0.01,
    ),
    "8.4": Function(
        _crowd,
        "A bucket of n has n² pairs: crowds cost more than empty rooms save.",
    ),
}
