"""Selectors that learn nothing: what a learned one has to beat, and what bounds it.

Knows the floor (`Nothing`, `Random`), the rivals (`Recent`, `Previous`, `BlockMean`,
`BlockBounds`) and the ceiling (`Oracle`).
"""

import math

import torch
from torch import Tensor

from sparse_attn.checks import check_count
from sparse_attn.indexer.selector import Selector, positions


class Oracle(Selector):
    """The true scores q kᵀ/√D: the best K keys there are, at the price of all scores.

    scale: 1/√D unless given.
    """

    estimates = True

    def __init__(self, scale: float | None = None):
        super().__init__()
        self.scale = scale

    def scores(self, q, k, at=None) -> Tensor:
        scale = 1 / math.sqrt(q.shape[-1]) if self.scale is None else self.scale
        return scale * (q @ k.mT)


class Recent(Selector):
    """A sliding window and attention sinks: the first `sinks` keys, then the latest.

    Source: Beltagy et al. 2020 (window), Xiao et al. 2023 (sinks).
    """

    def __init__(self, sinks: int = 0):
        super().__init__()
        check_count("sinks", sinks, least=0)
        self.sinks = sinks

    def scores(self, q, k, at=None) -> Tensor:
        S = k.shape[2]
        distance, key = _distances(q, k, at)
        first = torch.where(key < self.sinks, float(S), 0.0)  # above any distance
        return (first - distance.abs()).expand(*q.shape[:3], S)


class Previous(Selector):
    """The token before, then others by how near they are to it."""

    def scores(self, q, k, at=None) -> Tensor:
        distance, _ = _distances(q, k, at)
        return -(distance - 1.0).abs().expand(*q.shape[:3], k.shape[2])


class Random(Selector):
    """Keys drawn anew for each query and head: what chance would find."""

    def __init__(self, seed: int = 0):
        super().__init__()
        check_count("seed", seed, least=0)
        self.seed = seed

    def scores(self, q, k, at=None) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        shape = (*q.shape[:3], k.shape[2])
        return torch.rand(shape, generator=generator).to(q.device)


class Nothing(Selector):
    """No key at all: a head that is deleted, since a query that sees none gets 0."""

    def scores(self, q, k, at=None) -> Tensor:
        return q.new_full((*q.shape[:3], k.shape[2]), -torch.inf)


class BlockMean(Selector):
    """Whole blocks of `size` tokens, by the query's score with their mean key.

    No parameters. All tokens of a block share its score, so K keys are K/size blocks,
    the last of them cut. The block that the query is in counts up to the query, as if
    the keys came one by one: what comes later must not draw it in.
    Source: Lu et al. 2025, MoBA.
    """

    def __init__(self, size: int = 16):
        super().__init__()
        check_count("size", size)
        self.size = size

    def scores(self, q, k, at=None) -> Tensor:
        S, size = k.shape[2], self.size
        at = positions(q, k, at).clamp(min=0)  # what is before all keys sees none
        q, so_far = self._summed_up(q, k)
        ends = torch.arange(size - 1, S + size - 1, size, device=q.device)
        scores = q @ so_far[:, :, ends.clamp(max=S - 1)].mT  # (B, H, T, n)
        own = (q * so_far[:, :, at]).sum(dim=-1, keepdim=True)  # (B, H, T, 1)
        scores = scores.scatter(-1, (at // size)[:, None].expand_as(own), own)
        return scores.repeat_interleave(size, dim=-1)[..., :S]

    def _summed_up(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """What q is multiplied with for a block's score, as of each of its tokens."""
        number = torch.arange(1, self.size + 1, device=k.device)[:, None]
        means = _by_block(k, self.size).cumsum(dim=3) / number
        return q, means.flatten(2, 3)


class BlockBounds(BlockMean):
    """Whole blocks by the most their best key could score: a bound, coordinate-wise.

    Source: Tang et al. 2024, Quest: the sum over d of max(q_d·min_d, q_d·max_d).
    """

    def _summed_up(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        blocks = _by_block(k, self.size)
        low, high = blocks.cummin(dim=3).values, blocks.cummax(dim=3).values
        signs = torch.cat((q.clamp(max=0), q.clamp(min=0)), dim=-1)  # (B, H, T, 2 D)
        return signs, torch.cat((low, high), dim=-1).flatten(2, 3)


def _by_block(k: Tensor, size: int) -> Tensor:
    """(B, H, S, D) -> (B, H, n, size, D), the last block filled up with zeros."""
    k = torch.nn.functional.pad(k, (0, 0, 0, -k.shape[2] % size))
    return k.unflatten(2, (-1, size))


def _distances(q: Tensor, k: Tensor, at: Tensor | None) -> tuple[Tensor, Tensor]:
    """(T, S) fp32: how many tokens key s lies before query t; and the keys' places."""
    key = torch.arange(k.shape[2], device=q.device)
    return (positions(q, k, at)[:, None] - key).float(), key
