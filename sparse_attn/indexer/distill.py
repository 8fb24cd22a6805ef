"""How indexers and corrections learn: from the attention of a trained model.

Knows the two losses and their loops; leaves the texts to a function that draws them,
and the training of whole models to `training`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from tqdm import trange

from sparse_attn.attention import attention, attention_weights
from sparse_attn.checks import check_choice, check_counts
from sparse_attn.gpt import GPT
from sparse_attn.indexer.model import QKV, signals
from sparse_attn.indexer.rest import BLOCK, Correction, halves, joined
from sparse_attn.indexer.selector import Mass, Selector, visible

Draw = Callable[[torch.Generator], Tensor]  # -> tokens (B, T), new ones at every call


def distill(
    model: GPT,
    indexers: Sequence[Selector],
    draw: Draw,
    *,
    steps: int = 240,
    rows: int = 64,
    learning_rate: float = 5e-3,
    seed: int = 0,
    progress: bool = True,
) -> list[float]:
    """Fit an indexer per layer to the model's attention; the model is not touched.

    Loss: cross-entropy from the teacher's weights to the softmax of the indexer's
    scores, in nats, mean over `rows` queries drawn in each text, heads and layers.
    AdamW, its rate falling linearly to 0. Returns the loss of each step.
    Source: DeepSeek-AI 2025 (per-layer KL to the attention, the model detached).
    """

    def loss(layer: int, heard: QKV, at: Tensor) -> Tensor:
        q, k, v = heard
        q = q[:, :, at]  # (B, H, rows, D)
        seen = visible(at, k.shape[2])
        true = attention_weights(q, k, v, mask=seen)
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        guess = indexers[layer].scores(q, k, at).masked_fill(~seen, -torch.inf)
        log_p = guess.log_softmax(dim=-1).masked_fill(~seen, 0.0)
        return -(true * log_p).sum(dim=-1).mean()

    fitted = nn.ModuleList(indexers)
    return _fit(model, fitted, draw, loss, steps, rows, learning_rate, seed, progress)


def fit_corrections(
    model: GPT,
    selectors: Selector | Sequence[Selector],
    corrections: Sequence[Correction],
    draw: Draw,
    K: int | Mass,
    *,
    rest: str = "both",
    block: int = BLOCK,
    steps: int = 120,
    rows: int = 64,
    learning_rate: float = 3e-3,
    seed: int = 0,
    progress: bool = True,
) -> list[float]:
    """Fit a correction per layer to what the pooled sum leaves; nothing else learns.

    Loss: squared error of the joined output over the energy of the exact one, mean
    over heads and layers, on `rows` queries drawn in each text. Returns it per step.
    """
    check_choice("rest", rest, ("mlp", "both"))
    L = len(corrections)
    chosen_by = [selectors] * L if isinstance(selectors, Selector) else selectors
    if len(chosen_by) != L:
        raise ValueError(f"selectors has {len(chosen_by)}: one for each of {L} layers")

    def loss(layer: int, heard: QKV, at: Tensor) -> Tensor:
        q, k, v = heard
        q = q[:, :, at]  # (B, H, rows, D)
        size = block if rest == "both" else k.shape[2]
        indices = chosen_by[layer].select(q, k, K, at=at)
        chosen, others = halves(q, k, v, indices, causal=True, block=size, at=at)
        exact = attention(q, k, v, mask=visible(at, k.shape[2]))
        off = joined(q, chosen, others, corrections[layer]) - exact
        energy = exact.square().sum(dim=(0, 2, 3))  # (H,)
        return (off.square().sum(dim=(0, 2, 3)) / energy).mean()

    fitted = nn.ModuleList(corrections)
    return _fit(model, fitted, draw, loss, steps, rows, learning_rate, seed, progress)


def _fit(model, fitted, draw, loss, steps, rows, learning_rate, seed, progress):
    """AdamW on `fitted`, by the sum over layers of loss(layer, signals, positions)."""
    check_counts(steps=steps, rows=rows)
    if len(fitted) != len(model.blocks):
        raise ValueError(
            f"{len(fitted)} modules to fit: one for each of {len(model.blocks)} layers"
        )
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(fitted.parameters(), lr=learning_rate)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    losses = []
    for _ in trange(steps, disable=not progress, unit="step"):
        heard = signals(model, draw(generator).to(device))
        T = heard[0].q.shape[2]
        at = torch.randperm(T, generator=generator)[:rows].to(device)
        total = sum(loss(layer, qkv, at) for layer, qkv in enumerate(heard))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        falling.step()
        losses.append(float(total.detach()) / len(heard))
    return losses
