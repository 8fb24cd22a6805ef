"""Selection where the answer is known: the published toy, and associative recall.

    python benchmarks/toys.py [--steps 400] [--seeds 3] [--part I/N]

The toy's teacher is trained anew for each seed; the recall task's is
book/data/recall.safetensors, all heads of all layers replaced.
"""

from functools import partial
from pathlib import Path

import torch
from sweep import sweep

from sparse_attn import corpus, gpt, indexer, metrics, recall, topk
from sparse_attn.attention import attention_weights

ROOT = Path(__file__).resolve().parent.parent
PLAIN = {
    "deleted": indexer.Nothing(),
    "random": indexer.Random(),
    "window": indexer.Recent(),
    "oracle": indexer.Oracle(),
}
ONE_HEAD = dict(layers=[0], heads=[0])


def fitted(model, make, draw, steps: int, seed: int, device) -> list:
    """An indexer for each layer, fitted to the model."""
    torch.manual_seed(seed)
    config = model.config
    width = config.width // config.heads
    chosen = [make(config.heads, width).to(device) for _ in range(config.layers)]
    indexer.distill(model, chosen, draw, steps=steps, seed=seed, progress=False)
    return chosen


def toy(name: str, seed: int, steps: int, device) -> dict:
    """Uniform random tokens: top-1 and mass of head 0 in layer 0, errors of logits."""
    tokens = topk.random_tokens(seed=seed)
    model = topk.make_baseline(seed=seed).to(device)
    topk.train_baseline(model, tokens, seed=seed)
    model.eval()

    def draw(generator, B=32):
        return corpus.batch(tokens, B, model.config.context, generator)[0]

    x = draw(torch.Generator().manual_seed(1000 + seed), 320).to(device)
    exact = metrics.teacher_logits(model, x, 32)
    q, k, v = indexer.signals(model, x[:64])[0]
    weights = attention_weights(q, k, v, causal=True)[:, :1]
    makers = {f"rank {r}": partial(indexer.LowRank, rank=r) for r in (4, 8, 16)}
    makers["T logits"] = partial(indexer.Positions, seq_len=model.config.context)
    found = {}
    for who in [*PLAIN, *makers]:
        if who in PLAIN:
            chosen = [PLAIN[who]] * 2
        else:
            chosen = fitted(model, makers[who], draw, steps, seed, device)
        first = indexer.pairs_of(chosen[0].select(q, k, 1), 64)[:, :1]
        three = indexer.pairs_of(chosen[0].select(q, k, 3), 64)[:, :1]
        found[who] = {
            "top-1": float(metrics.recall_at_k(weights, first, 1).mean()),
            "mass at 3": float(metrics.attention_recall(weights, three).mean()),
        }
        for K in (3, 8, 16):
            for part, how in (("one head", ONE_HEAD), ("all", {})):
                for rest in ("none", "pooled"):
                    with indexer.selecting(model, chosen, K, rest=rest, **how):
                        compared = metrics.compare(exact, model, x, x)
                    found[who][f"{part}, K={K}, {rest}"] = compared.logit_error
    return found | {"shown": found["rank 16"]["one head, K=16, pooled"]}


def recalled(name: str, seed: int, steps: int, device) -> dict:
    """Accuracy at 256 and 512 tokens for several K; indexers fitted at 256."""
    model, _ = gpt.load(ROOT / "book" / "data" / "recall.safetensors")
    model.to(device)
    tests = {
        T: recall.questions(32, T, torch.Generator().manual_seed(1000 + seed))
        for T in (256, 512)
    }

    def draw(generator):
        return recall.questions(16, 256, generator)[0]

    makers = {f"rank {r}": partial(indexer.LowRank, rank=r) for r in (4, 8, 16)}
    makers["T logits"] = partial(indexer.Positions, seq_len=512)
    found = {}
    for who in [*PLAIN, *makers]:
        if who in PLAIN:
            chosen = [PLAIN[who]] * 2
        else:
            chosen = fitted(model, makers[who], draw, steps // 2, seed, device)
        found[who] = {}
        for K in (1, 2, 4, 8, 16, 32):
            with indexer.selecting(model, chosen, K):
                found[who][str(K)] = {
                    str(T): recall.accuracy(model, *test) for T, test in tests.items()
                }
        x, _, asked = tests[256]
        heard = indexer.signals(model, x.to(device))
        mass = []
        for one, (q, k, v) in zip(chosen, heard, strict=True):
            kept = indexer.pairs_of(one.select(q, k, 16), 256)
            weights = attention_weights(q, k, v, causal=True)
            mass.append(float((weights * kept).sum(-1).transpose(1, 2)[asked].mean()))
        found[who]["mass where asked, K=16"] = mass
    return found | {"shown": found["rank 8"]["16"]["256"]}


RUNS = {"toy": toy, "recall": recalled}


def run(name: str, seed: int, steps: int, device) -> dict:
    return RUNS[name](name, seed, steps, device)


if __name__ == "__main__":
    sweep("toys", __doc__.split("\n")[0], RUNS, run, steps=400, shown="shown")
