"""Answers and likely mistakes for chapter 11, computed, not typed."""

import bisect
import math

import torch

from sparse_attn import cost
from sparse_attn.exercises import Function, Number

_RIDGE, _HEADS = 295, 4  # FLOP per byte; query heads for each of keys and values


def _queries(*, heads: int = _HEADS, tensors: int = 2, flops: int = 4, size: int = 2):
    """Positions from which a shared gather reaches the ridge; D cancels."""
    return math.ceil(_RIDGE * tensors * size / (flops * heads))


_KEEP = 512
_DENSE, _SPARSE, _FIXED = 2e-9, 3e-9, 4e-3  # seconds: a pair, a pair, a call


def _crossover(*, fixed: float = _FIXED, sparse: float = _SPARSE, causal: bool = True):
    """The least T at which `_KEEP` keys per query take less time than all of them."""

    def wins(T: int) -> bool:
        chosen = sparse * cost.topk_pairs(T, _KEEP) + fixed
        return chosen < _DENSE * cost.pairs(T, causal=causal)

    return _KEEP + bisect.bisect_left(range(_KEEP, 2**16), True, key=wins)


def _even(*, tensors: int = 1, size: int = 4, keep: int = 1024, page: int = 128) -> int:
    """Tokens of a cache whose summaries take the bytes of the pages that are read."""
    return keep * 2 * 2 * page // (tensors * size)


def _attended(q, k, v, chosen, block, *, count=True, top="kept", by=None):
    """The answer to 11.2, or one with a fault: `top` may be "none" or "forgotten"."""
    out = weight = torch.zeros(len(q), 1)
    best = torch.full((len(q), 1), -torch.inf)
    for i in range(0, len(k), block):
        near, values = k[i : i + block], v[i : i + block]
        n = len(near)
        if i // block not in chosen:
            near, values = (x.mean(dim=0, keepdim=True) for x in (near, values))
        scores = q @ near.T / q.shape[-1] ** 0.5
        if count and len(near) < n:
            scores = scores + math.log(by(n, block) if by else n)
        new = torch.maximum(best, scores.amax(dim=-1, keepdim=True))
        decay = (best - new).exp() if top == "kept" else 1
        w = (scores - (0 if top == "none" else new)).exp()
        out, weight = decay * out + w @ values, decay * weight + w.sum(-1, keepdim=True)
        best = new
    return out / weight


_FAULTS = (
    (
        dict(count=False),
        "a mean weighs as much as a single key, and not as the keys for which it "
        "stands. Where does their number belong?",
    ),
    (
        dict(top="forgotten"),
        "what was added up under an older maximum is not rescaled to the new one.",
    ),
    (
        dict(by=lambda n, block: block),
        "the last block is shorter, and its mean stands for fewer keys.",
    ),
)


def _mended(attend) -> str | None:
    """(q (n, D), k (S, D), v (S, D), ids of blocks, block) -> (n, D)."""
    generator = torch.Generator().manual_seed(0)
    for S, block, chosen, size in (
        (16, 4, [0, 3], 1.0),
        (15, 4, [1], 1.0),
        (16, 4, [], 1.0),
        (16, 4, [2], 100.0),
        (14, 4, [0, 1, 2, 3], 100.0),
    ):
        asks, k, v = (torch.randn(n, 8, generator=generator) for n in (5, S, S))
        asks *= size
        for q in (asks, -asks):
            right = _attended(q, k, v, chosen, block)
            got = attend(q, k, v, chosen, block)
            case = f"{S} keys in blocks of {block}, {chosen} chosen"
            if not isinstance(got, torch.Tensor):
                return f"It gives {got!r}; a tensor is needed."
            if got.shape != right.shape:
                return f"It gives shape {tuple(got.shape)}, not {tuple(right.shape)}."
            if torch.allclose(got, right, atol=1e-4):
                continue
            if not got.isfinite().all():
                return (
                    f"{case}: {int((~got.isfinite()).sum())} of {got.numel()} numbers "
                    "are infinite or NaN where scores are in the hundreds. Which "
                    "number may be taken off all scores of a query?"
                )
            for fault, why in _FAULTS:
                if torch.allclose(
                    got, _attended(q, k, v, chosen, block, **fault), atol=1e-4
                ):
                    return f"{case}: {why}"
            return f"{case}: the numbers are off by {(got - right).abs().max():.2g}."
    return None


EXERCISES = {
    "11.1": Number(
        _queries(),
        "A key and its value take 4·D bytes and give each query 4·D FLOPs: as many "
        "FLOPs per byte as queries, four of them at each position.",
        {
            _queries(heads=1): "Four heads share what is read.",
            _queries(flops=2): "A multiply-add is two FLOPs, q kᵀ and p v have one for "
            "each number, and a number in bf16 takes two bytes.",
            _queries(tensors=1): "Values are gathered, too.",
        },
        tolerance=1e-3,
    ),
    "11.2": Function(
        _mended,
        "A mean has the log of its count on the score, and the maximum goes before any "
        "exponential.",
    ),
    "11.3": Number(
        _crossover(),
        "Without the call's own time it would be 2K times the ratio of the rates; "
        "what is fixed moves it to where dense attention itself takes longer.",
        {
            _crossover(fixed=0): "Choosing blocks takes its time at every length.",
            _crossover(causal=False): "Causal queries meet half of "
            "the keys on average.",
            _crossover(sparse=_DENSE): "A gathered pair takes 3 ns, not 2.",
        },
        tolerance=1e-3,
    ),
    "11.4": Number(
        _even(),
        "2·keep·page where all numbers take alike, half of it where sums are twice as "
        "wide. Beyond, most bytes are read for choosing.",
        {
            _even(size=2): "Sums are fp32: four bytes a number.",
            _even(tensors=2): "Read when pages are chosen: sums of keys alone. Read "
            "afterwards: keys and values.",
            _even(page=1): "There is one sum for each 128 tokens.",
        },
        tolerance=1e-3,
    ),
}
