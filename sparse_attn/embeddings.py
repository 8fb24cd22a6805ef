"""Token embeddings whose width depends on how frequent a token is.

Knows bands of frequency, a table and a projection for each, and the way back to
logits; leaves what is learned with them to `training`, their price to `cost`.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparse_attn.checks import check_counts, check_finite
from sparse_attn.gpt import GPT

SPLIT, MULTIPLIERS = (0.2, 0.6, 0.2), (1.4, 1.0, 0.6)  # as published


class FrequencyAnalysis:
    """The tokens of a vocabulary in bands, the most frequent first.

    counts (V,): how often each token occurs, never below 0; of equal ones, the lower
    id counts as more frequent. split: the bands' shares of the V tokens, 1 together.
    order (V,): ids by frequency; sizes: tokens of each band; band, place (V,): in
    which band a token is, and its number there, in order of frequency.
    Raises ValueError for what does not fit, and for a band without a token.
    """

    def __init__(self, counts: Tensor | Sequence[int], split: Sequence[float] = SPLIT):
        counts = torch.as_tensor(counts)
        if counts.ndim != 1 or not len(counts) or (counts < 0).any():
            raise ValueError(
                f"counts has shape {tuple(counts.shape)}: one axis of numbers of at "
                "least 0 is needed, one for each token"
            )
        for share in split:
            check_finite("split", share)
        if not len(split) or min(split) <= 0 or abs(sum(split) - 1) > 1e-6:
            raise ValueError(
                f"split={tuple(split)}: shares above 0 with sum 1 are needed"
            )
        V = len(counts)
        ends = [round(V * sum(split[:i])) for i in range(1, len(split))] + [V]
        self.sizes = tuple(b - a for a, b in zip([0, *ends], ends, strict=False))
        if min(self.sizes) < 1:
            raise ValueError(
                f"split={tuple(split)} makes bands of {self.sizes} of {V} tokens: "
                "each needs a token"
            )
        self.order = counts.argsort(descending=True, stable=True)
        sizes = torch.tensor(self.sizes)
        self.band = self._by_token(torch.arange(len(sizes)).repeat_interleave(sizes))
        self.place = self._by_token(torch.cat([torch.arange(n) for n in self.sizes]))

    @classmethod
    def of(cls, tokens: Tensor, vocab: int, split: Sequence[float] = SPLIT):
        """Of a text, a tensor of ids from 0 to vocab - 1."""
        check_counts(vocab=vocab)
        tokens = torch.as_tensor(tokens).flatten()
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab:
            raise ValueError(
                f"tokens has ids from {int(tokens.min())} to {int(tokens.max())}: 0 to "
                f"{vocab - 1} are needed"
            )
        return cls(tokens.long().bincount(minlength=vocab), split)

    @property
    def vocab(self) -> int:
        return len(self.order)

    def _by_token(self, by_rank: Tensor) -> Tensor:
        return torch.empty_like(by_rank).scatter(0, self.order, by_rank)


class BespokeTokenEmbedding(nn.Module):
    """A table for each band of frequency, as wide as the band's multiplier says.

    Band i has int(base_dim · multipliers[i]) numbers for each token, and a projection
    to base_dim where that is another width, or everywhere if `project` is True.
    Tokens (...) in, vectors (..., base_dim) out; `inverse` makes logits of vectors.
    Raises ValueError for arguments that do not fit.
    Source: our reading of the published sketch, whose tables PyTorch never trained:
    they lay in a plain dict. With shrinking widths it is the adaptive input embedding
    of Baevski and Auli 2019, see `adaptive`.
    """

    def __init__(
        self,
        vocab_size: int,
        base_dim: int,
        frequency_analysis: FrequencyAnalysis,
        multipliers: Sequence[float] = MULTIPLIERS,
        *,
        project: bool = False,
    ):
        super().__init__()
        check_counts(vocab_size=vocab_size, base_dim=base_dim)
        bands = frequency_analysis
        if bands.vocab != vocab_size:
            raise ValueError(
                f"vocab_size={vocab_size} but frequency_analysis is of {bands.vocab}"
            )
        if len(multipliers) != len(bands.sizes):
            raise ValueError(
                f"multipliers={tuple(multipliers)}: one for each of the "
                f"{len(bands.sizes)} bands is needed"
            )
        widths = band_widths(base_dim, multipliers)
        pairs = list(zip(bands.sizes, widths, strict=True))
        self.tables = nn.ModuleList(nn.Embedding(n, width) for n, width in pairs)
        self.projections = nn.ModuleList(
            nn.Linear(width, base_dim, bias=False)
            if project or width != base_dim
            else nn.Identity()
            for width in widths
        )
        for name in ("order", "band", "place"):
            self.register_buffer(name, getattr(bands, name))
        self._initialize()

    def forward(self, tokens: Tensor) -> Tensor:
        band, place = self.band[tokens], self.place[tokens]
        found = None
        for i, (table, project) in enumerate(self._bands()):
            mine = project(table(place.where(band == i, 0)))
            mine = mine.masked_fill((band != i)[..., None], 0.0)
            found = mine if found is None else found + mine
        return found

    def inverse(self, x: Tensor) -> Tensor:
        """Vectors (..., base_dim) -> logits (..., V): products with every token's own
        vector, without a table of all of them."""
        logits = []
        for table, project in self._bands():
            asks = x
            if not isinstance(project, nn.Identity):
                asks = x @ project.weight  # (..., width)
            logits.append(asks @ table.weight.mT)  # (..., tokens of the band)
        by_rank = torch.cat(logits, dim=-1)
        return by_rank.index_select(-1, self._rank)

    @property
    def _rank(self) -> Tensor:
        """(V,): the place of each token in the order of frequency."""
        return self.order.argsort()

    def _bands(self):
        return zip(self.tables, self.projections, strict=True)

    def _initialize(self):
        """Vectors as large as GPT-2's, whatever the width that they come from."""
        for table, project in self._bands():
            nn.init.normal_(table.weight, std=0.02)
            if not isinstance(project, nn.Identity):
                nn.init.normal_(project.weight, std=project.in_features**-0.5)


def band_widths(base_dim: int, multipliers: Sequence[float]) -> tuple[int, ...]:
    """int(base_dim · m) for each multiplier, as published; ValueError below 1."""
    for one in multipliers:
        check_finite("multipliers", one)
    widths = tuple(int(base_dim * one) for one in multipliers)
    if min(widths, default=0) < 1:
        raise ValueError(
            f"multipliers={tuple(multipliers)} of base_dim={base_dim} give widths "
            f"{widths}: at least 1 is needed"
        )
    return widths


def adaptive(
    base_dim: int, frequency_analysis: FrequencyAnalysis, factor: int = 4
) -> BespokeTokenEmbedding:
    """Adaptive input embeddings: each band `factor` times narrower than the one before,
    all of them projected. Source: Baevski and Auli 2019, section 3."""
    check_counts(factor=factor)
    bands = len(frequency_analysis.sizes)
    return BespokeTokenEmbedding(
        frequency_analysis.vocab,
        base_dim,
        frequency_analysis,
        [Fraction(1, factor**i) for i in range(bands)],
        project=True,
    )


def with_embedding(model: GPT, embedding: BespokeTokenEmbedding) -> GPT:
    """`model`, changed in place: `embedding` for its tokens and, tied, for its head."""
    config = model.config
    if not config.tied or embedding.order.shape[0] != config.vocab:
        raise ValueError(
            f"model has {config.vocab} tokens, tied={config.tied}: a tied model of the "
            f"embedding's {embedding.order.shape[0]} is needed"
        )
    width = embedding(torch.zeros(1, dtype=torch.long, device=embedding.order.device))
    if width.shape[-1] != config.width:
        raise ValueError(
            f"embedding gives {width.shape[-1]} numbers: the model's {config.width} "
            "are needed"
        )
    model.tokens, model.head = embedding, _Inverse(embedding)
    return model


class _Inverse(nn.Module):
    """The head of a model whose embedding makes the logits; no weight of its own."""

    def __init__(self, embedding: BespokeTokenEmbedding):
        super().__init__()
        self._embedding = (embedding,)  # a tuple: not registered a second time

    def forward(self, x: Tensor) -> Tensor:
        return self._embedding[0].inverse(x)


def nats_by_band(logits: Tensor, targets: Tensor, band: Tensor) -> Tensor:
    """Mean loss where the right token is of each band, (bands,); NaN for none of it.

    logits (..., V), targets (...), band (V,): of each token.
    """
    nats = F.cross_entropy(
        logits.flatten(0, -2).float(), targets.flatten(), reduction="none"
    )
    of = F.one_hot(band[targets.flatten()], int(band.max()) + 1).to(nats.dtype)
    return (nats @ of) / of.sum(dim=0)
