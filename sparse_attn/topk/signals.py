"""What a teacher's head is given and does: the second of the five steps.

Knows how it is recorded; leaves who learns from it to `steps`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_attn.checks import check_count, check_counts
from sparse_attn.gpt import GPT
from sparse_attn.topk.baseline import draw_windows
from sparse_attn.topk.heads import exact_weights
from sparse_attn.topk.hybrid import projected
from sparse_attn.topk.picks import Picks, pick_keys


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
                model(draw_windows(model, tokens, generator)[0])
    finally:
        hook.remove()
    return Signals(*(torch.cat(parts) for parts in zip(*kept, strict=True)))
