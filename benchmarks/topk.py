"""The published top-K / MLP method and its ablations, over several seeds.

    python benchmarks/topk.py [--steps 300] [--seeds 3]

A run is the whole published experiment: text, baseline, signals, selectors,
approximators, and every row of chapter 9's table. steps: of the baseline.
"""

import torch
from sweep import sweep

from sparse_attn import topk
from sparse_attn.metrics import relative_error


def run(name: str, seed: int, steps: int, device) -> dict:
    tokens = topk.random_tokens(seed=seed)
    model = topk.make_baseline(seed=seed).to(device)
    losses = topk.train_baseline(model, tokens, steps=steps, seed=seed)
    signals = topk.collect_signals(model, tokens, seed=seed + 100)
    fresh = topk.collect_signals(model, tokens, batches=10, seed=seed + 200)
    parts = topk.train_parts(signals, seed=seed)
    selector, loss = parts.selectors["published"]
    majority = signals.weights.argmax(-1).mode(0).values
    found = {
        "baseline loss": sum(losses[-20:]) / 20,
        "selector loss": loss,
        "selector top-1": topk.top1_accuracy(topk.Chosen(selector), fresh),
        "causal selector top-1": topk.top1_accuracy(
            topk.Chosen(parts.selectors["causal"][0], causal=True), fresh
        ),
        "majority top-1": float((fresh.weights.argmax(-1) == majority).float().mean()),
        "approximator": (
            parts.approximators["published"][1] / signals.output.square().mean().item()
        )
        ** 0.5,
        "rows": {},
    }
    for group in topk.stand_ins(parts, signals).values():
        for row, head in group.items():
            with torch.no_grad():
                off = relative_error(head(fresh.q, fresh.k, fresh.v), fresh.output)
            logits = topk.evaluate(model, {0: {0: head}}, tokens, seed=seed + 300)
            found["rows"][row] = dict(head=off, logits=logits)
    return found


if __name__ == "__main__":
    sweep(
        "topk",
        __doc__.split("\n")[0],
        ["published"],
        run,
        steps=300,
        shown="selector loss",
    )
