"""The five published training steps: baseline, teacher signals, selector,
approximator, evaluation.

Knows the recipe; leaves the networks to `networks`, what they replace to `hybrid`.
Every step takes a seed and gives the same result for the same seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparse_attn import corpus
from sparse_attn.checks import check_count, check_counts
from sparse_attn.gpt import GPT, GPTConfig
from sparse_attn.metrics import relative_error
from sparse_attn.topk.heads import Choose, exact_weights
from sparse_attn.topk.hybrid import projected, replaced
from sparse_attn.topk.networks import HeadApproximator, KeySelector
from sparse_attn.topk.picks import Picks, gather_values, lay_out, pick_keys

PUBLISHED = GPTConfig(layers=2, heads=2, width=128, vocab=64, context=64, tied=False)
LEARNING_RATE = 3e-3  # AdamW with PyTorch's defaults, in all three trainings
BATCH = 32
LOSSES = ("top1", "topk")
GATHERED = ("own", "picked")


def random_tokens(n: int = 50_000, vocab: int = 64, seed: int = 0) -> Tensor:
    """The published text: n tokens, uniform and independent. Nothing follows from any.

    So the best possible loss on new text is ln(vocab) nats, that of a guess.
    """
    check_counts(n=n, vocab=vocab)
    return torch.randint(vocab, (n,), generator=torch.Generator().manual_seed(seed))


def make_baseline(config: GPTConfig = PUBLISHED, seed: int = 0) -> GPT:
    """An untrained GPT with PyTorch's own start: Linear by fan-in, Embedding N(0, 1).

    Learned positions start at zero, as published. Its MLP uses GELU in the tanh form
    where the published one is exact: they differ by less than 0.0005 everywhere.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT(config)
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                module.reset_parameters()
    if model.positions is not None:
        nn.init.zeros_(model.positions.weight)
    return model


def train_baseline(
    model: GPT, tokens: Tensor, *, steps: int = 300, seed: int = 0
) -> list[float]:
    """Step 1: fit `model` in place to the next token; the loss of each step, in nats.

    Windows of the model's context from random places of `tokens` (n,), 32 at a time.
    """
    check_counts(steps=steps)
    generator = torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        x, y = _windows(model, tokens, generator)
        return F.cross_entropy(model(x).flatten(0, 1), y.flatten())

    model.train()
    losses = _fit(model, loss, steps)
    model.eval()
    return losses


@dataclass(frozen=True)
class Signals:
    """What one head was given in many windows, and what it did with it.

    q, k, v, output: (N, T, D); weights: (N, T, T), zeros in the future.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    weights: Tensor
    output: Tensor

    def first(self, N: int) -> Signals:
        """Those of the first N windows, or of all if there are fewer."""
        return Signals(*(x[:N] for x in vars(self).values()))

    def picks(self, K: int, *, causal: bool = False) -> Picks:
        """The K heaviest keys of each query, heaviest first: (N, T, K).

        As published, a query that sees fewer than K has its list filled up with keys
        of the future, whose weight is zero; with causal, those slots stay empty.
        """
        return pick_keys(self.weights, K, causal=causal)


def collect_signals(
    model: GPT,
    tokens: Tensor,
    *,
    layer: int = 0,
    head: int = 0,
    batches: int = 32,
    seed: int = 1,
) -> Signals:
    """Step 2: what the teacher's head does in `batches` x 32 windows of `tokens`."""
    check_counts(batches=batches)
    check_count("layer", layer, least=0, most=len(model.blocks) - 1)
    check_count("head", head, least=0, most=model.config.heads - 1)
    generator = torch.Generator().manual_seed(seed)
    attention, kept = model.blocks[layer].attention, []

    def keep(module, args):
        q, k, v = (z[:, head] for z in projected(module, args[0]))
        weights = exact_weights(q, k)
        kept.append((q, k, v, weights, weights @ v))

    hook = attention.register_forward_pre_hook(keep)
    try:
        with torch.no_grad():
            for _ in range(batches):
                model(_windows(model, tokens, generator)[0])
    finally:
        hook.remove()
    return Signals(*(torch.cat(parts) for parts in zip(*kept, strict=True)))


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
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r}: choose from {list(LOSSES)}")
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

    return selector.eval(), _fit(selector, objective, steps)


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
    if gathered not in GATHERED:
        raise ValueError(f"gathered={gathered!r}: choose from {list(GATHERED)}")
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

    return approximator.eval(), _fit(approximator, objective, steps)


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
            x, _ = _windows(model, tokens, generator)
            exact = model(x)
            with replaced(model, stand_ins):
                errors.append(relative_error(model(x), exact))
    return sum(errors) / len(errors)


def top1_accuracy(choose: Choose, signals: Signals) -> float:
    """Share of queries whose heaviest key is the first pick of `choose`."""
    with torch.no_grad():
        picks = choose(signals.q, signals.k, 1)
    return float((picks.indices == signals.picks(1).indices).float().mean())


def _windows(model: GPT, tokens: Tensor, generator) -> tuple[Tensor, Tensor]:
    """32 windows and what follows each token, (32, T), on the model's device."""
    device = model.head.weight.device
    x, y = corpus.batch(tokens, BATCH, model.config.context, generator)
    return x.to(device), y.to(device)


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


def _fit(model: nn.Module, loss, steps: int) -> list[float]:
    check_counts(steps=steps)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    losses = []
    for _ in range(steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses
