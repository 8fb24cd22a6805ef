"""What the published numbers must be held against: chance, and what cannot be known.

Knows closed forms and one expectation; measures nothing of a model.
"""

import math

import torch

from sparse_attn.checks import check_counts, check_finite


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
    K: int, *, ordered: bool, spread: float = 1.0, draws: int = 100_000, seed: int = 0
) -> float:
    """Least relative error of a head's output that is guessed from K values alone.

    Logits and values are independent normal numbers, logits of deviation `spread`,
    and the output is the softmax mean of the values. Who does not see the weights can
    do no better than to use their expectation: 1/K each for values in no order,
    E[w_(i)] for values that stand in the order of their weights. What is left is
    sqrt(1 - sum of squared expectations / E[sum of squared weights]); the expectation
    is over `draws` of logits.
    """
    check_counts(K=K, draws=draws)
    check_finite("spread", spread)
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(draws, K, generator=generator)
    weights = logits.softmax(-1).sort(-1, descending=True).values
    known = weights.mean(0).square().sum() if ordered else torch.tensor(1 / K)
    left = 1 - known / weights.square().sum(-1).mean()
    return math.sqrt(max(0.0, float(left)))
