"""Which keys a query keeps, and in which slots their values are laid out.

Knows indices; leaves where the scores come from, and what becomes of the values.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_attn.checks import check_choice, check_count, check_vectors

SLOTS = ("ranked", "position", "weight")


@dataclass(frozen=True)
class Picks:
    """K keys for each query: `indices` (..., T, K), int64, and `valid`, bool.

    valid is False where a query had fewer than K keys to choose from: an empty slot.
    """

    indices: Tensor
    valid: Tensor

    def taken(self, index: Tensor) -> "Picks":
        """The same keys in another order of slots; index as for `Tensor.gather`."""
        return Picks(self.indices.gather(-1, index), self.valid.gather(-1, index))

    def pairs(self, S: int) -> Tensor:
        """(..., T, S) bool: True where a key is kept; empty slots keep none."""
        empty = torch.zeros(
            *self.indices.shape[:-1], S + 1, dtype=torch.bool, device=self.valid.device
        )
        index = self.indices.masked_fill(~self.valid, S)  # a column to be cut off
        return empty.scatter(-1, index, True)[..., :S]


def pick_keys(scores: Tensor, K: int, *, causal: bool = False) -> Picks:
    """The K keys of highest score for each query, best first; ties to the earlier key.

    scores: (..., T, S), any real numbers. causal: only keys s <= t + S - T are taken;
    a query that sees fewer than K leaves slots empty. Without it, as published, the
    future is as good as the past.
    Raises ValueError for a K that is not from 1 to S.
    """
    check_vectors("scores", scores, "..., T, S")
    T, S = scores.shape[-2:]
    check_count("K", K, most=S)
    if causal:
        future = torch.ones(T, S, dtype=torch.bool, device=scores.device).triu(
            S - T + 1
        )
        scores = scores.masked_fill(future, -torch.inf)
    order = scores.sort(dim=-1, descending=True, stable=True).indices[..., :K]
    if not causal:
        return Picks(order, torch.ones_like(order, dtype=torch.bool))
    return Picks(order, ~future.expand_as(scores).gather(-1, order))


def lay_out(picks: Picks, slots: str, weights: Tensor | None = None) -> Picks:
    """The picks in the order in which their values are handed on.

    slots: "ranked", as they come, best first in the eyes of whoever chose; "position",
    by their place in the text; "weight", by the exact attention `weights` (..., T, S),
    which only an oracle knows in use. Empty slots come last.
    """
    check_choice("slots", slots, SLOTS)
    if slots == "ranked":
        return picks
    if slots == "position":
        far = torch.iinfo(picks.indices.dtype).max
        key = picks.indices.masked_fill(~picks.valid, far)
        return picks.taken(key.argsort(dim=-1, stable=True))
    if weights is None:
        raise ValueError("slots='weight' needs the exact attention weights")
    key = weights.gather(-1, picks.indices).masked_fill(~picks.valid, -1.0)
    return picks.taken(key.argsort(dim=-1, descending=True, stable=True))


def gather_values(v: Tensor, picks: Picks) -> Tensor:
    """Values (B, S, D) of the picks (B, T, K): (B, T, K, D); zeros in empty slots."""
    check_vectors("v", v, "B, S, D")
    batch = torch.arange(len(v), device=v.device)[:, None, None]
    return v[batch, picks.indices] * picks.valid[..., None]
