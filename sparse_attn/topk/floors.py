"""What the published numbers must be held against: chance, and what cannot be known.

Knows closed forms and one expectation; measures nothing of a model.
"""

import math
from functools import cache

import torch
from torch import Tensor

from sparse_attn.checks import check_count, check_counts, check_finite

DRAWS = 100_000  # of logits, for the expectations


def chance_top1(T: int) -> float:
    """How often a random key among those a query sees is the heaviest: H_T/T.

    H_T = 1 + 1/2 + ... + 1/T: query t, from 1, guesses one of t.
    """
    check_counts(T=T)
    return math.fsum(1 / t for t in range(1, T + 1)) / T


def prefix_loss(T: int) -> float:
    """Cross-entropy, in nats, of a guess that spreads evenly over what is seen.

    ln(T!)/T: query t pays ln t. It knows the causal mask and nothing else.
    """
    check_counts(T=T)
    return math.lgamma(T + 1) / T


def future_share(T: int) -> float:
    """How often one of T positions, drawn at random, lies ahead: 1/2 - 1/(2T)."""
    check_counts(T=T)
    return 0.5 - 0.5 / T


def values_only_error(
    K: int, *, ordered: bool, T: int | None = None, spread: float = 1.0
) -> float:
    """Least relative error of a head's output that is guessed from K values alone.

    Of T keys (K for None) the K heaviest are known; logits and values are independent
    normal numbers, logits of deviation `spread`. Who does not see the weights can do no
    better than use their expectation: E[w_(i)] for the value of rank i if the values
    are ordered by weight, and the mean of these if they are not. The error is
    sqrt(1 - sum of squared expectations / E[sum of all squared weights]).
    """
    weights = _sorted_weights(K if T is None else T, spread)
    check_count("K", K, most=weights.shape[-1])
    known = weights[:, :K].mean(0)
    if not ordered:
        known = known.mean().expand(K)
    left = 1 - known.square().sum() / weights.square().sum(-1).mean()
    return math.sqrt(max(0.0, float(left)))


def exact_topk_error(K: int, T: int, *, spread: float = 1.0) -> float:
    """Relative error of an exact softmax over the K heaviest of T keys, as above.

    What is kept is weighed too high by 1/mass, and the rest is missing.
    """
    weights = _sorted_weights(T, spread)
    check_count("K", K, most=T)
    kept = weights[:, :K]
    mass = kept.sum(-1, keepdim=True)
    off = (kept / mass - kept).square().sum(-1) + weights[:, K:].square().sum(-1)
    return math.sqrt(float(off.mean() / weights.square().sum(-1).mean()))


@cache
def _sorted_weights(T: int, spread: float) -> Tensor:
    """(DRAWS, T) softmax weights of normal logits, heaviest first."""
    check_counts(T=T)
    check_finite("spread", spread)
    logits = spread * torch.randn(DRAWS, T, generator=torch.Generator().manual_seed(0))
    return logits.softmax(-1).sort(-1, descending=True).values
