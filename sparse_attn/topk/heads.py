"""What may stand in for one head: the published pair of networks, and its baselines.

Each is a module that maps q, k, v (B, T, D) of one head to its output (B, T, D). It
may use of them what it likes; the published head uses q to choose, v to answer, and
k not at all.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparse_attn.attention import attention, attention_weights, causal_mask
from sparse_attn.checks import check_choice, check_count
from sparse_attn.topk.networks import HeadApproximator, KeySelector
from sparse_attn.topk.picks import (
    SLOTS,
    Picks,
    gather_values,
    lay_out,
    pick_keys,
)

Choose = Callable[[Tensor, Tensor, int], Picks]


def exact_weights(q: Tensor, k: Tensor) -> Tensor:
    """Causal attention weights of one head: q, k (B, T, D) -> (B, T, T)."""
    q, k = q[:, None], k[:, None]
    return attention_weights(q, k, k, causal=True)[:, 0]


class TopKHead(nn.Module):
    """Keys from one place, the output from another, made of K values in slots.

    choose: (q, k, K) -> Picks, see `chosen_by` and `oracle`. approximator: a
    HeadApproximator of K·D inputs, or None for an exact softmax over the picks.
    slots: order of the values, see `lay_out`.
    """

    def __init__(
        self,
        choose: Choose,
        approximator: HeadApproximator | None,
        K: int,
        *,
        slots: str = "ranked",
    ):
        super().__init__()
        check_count("K", K)
        check_choice("slots", slots, SLOTS)
        self.choose, self.approximator = choose, approximator
        self.K, self.slots = K, slots

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        picks = self.choose(q, k, self.K)
        if self.approximator is None:
            pairs = picks.pairs(k.shape[-2])[:, None]
            return attention(q[:, None], k[:, None], v[:, None], mask=pairs)[:, 0]
        weights = exact_weights(q, k) if self.slots == "weight" else None
        values = gather_values(v, lay_out(picks, self.slots, weights))  # (B, T, K, D)
        return self.approximator(values.flatten(-2))


class Chosen(nn.Module):
    """Picks of a trained selector; `causal` masks the future, the published one not.

    Raises ValueError for a text of any other length than the selector was made for.
    """

    def __init__(self, selector: KeySelector, *, causal: bool = False):
        super().__init__()
        self.selector, self.causal = selector, causal

    def forward(self, q: Tensor, k: Tensor, K: int) -> Picks:
        check_length(self.selector, q.shape[-2])
        return pick_keys(self.selector(q), K, causal=self.causal)


def check_length(selector: KeySelector, T: int):
    """A selector has one output per position: T must be the length it was made for."""
    if selector.seq_len != T:
        raise ValueError(
            f"q has {T} tokens: this selector has {selector.seq_len} outputs, one for "
            f"each position of {selector.seq_len} tokens, and fits no other length"
        )


def oracle(q: Tensor, k: Tensor, K: int) -> Picks:
    """The K keys of largest exact weight: what no selector can know without scores."""
    return pick_keys(exact_weights(q, k), K, causal=True)


def last_keys(q: Tensor, k: Tensor, K: int) -> Picks:
    """The last K keys up to the query itself, nearest first: a sliding window."""
    T = q.shape[-2]
    recent = torch.arange(T, device=q.device, dtype=q.dtype).expand(len(q), T, T)
    return pick_keys(recent, K, causal=True)


def random_keys(seed: int = 0, *, causal: bool = True) -> Choose:
    """A choice of K keys at random, the same for every call: chance."""

    def choose(q: Tensor, k: Tensor, K: int) -> Picks:
        B, T = q.shape[:2]
        scores = torch.rand(B, T, T, generator=torch.Generator().manual_seed(seed))
        return pick_keys(scores.to(q.device), K, causal=causal)

    return choose


class Constant(nn.Module):
    """One vector (D,) for every query; None is a head deleted, all zeros."""

    def __init__(self, vector: Tensor | None = None):
        super().__init__()
        self.register_buffer("vector", vector)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.vector is None:
            return torch.zeros_like(v)
        return self.vector.to(v.dtype).expand_as(v)


class RunningMean(nn.Module):
    """Mean of all values so far: attention that cannot tell keys apart."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen = causal_mask(v.shape[1], v.shape[1], v.device).to(v.dtype)
        return (seen / seen.sum(-1, keepdim=True)) @ v
