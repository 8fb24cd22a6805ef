"""The rows of the chapter's table: the published head, mended fault by fault, the same
with an oracle's picks, and what needs no selection at all.

Knows which trained parts belong together; leaves their training to `steps`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sparse_attn.topk.heads import (
    Chosen,
    Constant,
    RunningMean,
    TopKHead,
    last_keys,
    oracle,
    random_keys,
)
from sparse_attn.topk.networks import HeadApproximator, KeySelector
from sparse_attn.topk.signals import Signals
from sparse_attn.topk.steps import train_approximator, train_selector

DELETED = "head deleted"
QUERIES = 4096  # seen by a step of the mended approximators, drawn anew each time


@dataclass(frozen=True)
class Parts:
    """Trained networks by what was mended in them, each beside its last loss."""

    selectors: dict[str, tuple[KeySelector, float]]
    approximators: dict[str, tuple[HeadApproximator, float]]


def train_parts(
    signals: Signals,
    K: int = 3,
    seed: int = 0,
    published: tuple[KeySelector, float] | None = None,
) -> Parts:
    """Selectors and approximators, from as published to every fault mended.

    All see all queries at each step, as published, but the mended approximators: these
    see a random share of them, to save time.
    published: that selector and its last loss, if it has been trained already.
    """
    some = min(QUERIES, signals.q.shape[:2].numel())
    selectors = {
        "published": dict(),
        "causal": dict(causal=True),
        "top-K loss": dict(causal=True, loss="topk"),
    }
    picked = dict(gathered="picked", batch=some)
    approximators = {
        "published": dict(),
        "gathered": picked,
        "by position": picked | dict(causal=True, slots="position"),
    }
    made = [], []
    if published is not None:
        made[0].append(("published", published))
        del selectors["published"]
    for kind, how in selectors.items():
        net, losses = train_selector(signals, K=K, seed=seed, **how)
        made[0].append((kind, (net, losses[-1])))
    for kind, how in approximators.items():
        net, losses = train_approximator(signals, K=K, seed=seed, **how)
        last = losses[-20:]
        made[1].append((kind, (net, sum(last) / len(last))))
    return Parts(*map(dict, made))


def stand_ins(
    parts: Parts, signals: Signals, K: int = 3
) -> dict[str, dict[str, nn.Module]]:
    """group -> row -> what stands in for the head; the last row is `DELETED`."""
    chosen = {
        kind: Chosen(net, causal=kind != "published")
        for kind, (net, _) in parts.selectors.items()
    }
    nets = {kind: net for kind, (net, _) in parts.approximators.items()}

    def head(choose, kind, slots="ranked", K=K):
        return TopKHead(choose, nets.get(kind), K, slots=slots)

    published, mended = chosen["published"], chosen["top-K loss"]
    return {
        "selector's keys": {
            "as published": head(published, "published"),
            "+ values gathered": head(published, "gathered"),
            "+ causal": head(chosen["causal"], "gathered"),
            "+ one slot order": head(chosen["causal"], "by position", "position"),
            "+ top-K loss": head(mended, "by position", "position"),
            "softmax instead": head(mended, None),
        },
        "oracle's keys": {
            "published approximator": head(oracle, "published"),
            "values gathered": head(oracle, "gathered"),
            "its slots mixed up": head(oracle, "gathered", "position"),
            "all by position": head(oracle, "by position", "position"),
            f"softmax, {K} keys": head(oracle, None),
            f"softmax, {5 * K + 1} keys": head(oracle, None, K=5 * K + 1),
        },
        "no choice": {
            f"{K} random keys": head(random_keys(), None),
            f"last {K} keys": head(last_keys, None),
            "mean vector": Constant(signals.output.mean((0, 1))),
            "mean of the past": RunningMean(),
            DELETED: Constant(),
        },
    }
