"""Text drawn from a distribution that is known, and with it the least loss there is.

Knows Zipf's law, independent or with a memory of one token, and their entropy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import special
from torch import Tensor

from sparse_attn.checks import check_count, check_counts, check_finite

SUCCESSORS = 4  # tokens that may follow a token more often than Zipf's law says ...
SHARE = 0.5  # ... and the share of places at which one of them does


@dataclass(frozen=True, eq=False)
class ZipfText:
    """A text and what is known of its source. Entropies are in nats per token.

    tokens: (length,) int64 tensor, token r having rank r + 1 in Zipf's law.
    probabilities: (V,) float64 array, of a token where nothing is known before it.
    chances: (V, V) float64 array, of each token after each, None where tokens are
    independent. Arrays of NumPy, since not every device has float64.
    """

    tokens: Tensor
    probabilities: np.ndarray
    chances: np.ndarray | None

    @property
    def floor(self) -> float:
        """The entropy rate: no model of the past has a lower expected loss."""
        if self.chances is None:
            return entropy(self.probabilities)
        return float(self.probabilities @ special.entr(self.chances).sum(axis=1))

    @property
    def unigram_floor(self) -> float:
        """The least loss of a model that looks at no token before."""
        return entropy(self.probabilities)


def zipf(
    vocab: int, exponent: float = 1.0, length: int = 10_000, order: int = 0, seed=0
) -> ZipfText:
    """`length` tokens, the r-th most frequent with probability proportional to
    r^-exponent.

    order: 0 for independent tokens; 1 for a chain in which every other token, on
    average, is one of the 4 successors that its predecessor has, drawn by Zipf's law
    too. Such a chain's own frequencies are what it settles at: near Zipf's law, and
    computed. seed: of the text; the chain's successors are the same for every seed.
    Raises ValueError for arguments that do not fit.
    """
    check_counts(vocab=vocab, length=length)
    check_finite("exponent", exponent)
    check_count("order", order, least=0, most=1)
    check_count("seed", seed, least=0)
    law, draw = zipf_probabilities(vocab, exponent), np.random.default_rng(seed)
    if not order:
        tokens = draw.choice(vocab, size=length, p=law)
        return ZipfText(torch.from_numpy(tokens), law, None)
    successors = np.random.default_rng((vocab, order)).choice(
        vocab, size=(vocab, SUCCESSORS), p=law
    )
    chances = np.tile((1 - SHARE) * law, (vocab, 1))
    np.add.at(chances, (np.arange(vocab)[:, None], successors), SHARE / SUCCESSORS)
    settled = stationary(chances)
    free = draw.choice(vocab, size=length, p=law)
    led, which = draw.random(length) < SHARE, draw.integers(SUCCESSORS, size=length)
    tokens = free.copy()
    tokens[0] = draw.choice(vocab, p=settled)
    for i in np.flatnonzero(led[1:]) + 1:
        tokens[i] = successors[tokens[i - 1], which[i]]
    return ZipfText(torch.from_numpy(tokens), settled, chances)


def zipf_probabilities(vocab: int, exponent: float) -> np.ndarray:
    """(V,) float64, proportional to rank^-exponent. Source: Zipf 1949."""
    check_counts(vocab=vocab)
    check_finite("exponent", exponent)
    weights = np.arange(1, vocab + 1, dtype=np.float64) ** -float(exponent)
    return weights / weights.sum()


def stationary(chances: np.ndarray) -> np.ndarray:
    """(V,) frequencies at which a chain settles, given its (V, V) chances of the next
    state."""
    at = np.full(len(chances), 1 / len(chances))
    for _ in range(1000):
        after = at @ chances
        if np.abs(after - at).sum() < 1e-14:
            break
        at = after
    return after / after.sum()


def entropy(probabilities: np.ndarray) -> float:
    """In nats. Zero probabilities add nothing."""
    return float(special.entr(probabilities).sum())
