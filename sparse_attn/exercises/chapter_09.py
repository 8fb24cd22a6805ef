"""Answers and likely mistakes for chapter 9, computed, not typed."""

import math

import torch

from sparse_attn import cost, topk
from sparse_attn.exercises import Function, Number

_T, _D, _HIDDEN, _K = 256, 64, 32, 16
_CHANCE = topk.chance_top1(_T)


def _future(mask) -> str | None:
    """logits (T, T) -> logits whose largest K are never of the future."""
    logits = torch.randn(9, 9, generator=torch.Generator().manual_seed(0))
    got = mask(logits.clone())
    if not isinstance(got, torch.Tensor) or got.shape != logits.shape:
        return "A tensor of the same shape is needed."
    first = got.argmax(-1)
    t = torch.arange(9)
    if (first > t).any():
        return f"{int((first > t).sum())} of 9 queries still pick the future first."
    right = topk.pick_keys(logits, 1, causal=True).indices[:, 0]
    if not torch.equal(first, right):
        return "The past has changed too: the best key up to each query must stay."
    return None


def _floor(error) -> str | None:
    """weights (n, K), rows that sum to 1 -> error of the plain mean of K values."""
    generator = torch.Generator().manual_seed(0)
    for K in (2, 5):
        weights = torch.randn(400, K, generator=generator).softmax(-1)
        energy = weights.square().sum(-1).mean().item()
        right = math.sqrt(1 - 1 / (K * energy))
        got = error(weights)
        if got is None:
            return "It gives None; a number is needed."
        got = float(got)
        if math.isclose(got, right, rel_tol=1e-4):
            continue
        if math.isclose(got, right**2, rel_tol=1e-4):
            return "That is the share of the energy; its root is the relative error."
        return f"For K = {K} it gives {got:.4g}, not {right:.4g}."
    return None


EXERCISES = {
    "9.1": Number(
        _CHANCE,
        "A random guess among the visible keys: the mean of 1/t, which is H_T/T.",
        {
            1 / _T: "That is a guess among all keys, most of them in the future.",
            2 / (_T + 1): "The mean of 1/t is not one over the mean of t.",
        },
    ),
    "9.2": Number(
        cost.scores(_T, _D, 1).flops / cost.topk_mlp_flops(_T, _D, _HIDDEN, _K),
        "The K·D inputs of the approximator cost most at this length.",
        {
            2 * _D / _HIDDEN: "That is the limit for endless texts.",
            _T / _K: "That is for keys found for free and weighed for free.",
            cost.scores(_T, _D, 1).flops
            / (2 * cost.topk_mlp_flops(_T, _D, _HIDDEN, _K)): "Half: did you count "
            "2 FLOPs per multiply-add on one side only?",
        },
    ),
    "9.3": Function(
        _future, "Minus infinity above the diagonal, before the top K are taken."
    ),
    "9.4": Function(
        _floor,
        "What a plain mean can't know is how uneven the weights are: 1 - 1/(K E).",
    ),
}
