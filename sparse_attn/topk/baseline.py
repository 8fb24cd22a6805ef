"""The published text, the untrained model and its training: the first of five steps.

Knows how windows are drawn and a loss is minimized, in all of them; leaves the other
steps to `signals` and `steps`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparse_attn import corpus
from sparse_attn.checks import check_counts
from sparse_attn.gpt import GPT, GPTConfig

PUBLISHED = GPTConfig(layers=2, heads=2, width=128, vocab=64, context=64, tied=False)
LEARNING_RATE = 3e-3  # AdamW with PyTorch's defaults, in all three trainings
BATCH = 32


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
        x, y = draw_windows(model, tokens, generator)
        return F.cross_entropy(model(x).flatten(0, 1), y.flatten())

    model.train()
    losses = fit(model, loss, steps)
    model.eval()
    return losses


def draw_windows(model: GPT, tokens: Tensor, generator) -> tuple[Tensor, Tensor]:
    """32 windows and what follows each token, (32, T), on the model's device."""
    device = model.head.weight.device
    x, y = corpus.batch(tokens, BATCH, model.config.context, generator)
    return x.to(device), y.to(device)


def fit(model: nn.Module, loss: Callable[[], Tensor], steps: int) -> list[float]:
    """Minimize loss() by AdamW, with PyTorch's defaults; its value at each step."""
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
