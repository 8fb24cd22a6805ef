"""The published rows of GPT-4 scale: what they count, and what belongs in them.

The documents' last script takes GPT-4 for 120 layers of 128 heads, each 128 wide, and
8 sequences at once, a guess that nobody has confirmed, and keeps K = 32 keys. Knows
its formulas and their repair; leaves one head to `flops` and `indexing`.
Source: github.com/MikeyBeez/sparse-attention-mlp, final_gpt4_analysis.py.
"""

import math
from numbers import Real

from sparse_attn.checks import check_count, check_counts
from sparse_attn.cost.flops import scores, topk_mlp_flops
from sparse_attn.cost.indexing import indexed_shares

PRINTED = {  # T -> "million FLOPs" of full and of sparse attention, and their ratio
    8192: (2_100_000, 4_200, 500),
    128_000: (515_000_000, 66_400, 7_758),
}


def published_full(T: int, C: int, *, B: int = 1, L: int = 1) -> int:
    """Full attention as the rows count it: 2·B·C·T²·L, one for each multiply-add.

    Right but for conventions: `scores` has 2 FLOPs for each, and half the pairs if
    causal, so that the two departures all but cancel. What was printed as millions of
    FLOPs are billions: 2,100,000M at T = 8,192 where the formula gives 2.1e15.
    """
    check_counts(T=T, C=C, B=B, L=L)
    return 2 * B * C * T * T * L


def published_sparse(T: int, C: int, K: int, *, B: int = 1, L: int = 1) -> int:
    """The method as the rows count it: B·C·T·(1 + K)·L, also printed 1000 times small.

    Missing: the factor `hidden` of both networks, each of whose inputs meets `hidden`
    weights and not one; the approximator's output layer; and the T logits with which
    the selector answers every query, `hidden` multiply-adds each. What is left costs
    the same for each token however long the text.
    """
    check_counts(T=T, C=C, B=B, L=L)
    check_count("K", K, most=T)
    return B * C * T * (1 + K) * L


def published_ratio(T: int, K: int) -> float:
    """What the rows promise: 2T/(K + 1), the quotient of the two formulas.

    Width, heads, layers and batch cancel, so it says nothing of a model. It doubles
    with T because the only term that grows as T² was left out of the divisor.
    """
    check_counts(T=T)
    check_count("K", K, most=T)
    return 2 * T / (K + 1)


def topk_mlp_gain(T: int, D: int, hidden: int, K: int) -> float:
    """FLOPs of a full head over those of the published one, all of it counted.

    Both over all pairs, as the selector has a logit for each, be it in the future.
    However long the text, below the limit 2D/hidden.
    """
    published = topk_mlp_flops(T, D, hidden, K)
    return scores(T, D, 1).flops / published


def logit_share(T: int, D: int, hidden: int, K: int) -> float:
    """Share of the published head's FLOPs that its selector's T logits take."""
    return 2 * T * T * hidden / topk_mlp_flops(T, D, hidden, K)


def rows_at_scale(
    T: int,
    K: int,
    *,
    hidden: int = 64,
    rank: int = 8,
    block: int = 16,
    B: int = 8,
    H: int = 128,
    D: int = 128,
    L: int = 120,
) -> dict[str, int]:
    """Row -> FLOPs of attention in the whole model, done right: 2 for a multiply-add.

    "full" and "published" are over all pairs, as published; the others are causal.
    "indexer" finds K keys at `rank` and pools the rest in blocks. "block means" ranks
    by the scores that the pooled keys have anyway, so that finding adds nothing.
    """
    check_counts(T=T, B=B, H=H, D=D, L=L)
    check_count("K", K, most=T)
    full = scores(T, D, 1).flops
    causal = scores(T, D, 1, causal=True).flops
    found = {
        "full": full,
        "full, causal": causal,
        "published": topk_mlp_flops(T, D, hidden, K),
    }
    for name, at in (("indexer", rank), ("block means", 0)):
        shares = indexed_shares(T, D, K, at, block=block)
        found[name] = round(causal * math.fsum(shares.values()))
    return {name: B * H * L * flops for name, flops in found.items()}


def whole_gain(share: float, gain: float) -> float:
    """How much faster the whole is when a `share` of it is `gain` times faster.

    At most 1/(1 - share), at gain = inf. Source: Amdahl 1967.
    """
    if not isinstance(share, Real) or not 0 <= share <= 1:
        raise ValueError(f"share={share!r}: from 0 to 1 is needed")
    if not isinstance(gain, Real) or not gain > 0:
        raise ValueError(f"gain={gain!r}: more than 0 is needed")
    left = 1 - share + share / gain
    return 1 / left if left else math.inf
