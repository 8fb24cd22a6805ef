"""Selectors that see the keys: attention in few dimensions, learned from the real one.

Knows the maps from queries and keys to scores; leaves how they are fitted to `distill`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparse_attn.checks import check_count, check_counts
from sparse_attn.indexer.selector import Selector, positions
from sparse_attn.topk.networks import KeySelector

NEAR, REACH = 16, 32  # distances with a bias of their own; buckets for all, by octave


class LowRank(Selector):
    """Per head: a map of q and one of k to `rank` numbers, their product, and a bias.

    scores = f(q)·g(k)/√rank + b(distance). f and g are linear; with `hidden`, a GELU
    MLP of that width is added to each. b has one entry for each of the 16 nearest
    distances and four per octave beyond, so that it knows every length.
    heads, width: H and D of the attention that is imitated.
    """

    estimates = True

    def __init__(self, heads: int, width: int, rank: int, hidden: int | None = None):
        super().__init__()
        check_counts(heads=heads, width=width, rank=rank)
        self.rank = rank
        self.query, self.key = (_Maps(heads, width, rank, hidden) for _ in "qk")
        self.near = nn.Parameter(torch.zeros(heads, BUCKETS))

    def scores(self, q, k, at=None) -> Tensor:
        scores = self.query(q) @ self.key(k).mT / math.sqrt(self.rank)
        return scores + _bias(self.near, q, k, at)


class SharedIndexer(Selector):
    """One selection for all heads: ReLU-weighted products of a few small index heads.

    scores = sum over j of w_j(q)·ReLU(f_j(q)·g(k)) + b(distance), the same for every
    head of the layer; f and w read the queries of all heads side by side, g their keys.
    Source: DeepSeek-AI 2025, DeepSeek-V3.2, the lightning indexer.
    """

    estimates = True

    def __init__(self, heads: int, width: int, rank: int, index_heads: int = 4):
        super().__init__()
        check_counts(heads=heads, width=width, rank=rank, index_heads=index_heads)
        self.rank, self.index_heads = rank, index_heads
        self.query = nn.Linear(heads * width, index_heads * rank, bias=False)
        self.key = nn.Linear(heads * width, rank, bias=False)
        self.weight = nn.Linear(heads * width, index_heads)
        self.near = nn.Parameter(torch.zeros(1, BUCKETS))

    def scores(self, q, k, at=None) -> Tensor:
        H = q.shape[1]
        together, keys = (x.transpose(1, 2).flatten(2) for x in (q, k))  # (B, T, H D)
        index = self.query(together).unflatten(-1, (self.index_heads, self.rank))
        met = index.transpose(1, 2) @ self.key(keys)[:, None].mT  # (B, J, T, S)
        met = F.relu(met / math.sqrt(self.rank))
        weight = self.weight(together).transpose(1, 2)[..., None]  # (B, J, T, 1)
        scores = (weight * met).sum(dim=1, keepdim=True)  # (B, 1, T, S)
        return (scores + _bias(self.near, q, k, at)).expand(-1, H, -1, -1)


class Positions(Selector):
    """The published selector, given every advantage: a `KeySelector` for each head.

    scores = MLP(q), one for each of `seq_len` positions. It sees no key, and knows one
    length: ValueError for more keys than that.
    """

    estimates = True

    def __init__(self, heads: int, width: int, seq_len: int, hidden: int = 64):
        super().__init__()
        check_counts(heads=heads, width=width, seq_len=seq_len, hidden=hidden)
        self.seq_len = seq_len
        self.heads = nn.ModuleList(
            KeySelector(width, seq_len, hidden) for _ in range(heads)
        )

    def scores(self, q, k, at=None) -> Tensor:
        S = k.shape[2]
        if self.seq_len < S:
            raise ValueError(f"k has {S} keys: this selector knows {self.seq_len}")
        out = [head(q[:, h]) for h, head in enumerate(self.heads)]
        return torch.stack(out, dim=1)[..., :S]


class _Maps(nn.Module):
    """A linear map for each head, (B, H, T, D) -> (B, H, T, rank), plus an MLP."""

    def __init__(self, heads: int, width: int, rank: int, hidden: int | None):
        super().__init__()
        self.linear = _weights(heads, width, rank)
        self.up = self.down = None
        if hidden is not None:
            check_count("hidden", hidden)
            self.up = _weights(heads, width, hidden)
            self.down = nn.Parameter(torch.zeros(heads, hidden, rank))

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.linear
        return y if self.up is None else y + F.gelu(x @ self.up) @ self.down


def _weights(heads: int, width: int, out: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(heads, width, out) / math.sqrt(width))


def bucket(distance: Tensor) -> Tensor:
    """Distances, whole numbers from 0, -> buckets: each of the first 16, then 4 an
    octave, so that twice the distance is four buckets on. Negative ones get bucket 0.
    """
    distance = distance.clamp(min=0)
    octave = torch.log2(distance.clamp(min=NEAR).float() / NEAR)
    far = NEAR + (4 * octave).floor().long()
    return torch.where(distance < NEAR, distance, far).clamp(max=BUCKETS - 1)


BUCKETS = NEAR + REACH  # the last bucket holds all from 16·2^(31/4) = 3,444 on


def _bias(near: Tensor, q: Tensor, k: Tensor, at: Tensor | None) -> Tensor:
    """(H, buckets) -> (H, T, S): each pair's bias by its distance."""
    key = torch.arange(k.shape[2], device=q.device)
    return near[:, bucket(positions(q, k, at)[:, None] - key)]
