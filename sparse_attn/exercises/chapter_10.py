"""Answers and likely mistakes for chapter 10, computed, not typed."""

import bisect

import torch

from sparse_attn import cost, indexer
from sparse_attn.exercises import Function, Number

_SHARE = 8 / (2 * 128)
_K, _RANK, _D, _BLOCK = 512, 16, 64, 16


def _first(*, pooled: bool = True, maps: bool = True, causal: bool = True) -> int:
    """The least T at which selecting costs under a quarter of full attention."""

    def saves(T: int) -> bool:
        full = cost.scores(T, _D, 1, causal=causal).flops
        return 4 * _bill(T, pooled, maps, causal) < full

    return _K + bisect.bisect_left(range(_K, 2**16), True, key=saves)


def _bill(T: int, pooled: bool, maps: bool, causal: bool) -> int:
    """FLOPs of finding, attending and pooling; or without some parts."""
    return (
        cost.indexer_flops(T, _D, _RANK, causal=causal)
        - (0 if maps else 4 * T * _D * _RANK)
        + cost.topk_flops(T, _D, _K, causal=causal)
        + (cost.pooled_flops(T, _D, _BLOCK, causal=causal) if pooled else 0)
    )


def _pooled(pooled) -> str | None:
    """(q, k, v, block) -> attention over one mean key and value for each block."""
    generator = torch.Generator().manual_seed(0)
    for S, block in ((12, 4), (13, 4), (5, 8), (7, 1)):
        q, k, v = torch.randn(3, 2, 3, S, 8, generator=generator).unbind()
        nothing = torch.full((2, 3, S, 1), indexer.EMPTY)
        right = indexer.selected_attention(q, k, v, nothing, rest="pooled", block=block)
        got = pooled(q, k, v, block)
        case = f"{S} keys in blocks of {block}"
        if not isinstance(got, torch.Tensor):
            return f"It gives {got!r}; a tensor is needed."
        if got.shape != right.shape:
            return f"It gives shape {tuple(got.shape)}, not {tuple(right.shape)}."
        if torch.allclose(got, right, atol=1e-5):
            continue
        for wrong, why in _PITFALLS:
            if torch.allclose(got, wrong(q, k, v, block), atol=1e-5):
                return f"{case}: {why}"
        return f"{case}: the numbers are off by up to {(got - right).abs().max():.2g}."
    return None


def _by_means(q, k, v, block, *, scaled=True, sized=True, filled=False):
    """The answer to 10.3, or one that forgets something."""
    parts = [x.split(block, dim=-2) for x in (k, v)]
    sizes = torch.tensor([float(x.shape[-2]) for x in parts[0]])
    by = torch.full_like(sizes, block) if filled else sizes
    k, v = (torch.stack([x.sum(-2) for x in xs], -2) / by[:, None] for xs in parts)
    scores = q @ k.mT / (q.shape[-1] ** 0.5 if scaled else 1)
    return (scores + (sizes.log() if sized else 0)).softmax(dim=-1) @ v


_PITFALLS = (
    (
        lambda *a: _by_means(*a, sized=False),
        "the last block, shorter than the others, weighs as much as a whole one. Add "
        "the log of the size to the score.",
    ),
    (
        lambda *a: _by_means(*a, filled=True),
        "zeros that fill up the last block must not count in its means.",
    ),
    (
        lambda *a: _by_means(*a, scaled=False),
        "scores are divided by the root of the head's width, means or not.",
    ),
)


def _prefix(smallest) -> str | None:
    """(weights (S,), p) -> indices of the fewest keys that hold p of the mass."""
    steep = torch.tensor([0.125, 0.5, 0.0, 0.25, 0.125])
    even = torch.full((8,), 0.125)
    flat = torch.randn(300, generator=torch.Generator().manual_seed(0)).softmax(dim=0)
    for weights, p, n in (
        (steep, 0.6, 2),
        (steep, 0.75, 2),
        (steep, 0.5, 1),
        (even, 0.5, 4),  # ties: any four
        (even, 0.51, 5),
        (steep, 1.0, 4),  # what weighs nothing is not needed
        (flat, 1.0, 300),
    ):
        got = smallest(weights, p)
        case = f"p={p}, {len(weights)} weights"
        if len(weights) < 9:
            case = f"p={p}, weights {[round(w, 3) for w in weights.tolist()]}"
        if isinstance(got, torch.Tensor):
            got = got.tolist()
        if not isinstance(got, list) or not all(isinstance(i, int) for i in got):
            return f"{case}: it gives {got!r}; a list or a tensor of indices is needed."
        if len({*got}) < len(got) or not all(0 <= i < len(weights) for i in got):
            return f"{case}: {got} are not different indices of the weights."
        held = float(weights[got].sum())
        if held < p - 1e-5:
            ranks = sorted(got) == list(range(n))
            return f"{case}: these hold {held:.3g}. " + (
                "Are they ranks, and not yet indices?"
                if ranks
                else "The key that reaches p belongs to them."
            )
        if len(got) > n:
            return f"{case}: {len(got)} keys, and {n} hold as much."
    return None


def _causal(best) -> str | None:
    """(q (T, D), k (T, D), K) -> (T, K): the best keys of the past, -1 where none."""
    T, K = 12, 4
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, T, 8, generator=generator).unbind()
    right = indexer.Oracle().select(q[None, None], k[None, None], K)[0, 0]
    got = best(q, k, K)
    if not isinstance(got, torch.Tensor) or got.shape != (T, K):
        return f"A tensor of shape {(T, K)} is needed."
    t = torch.arange(T)
    ahead, taken = (got > t[:, None]).sum(-1), (got >= 0).sum(-1)
    if ahead[K - 1 :].any():
        return f"{int(ahead.sum())} picks lie in the future."
    if ahead.any():
        return (
            f"Query 0 picks {got[0].tolist()}: where the past has fewer than K keys, "
            "top-K takes masked ones too. Write -1 there."
        )
    short = int((taken < (t + 1).clamp(max=K)).sum())
    if short:
        return (
            f"No pick lies in the future, but {short} of {T} queries take fewer keys "
            "than they could: the future was masked after the budget was spent."
        )
    if not torch.equal(got.sort(dim=-1).values, right.sort(dim=-1).values):
        return "Some picks are not the best of what the query may see."
    return None


EXERCISES = {
    "10.1": Number(
        100 * _SHARE,
        "8 numbers per pair instead of 2·128: rank/2D, at every length that is long.",
        {
            200 * _SHARE: "That is against q kᵀ alone; the p v it spares costs as "
            "much.",
            50 * _SHARE: "Count alike on both sides: 2 FLOPs a multiply-add, and the "
            "same pairs.",
            100 * _SHARE + 100 / 16: "That is with the pooled blocks.",
        },
        tolerance=0.02,
    ),
    "10.2": Number(
        _first(),
        "An eighth goes into finding, a sixteenth into pooling: what is left of a "
        "quarter for K keys among T/2 takes a long text.",
        {
            _first(pooled=False): "The pooled blocks cost a sixteenth, too.",
            _first(maps=False): "The two maps to the rank cost little, but not "
            "nothing.",
            _first(causal=False): "Causal attention has half of the pairs to save.",
        },
        tolerance=1e-3,
    ),
    "10.3": Function(
        _pooled, "A block is one key that weighs as much as it stands for."
    ),
    "10.4": Function(
        _prefix,
        "A key is needed if those that rank above it hold less than p.",
    ),
    "10.5": Function(
        _causal, "First what may be seen, then the best of it, then the empty slots."
    ),
}
