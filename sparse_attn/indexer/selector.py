"""What every selector answers: which K keys should each query meet?

Knows budgets, causality and the form of an answer; leaves the scores by which keys are
ranked to the selectors, and what is computed with the answer to `hybrid`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparse_attn.checks import check_count, check_finite, check_qkv

EMPTY = -1  # in place of an index where a query has fewer keys than the budget


@dataclass(frozen=True)
class Mass:
    """A budget that follows the query: the fewest keys that hold `p` of its mass.

    The mass is the selector's own estimate, a softmax of its scores, and at most `cap`
    keys are taken (None: no limit), at least `least` where so many are seen. Source of
    the idea: Lin et al. 2025, Twilight.
    """

    p: float
    cap: int | None = None
    least: int = 1

    def __post_init__(self):
        check_finite("p", self.p)
        if not 0 < self.p <= 1:
            raise ValueError(f"p={self.p!r}: a share of the mass, above 0 up to 1")
        check_count("least", self.least)
        if self.cap is not None:
            check_count("cap", self.cap, least=self.least)


class Selector(nn.Module):
    """Ranks keys by `scores`; any length, nothing learned unless a subclass does.

    estimates: whether a softmax of the scores is an estimate of attention weights.
    """

    estimates = False

    def scores(self, q: Tensor, k: Tensor, at: Tensor | None = None) -> Tensor:
        """(B, H, T, S): how much query t wants key s; -inf for never.

        q (B, H, T, D); k (B, H, S, D). at (T,): the queries' positions among the keys,
        the last T of them unless given.
        """
        raise NotImplementedError

    @torch.no_grad()
    def select(
        self,
        q: Tensor,
        k: Tensor,
        K: int | Mass,
        causal: bool = True,
        *,
        at: Tensor | None = None,
    ) -> Tensor:
        """(B, H, T, K) int64: the keys of each query, best first, `EMPTY` where none.

        K: how many, or a `Mass`; more than there are keys is no error, all are taken.
        at: as in `scores`.
        Raises ValueError for q and k that do not fit and for budgets that are none.
        """
        check_qkv(q, k, k)
        groups = q.shape[1] // k.shape[1]
        k = k if groups == 1 else k.repeat_interleave(groups, dim=1)  # (B, H, S, D)
        at = positions(q, k, at)
        scores = self.scores(q, k, at)  # (B, H, T, S)
        if causal:
            scores = scores.masked_fill(~visible(at, k.shape[2]), -torch.inf)
        if isinstance(K, Mass):
            return self._by_mass(scores, K)
        check_count("K", K)
        best = scores.topk(min(K, k.shape[2]), dim=-1)
        return best.indices.masked_fill(best.values == -torch.inf, EMPTY)

    def _by_mass(self, scores: Tensor, budget: Mass) -> Tensor:
        if not self.estimates:
            raise ValueError(
                f"K={budget}: {type(self).__name__} does not estimate weights; "
                "a whole number is needed"
            )
        S = scores.shape[-1]
        weights = scores.softmax(dim=-1).nan_to_num(0.0)  # rows of -inf: nothing
        best = weights.topk(min(budget.cap or S, S), dim=-1)
        before = best.values.cumsum(dim=-1) - best.values  # mass of what ranks higher
        enough = before >= budget.p
        enough[..., : budget.least] = False
        return best.indices.masked_fill(enough | (best.values == 0), EMPTY)


def positions(q: Tensor, k: Tensor, at: Tensor | None) -> Tensor:
    """(T,) where the queries stand among the keys: the last T unless `at` says."""
    T, S = q.shape[2], k.shape[2]
    return torch.arange(S - T, S, device=q.device) if at is None else at


def visible(at: Tensor, S: int) -> Tensor:
    """(T, S) bool: the keys that queries at these positions see if causal."""
    return torch.arange(S, device=at.device) <= at[:, None]


def pairs_of(indices: Tensor, S: int) -> Tensor:
    """(B, H, T, K) indices of S keys -> (B, H, T, S) bool: True where selected.

    `EMPTY` selects nothing. Raises ValueError for an index outside.
    """
    check_count("S", S)
    if indices.numel() and not EMPTY <= int(indices.min()) <= int(indices.max()) < S:
        raise ValueError(
            f"indices from {int(indices.min())} to {int(indices.max())}: "
            f"{EMPTY} to {S - 1} are needed for S={S} keys"
        )
    spare = indices.where(indices >= 0, S)  # a column for those that are empty
    found = indices.new_zeros(*indices.shape[:-1], S + 1, dtype=torch.bool)
    return found.scatter_(-1, spare, True)[..., :S]
