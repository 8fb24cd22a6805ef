"""The last three of the five published steps: selector, approximator, evaluation.

Knows the recipe; leaves the networks to `networks`, what they replace to `hybrid`.
Every step takes a seed and gives the same result for the same seed.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparse_attn.checks import check_choice, check_count, check_counts
from sparse_attn.gpt import GPT
from sparse_attn.metrics import relative_error
from sparse_attn.topk.baseline import draw_windows, fit
from sparse_attn.topk.heads import Choose
from sparse_attn.topk.hybrid import replaced
from sparse_attn.topk.networks import HeadApproximator, KeySelector
from sparse_attn.topk.picks import Picks, gather_values, lay_out
from sparse_attn.topk.signals import Signals

LOSSES = ("top1", "topk")
GATHERED = ("own", "picked")


def train_selector(
    signals: Signals,
    *,
    hidden: int = 64,
    loss: str = "top1",
    K: int = 3,
    causal: bool = False,
    steps: int = 400,
    seed: int = 0,
) -> tuple[KeySelector, list[float]]:
    """Step 3: a selector that learns from the teacher's weights; losses in nats.

    loss: "top1", as published, is cross-entropy against the one heaviest key; "topk"
    against the weights of the K heaviest, made to sum to 1. causal: logits of the
    future are masked in the softmax. Each step sees all queries, as published; equal
    queries of one position are computed once and weighted by their number.
    """
    check_choice("loss", loss, LOSSES)
    N, T, D = signals.q.shape
    target = _target(signals, 1 if loss == "top1" else K).flatten(0, 1)  # (N·T, T)
    at = torch.arange(T, device=target.device).repeat(N)
    q = torch.cat((signals.q.flatten(0, 1), at[:, None].to(signals.q.dtype)), dim=1)
    q, share, target = _merged(q, target)
    q, at = q[:, :-1], q[:, -1:]
    future = torch.arange(T, device=at.device) > at
    selector = _seeded(lambda: KeySelector(D, T, hidden), seed, q)

    def objective() -> Tensor:
        logits = selector(q)
        if causal:
            logits = logits.masked_fill(future, torch.finfo(logits.dtype).min)
        return share @ F.cross_entropy(logits, target, reduction="none")

    return selector.eval(), fit(selector, objective, steps)


def _merged(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct rows of x, the share of each, and the mean of the rows of y beside it.

    A query of the first layer is made of its token and its place, so that there are
    far fewer of them than of windows times tokens.
    """
    rows, which, count = x.unique(dim=0, return_inverse=True, return_counts=True)
    total = y.new_zeros(len(rows), y.shape[1]).index_add_(0, which, y)
    return rows, count / len(x), total / count[:, None]


def _target(signals: Signals, K: int) -> Tensor:
    """(N, T, T): the teacher's weights of the K heaviest keys, rows of sum 1."""
    picks = signals.picks(K)
    if K == 1:  # a one, not a weight: no rounding
        return picks.pairs(signals.q.shape[1]).to(signals.weights.dtype)
    kept = signals.weights * picks.pairs(signals.q.shape[1])
    return kept / kept.sum(-1, keepdim=True)


def train_approximator(
    signals: Signals,
    *,
    K: int = 3,
    hidden: int = 64,
    gathered: str = "own",
    picks: Picks | None = None,
    slots: str = "ranked",
    causal: bool = False,
    steps: int = 600,
    batch: int | None = None,
    seed: int = 0,
) -> tuple[HeadApproximator, list[float]]:
    """Step 4: an approximator of the head's output from K values; mean squared errors.

    gathered: "own", as published, fills every slot with the query's own value, because
    the script repeats V along the axis of queries before it gathers along that of keys;
    "picked" takes the values of the picks, as its comments say and as its use does.
    picks: whose keys, the teacher's for None, with the future in their first rows
    unless causal. slots: the order of the values; for the teacher's picks "ranked" is
    by weight. batch: queries per step, drawn anew each time, or all of them for None,
    as published; copies of one value need no batch, since equal rows are computed once.
    """
    check_choice("gathered", gathered, GATHERED)
    own = gathered == "own"
    v, output = signals.v.flatten(0, 1), signals.output.flatten(0, 1)  # (N·T, D)
    if own:
        v, share, mean = _merged(v, output)
        values, left = (
            v.repeat(1, K),
            output.square().mean() - share @ mean.square().mean(1),
        )
    else:
        picks = signals.picks(K, causal=causal) if picks is None else picks
        picks = lay_out(picks, slots, signals.weights)
        values = gather_values(signals.v, picks).flatten(-2).flatten(0, 1)  # (N·T, K·D)
        rows = _rows(len(values), batch, seed)
    D = output.shape[1]
    approximator = _seeded(
        lambda: HeadApproximator(values.shape[1], D, hidden), seed, values
    )

    def objective() -> Tensor:
        if own:  # what the mean of equal rows leaves of the error is a constant
            return share @ (approximator(values) - mean).square().mean(1) + left
        i = rows()
        return F.mse_loss(approximator(values[i]), output[i])

    return approximator.eval(), fit(approximator, objective, steps)


def evaluate(
    model: GPT,
    stand_ins: Mapping[int, Mapping[int, nn.Module]],
    tokens: Tensor,
    *,
    batches: int = 10,
    seed: int = 2,
) -> float:
    """Step 5: relative error of the logits when `stand_ins` replace heads of `model`.

    stand_ins: as for `replaced`. Mean over `batches` of 32 windows that no step before
    drew, but of the same tokens, as published.
    """
    check_counts(batches=batches)
    generator = torch.Generator().manual_seed(seed)
    errors = []
    with torch.no_grad():
        for _ in range(batches):
            x, _ = draw_windows(model, tokens, generator)
            exact = model(x)
            with replaced(model, stand_ins):
                errors.append(relative_error(model(x), exact))
    return sum(errors) / len(errors)


def top1_accuracy(choose: Choose, signals: Signals) -> float:
    """Share of queries whose heaviest key is the first pick of `choose`."""
    with torch.no_grad():
        picks = choose(signals.q, signals.k, 1)
    return float((picks.indices == signals.picks(1).indices).float().mean())


def _seeded(make, seed: int, beside: Tensor) -> nn.Module:
    """A network made under `seed`, where the data is; the global seed is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().to(beside.device)


def _rows(n: int, batch: int | None, seed: int):
    """Which of n rows a step looks at: all of them, or `batch` drawn anew each time."""
    if batch is None:
        return lambda: slice(None)
    check_count("batch", batch, most=n)
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randint(n, (batch,), generator=generator)
