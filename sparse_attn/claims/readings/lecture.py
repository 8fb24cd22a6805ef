"""The lecture slides and the bespoke embeddings: numbers behind their examples.

Knows what was trained, counted or drawn there, and repeats it; leaves every formula
that has a home to `cost`, `flash`, `corpus` and their neighbors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparse_attn import corpus, flash, patterns, roofline, stats, timing, workloads
from sparse_attn.device import pick_device
from sparse_attn.embeddings import BespokeTokenEmbedding, FrequencyAnalysis
from sparse_attn.patterns import graph

LANGUAGES, SEEDS = ("independent", "chain", "words"), range(7)  # as in the protocol


def two_fives(eighth: float = -2.0) -> flash.Running:
    """The state after the slides' ten scores, merged from two blocks of five.

    eighth: the score of that place, printed as -2.
    """
    blocks = torch.tensor(
        [[-1.02, -1.09, 0.24, 0.87, -1.32], [-0.6, -5.04, eighth, 1.03, -0.14]]
    )
    return flash.merge_states(*map(flash.running, blocks))


def eighth_weight(score: float = -2.0) -> Tensor:
    """What the softmax of the ten gives to the eighth, if that is its score."""
    state = two_fives(score)
    return (score - state.m).exp() / state.l


def eigenvalues() -> tuple[float, ...]:
    """The first and second of a random graph of 1,024 nodes, then of a band of 256.

    Both have about 16 neighbors to a node; the band has 8 on each side.
    """
    band = graph.undirected(graph.adjacency(patterns.Window(8, 8), 256))
    edges = (graph.random_graph(1024, 16), band)
    return tuple(float(x) for each in edges for x in graph.eigenvalues(each))


def time_over_bound(n: int = 1) -> float:
    """How many times its least time it takes here to add 1 to n numbers, in fp32.

    The least: the larger of bytes over bandwidth and FLOPs over peak rate.
    """
    here = pick_device()
    x = torch.ones(n, device=here)
    taken = timing.measure(lambda: x.add_(1), device=here).median
    return taken / roofline.measure_ceilings(here).seconds(n, 8 * n)


def second_wave() -> float:
    """Time of one piece of work too many, over that of a full wave, on this device.

    A piece is a head of fused attention, see `workloads.waves`. The shortest of many
    times: where another program takes a unit, a full wave has a second one too.
    """
    here = pick_device()
    units, runs = workloads.waves(here)
    calls = {n: runs[n] for n in (units, units + 1)}
    # Seconds, as a rule, and so longer than a busy spell.
    taken = timing.measure_together(calls, device=here, samples=1000, budget=math.inf)
    return min(taken[units + 1].samples) / min(taken[units].samples)


def luck(probabilities: np.ndarray, guesses: int) -> float:
    """Standard error, in nats, of the mean loss of so many guesses at the floor.

    probabilities (V,): the law of independent tokens, which the guesser knows.
    """
    nats = -np.log(probabilities)
    variance = probabilities @ nats**2 - (probabilities @ nats) ** 2
    return math.sqrt(variance / guesses)


def bespoke_ratio(vocab: int, width: int) -> float:
    """Parameters of the bespoke model over the standard one's, after fifty epochs.

    As the script has them: three tables of the whole vocabulary, twice as wide, as
    wide, and a quarter as wide; two projections with biases; a linear layer to logits.
    Source: focused_convergence_test.py of github.com/MikeyBeez/sparse-attention-mlp.
    """
    wide, narrow = 2 * width, width // 4
    logits = width * vocab + vocab
    tables = vocab * (wide + width + narrow)
    projections = wide * width + width + narrow * width + width
    return (tables + projections + logits) / (vocab * width + logits)


def trainable() -> tuple[int, int]:
    """Weights that an optimizer finds in the published sketch, and in a mended one.

    1,000 tokens in bands of 200, 600 and 200, for a model of width 128.
    """
    tables = {
        "high": nn.Embedding(200, 179),
        "mid": nn.Embedding(600, 128),
        "low": nn.Embedding(200, 76),
    }
    projections = {
        "high": nn.Linear(179, 128, bias=False),
        "low": nn.Linear(76, 128, bias=False),
    }
    sketch, mended = nn.Module(), nn.Module()
    sketch.embeddings, sketch.projections = tables, projections
    mended.embeddings = nn.ModuleDict(tables)
    mended.projections = nn.ModuleDict(projections)
    return tuple(
        sum(weight.numel() for weight in module.parameters())
        for module in (sketch, mended)
    )


def announced(seeds: int = 5) -> tuple[float, float, float]:
    """How "24x better" came about: (bespoke, projected, share of one answer in %).

    The standard model's loss over that of bespoke embeddings, and over that of equal
    widths with projections: medians over the seeds. Then how many windows ask for the
    word that is the most frequent of all.
    The published setting: 20,000 independent words of 200 by Zipf's law with exponent
    1.1; 30 vectors of width 224, the others of 32, all projected to 128. To be guessed
    is the most frequent word of the window of 64 that is shown. 15 steps of Adam, each
    on 8 windows that overlap; the losses are those of the last batch trained on.
    Source: scaling_test.py of github.com/MikeyBeez/sparse-attention-mlp.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        found = np.array([_announced(seed) for seed in range(seeds)])
    bespoke, projected = np.median(found[:, :2], axis=0)
    return float(bespoke), float(projected), float(found[:, 2].mean())


def _announced(seed: int) -> tuple[float, float, float]:
    text = corpus.zipf(200, 1.1, 20_000, seed=seed).tokens
    start = 64 * torch.arange(15)[:, None] + 8 * torch.arange(8)
    windows = text.unfold(0, 64, 1)[start]  # (15 batches, 8, 64)
    answers = windows.mode(dim=-1).values  # (15, 8)
    bands = FrequencyAnalysis.of(text, 200, (0.15, 0.85))
    torch.manual_seed(seed)
    ways = [
        nn.Embedding(200, 128),
        BespokeTokenEmbedding(200, 128, bands, (1.75, 0.25)),
        BespokeTokenEmbedding(200, 128, bands, (1, 1), project=True),
    ]
    for way in ways[1:]:
        for part in (*way.tables, *way.projections):
            part.reset_parameters()  # PyTorch's own start, as there
    standard, *others = (_last_loss(way, windows, answers) for way in ways)
    one = 100 * (answers == bands.order[0]).float().mean().item()
    return *(standard / loss for loss in others), one


def _last_loss(embedding: nn.Module, windows: Tensor, answers: Tensor) -> float:
    """Loss of the last batch, before its step; (N, 8, 64) windows, (N, 8) answers."""
    norm, guess = nn.LayerNorm(128), nn.Linear(128, 200)
    model = nn.ModuleList([embedding, norm, guess])
    adam = torch.optim.Adam(model.parameters(), 0.001)
    for x, y in zip(windows, answers, strict=True):
        loss = F.cross_entropy(guess(norm(embedding(x).mean(dim=1))), y)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return loss.item()


def trials(results: Mapping) -> tuple[float, ...]:
    """Bespoke minus standard, nats per token: mean and half of its 95% interval.

    On each of `LANGUAGES`, over `SEEDS`, paired. results: of benchmarks/bespoke.py.
    """
    found = []
    for language in LANGUAGES:
        bespoke, standard = (
            [results["runs"][f"{language} | {way} | {n}"]["nats"] for n in SEEDS]
            for way in ("bespoke", "standard")
        )
        found += stats.mean_interval(np.subtract(bespoke, standard))
    return tuple(found)
