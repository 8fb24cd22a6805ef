"""What selected keys cost a trained model: selectors, budgets, rests, fine-tuning.

    python benchmarks/quality.py [--steps 200] [--seeds 3] [--part I/N]

The model is book/data/teacher.safetensors, all heads of all layers replaced unless a
run says otherwise. Indexers that were fitted once are kept in _build/quality.
"""

import copy
import os
from functools import lru_cache, partial
from pathlib import Path

import torch
from sweep import sweep

from sparse_attn import corpus, gpt, indexer, metrics, training
from sparse_attn.attention import attention_weights

ROOT = Path(__file__).resolve().parent.parent
T, WINDOWS, BATCH, SINKS = 512, 24, 4, 4
KS = (8, 16, 32, 64, 128)
MASSES = (0.6, 0.8, 0.9, 0.95)
TUNING, TUNING_RATE = 100, 2e-4
INDEXERS = {
    "rank 8": partial(indexer.LowRank, rank=8),
    "rank 2": partial(indexer.LowRank, rank=2),
    "rank 4": partial(indexer.LowRank, rank=4),
    "rank 16": partial(indexer.LowRank, rank=16),
    "rank 4, MLP of 64": partial(indexer.LowRank, rank=4, hidden=64),
    "one for all heads": partial(indexer.SharedIndexer, rank=8),
    "T logits": partial(indexer.Positions, seq_len=T),
}
PLAIN = {
    "window": indexer.Recent(SINKS),
    "oracle": indexer.Oracle(),
    "random": indexer.Random(),
    "previous": indexer.Previous(),
    "block means": indexer.BlockMean(16),
    "block bounds": indexer.BlockBounds(16),
}
TUNED = {  # what is in place while the model is tuned: selector, K, rest
    f"tuned: {who}, K={K}, {rest}": (who, K, rest)
    for who, K, rest in (
        ("rank 8", 16, "pooled"),
        ("window", 16, "pooled"),
        ("rank 8", 16, "none"),
        ("window", 16, "none"),
        ("rank 8", 64, "pooled"),
        ("window", 64, "pooled"),
    )
} | {"tuned: full attention": None}
CORRECTED = {
    f"corrected: {who}, K={K}, {rest}": (who, K, rest)
    for K in (16, 64)
    for who in ("rank 8", "window")
    for rest in ("mlp", "both")
}


@lru_cache(maxsize=1)
def setting(device):
    """The teacher, the windows it is judged on, and its logits there."""
    model, _ = gpt.load(ROOT / "book" / "data" / "teacher.safetensors")
    model.to(device)
    x, y = corpus.windows(corpus.load().validation, T, WINDOWS)
    x, y = x.to(device), y.to(device)
    return model, x, y, metrics.teacher_logits(model, x)


def draw(generator, T=T, batch=BATCH):
    return corpus.batch(corpus.load().train, batch, T, generator)[0]


def selectors(name: str, seed: int, steps: int, device, T: int = T) -> list:
    """One for each layer: plain ones as they are, indexers fitted or from the store."""
    if name == "random":
        return [indexer.Random(seed)] * 4
    if name in PLAIN:
        return [PLAIN[name]] * 4
    model, *_ = setting(device)
    torch.manual_seed(seed)
    config = model.config
    make = partial(INDEXERS[name], config.heads, config.width // config.heads)
    fitted = [make().to(device) for _ in range(config.layers)]
    store = ROOT / "_build" / "quality" / f"{name}-{seed}-{steps}-{T}.pt"
    if store.exists():
        for one, state in zip(fitted, torch.load(store), strict=True):
            one.load_state_dict(state)
        return fitted
    of = partial(draw, T=T, batch=BATCH * 512 // T)
    indexer.distill(model, fitted, of, steps=steps, seed=seed, progress=False)
    store.parent.mkdir(parents=True, exist_ok=True)
    partly = store.with_suffix(f".{os.getpid()}")
    torch.save([one.state_dict() for one in fitted], partly)
    os.replace(partly, store)
    return fitted


def judged(model, chosen, K, x, y, exact, **how) -> dict:
    """The model with selection in place, against the teacher's logits."""
    with indexer.selecting(model, chosen, K, **how):
        found = metrics.compare(exact, model, x, y)
        kept = indexer.keys_kept(model)
    return {
        "bits_per_byte": found.bits_per_token,
        "change": found.change,
        "error": found.standard_error,
        "logit_error": found.logit_error,
        "kl": found.kl,
        "kept": kept,
    }


def weights_found(model, chosen, x) -> dict:
    """Mass kept and recall at each K, mean over layers and heads, on 4 windows."""
    heard = indexer.signals(model, x[:4])
    found = {}
    for K in KS:
        mass, recall = [], []
        for one, (q, k, v) in zip(chosen, heard, strict=True):
            pairs = indexer.pairs_of(one.select(q, k, K), T)
            weights = attention_weights(q, k, v, causal=True)
            mass.append(float(metrics.attention_recall(weights, pairs).mean()))
            recall.append(float(metrics.recall_at_k(weights, pairs, K).mean()))
        found[K] = {"mass": sum(mass) / 4, "recall": sum(recall) / 4}
    return found


def grid(name: str, seed: int, steps: int, device) -> dict:
    """A selector at every K, the rest dropped and pooled."""
    model, x, y, exact = setting(device)
    chosen = selectors(name, seed, steps, device)
    found = {"weights": weights_found(model, chosen, x)}
    for rest in ("none", "pooled"):
        found[rest] = {K: judged(model, chosen, K, x, y, exact, rest=rest) for K in KS}
    return found | {"bits_per_byte": found["pooled"][64]["bits_per_byte"]}


def corrected(name: str, seed: int, steps: int, device) -> dict:
    who, K, rest = CORRECTED[name]
    model, x, y, exact = setting(device)
    chosen = selectors(who, seed, steps, device)
    torch.manual_seed(seed)
    config = model.config
    width = config.width // config.heads
    mends = [
        indexer.Correction(config.heads, width).to(device) for _ in range(config.layers)
    ]
    indexer.fit_corrections(
        model, chosen, mends, draw, K, rest=rest, seed=seed, progress=False
    )
    return judged(model, chosen, K, x, y, exact, rest=rest, corrections=mends)


def tuned(name: str, seed: int, steps: int, device) -> dict:
    """The whole model trained on with the selection in place; the selector rests."""
    model, x, y, exact = setting(device)
    model = copy.deepcopy(model)
    text = corpus.load().train
    how = dict(steps=TUNING, batch=BATCH, context=T, learning_rate=TUNING_RATE)
    how |= dict(seed=seed, progress=False, warmup=10)
    if TUNED[name] is None:
        training.train(model, text, **how)
        found = metrics.compare(exact, model.eval(), x, y)
        return {"bits_per_byte": found.bits_per_token, "change": found.change}
    who, K, rest = TUNED[name]
    chosen = selectors(who, seed, steps, device)
    for one in chosen:
        one.requires_grad_(False)
    with indexer.selecting(model, chosen, K, rest=rest):
        training.train(model, text, **how)
    return judged(model.eval(), chosen, K, x, y, exact, rest=rest)


def dynamic(name: str, seed: int, steps: int, device) -> dict:
    """By predicted mass p, and with the fixed K that keeps as many keys on average."""
    least = 16 if "16" in name else 1
    model, x, y, exact = setting(device)
    chosen = selectors("rank 8", seed, steps, device)
    found = {}
    for rest in ("none", "pooled"):
        for p in MASSES:
            by_mass = judged(
                model, chosen, indexer.Mass(p, least=least), x, y, exact, rest=rest
            )
            K = min(range(1, T + 1), key=lambda K: abs(mean_kept(K) - by_mass["kept"]))
            fixed = judged(model, chosen, K, x, y, exact, rest=rest)
            found[f"{rest}, p={p}"] = {"mass": by_mass, "fixed": fixed, "K": K}
    return found | {"bits_per_byte": by_mass["bits_per_byte"]}


def mean_kept(K: int) -> float:
    """Keys per query of a causal text of T tokens, at most K each."""
    return (K * (K + 1) / 2 + (T - K) * K) / T


def lengths(name: str, seed: int, steps: int, device) -> dict:
    """Fitted at 128 and at 512 tokens, judged at 128, 256 and 512, K an eighth."""
    model, *_ = setting(device)
    found = {}
    for fitted in (128, 512):
        chosen = selectors("rank 8", seed, steps, device, T=fitted)
        for read in (128, 256, 512):
            x, y = corpus.windows(corpus.load().validation, read, WINDOWS * T // read)
            x, y = x.to(device), y.to(device)
            exact = metrics.teacher_logits(model, x)
            for rest in ("none", "pooled"):
                found[f"{fitted} to {read}, {rest}"] = judged(
                    model, chosen, read // 8, x, y, exact, rest=rest
                )
    return found | {"bits_per_byte": found["128 to 512, pooled"]["bits_per_byte"]}


def parts(name: str, seed: int, steps: int, device) -> dict:
    """One head, one layer, the whole model; and each deleted."""
    model, x, y, exact = setting(device)
    chosen = selectors("rank 8", seed, steps, device)
    nothing = [indexer.Nothing()] * 4
    found = {}
    for part, how in {
        "one head": dict(layers=[0], heads=[0]),
        "one layer": dict(layers=[0]),
        "all heads of all layers": {},
    }.items():
        for who, which, rest in (
            ("rank 8", chosen, "none"),
            ("rank 8", chosen, "pooled"),
            ("window", selectors("window", seed, steps, device), "pooled"),
            ("deleted", nothing, "none"),
        ):
            found[f"{part}: {who}, {rest}"] = judged(
                model, which, 16, x, y, exact, rest=rest, **how
            )
    return found | {"bits_per_byte": found["one head: rank 8, none"]["bits_per_byte"]}


RUNS = (
    {"rank 8": grid, "window": grid, "oracle": grid}
    | {"lengths": lengths, "parts": parts, "dynamic": dynamic}
    | {"dynamic, 16 or more": dynamic}
    | dict.fromkeys([*INDEXERS, *PLAIN], grid)
    | dict.fromkeys(CORRECTED, corrected)
    | dict.fromkeys(TUNED, tuned)
)


def run(name: str, seed: int, steps: int, device) -> dict:
    return RUNS[name](name, seed, steps, device)


if __name__ == "__main__":
    about = __doc__.split("\n")[0]
    sweep("quality", about, RUNS, run, steps=200, once=PLAIN)
