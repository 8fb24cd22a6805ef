"""Do embeddings as wide as their tokens are frequent help? The whole experiment.

    python benchmarks/bespoke.py [--workers 2] [--pilot]
    torchrun --nproc-per-node=N benchmarks/bespoke.py

What is run, judged and concluded is in bespoke_protocol.md, written before the results.
Finished runs are kept in results/bespoke-<device>.json; a killed experiment goes on
with the next one. Runs are dealt out to worker processes, or, under torchrun, to one
process for each GPU.
"""

import argparse
import itertools
import math
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from copy import deepcopy
from dataclasses import dataclass
from multiprocessing import get_context

import torch
import torch.nn.functional as F
from sweep import RESULTS, results_in
from tqdm import tqdm

from sparse_attn import corpus, embeddings, gpt, training
from sparse_attn.device import facts, pick_device
from sparse_attn.optimizers import make_optimizers
from sparse_attn.units import slug

SEEDS, PILOT = range(7), range(100, 103)
JUDGED, OTHERS = ("standard", "bespoke", "as many parameters"), 5  # all seeds; fewer
TRAIN, CHOOSE, JUDGE = 100_000, 10_000, 40_000  # tokens: to learn, to stop by, to judge
CONTEXT, BATCH = 32, 32
RATE, WARMUP = 3e-3, 50
EPOCHS, PATIENCE, GAIN = 700, 4, 0.005  # at most; quarter epochs; nats
QUARTER = TRAIN // (4 * CONTEXT * BATCH)  # steps
SHAPE = dict(
    layers=4,
    heads=4,
    width=64,
    hidden=128,
    context=CONTEXT,
    positions="rotary",
    norm="rms",
)


@dataclass(frozen=True)
class Language:
    """Tokens to learn from, to stop by and to judge with, each 1-D."""

    vocab: int
    train: torch.Tensor
    choose: torch.Tensor
    judge: torch.Tensor


def drawn(order: int, seed: int) -> Language:
    parts = [
        corpus.zipf(1000, 1.2, n, order, seed=1000 * seed + i).tokens
        for i, n in enumerate((TRAIN, CHOOSE, JUDGE))
    ]
    return Language(1000, *parts)


def written(seed: int) -> Language:
    """Words of the book's text; another stretch to learn from for each seed."""
    text = corpus.words(2000)
    start = (seed * 7919 * CONTEXT) % (len(text.train) - TRAIN)
    train = text.train[start : start + TRAIN]
    held = text.validation[:CHOOSE], text.validation[CHOOSE : CHOOSE + JUDGE]
    return Language(2000, train, *held)


LANGUAGES = {
    "independent": lambda seed: drawn(0, seed),
    "chain": lambda seed: drawn(1, seed),
    "words": written,
}


def standard(config, bands):
    return gpt.GPT(config)


def banded(*multipliers, project=False):
    def make(config, bands):
        return embeddings.with_embedding(
            gpt.GPT(config),
            embeddings.BespokeTokenEmbedding(
                config.vocab, config.width, bands, multipliers, project=project
            ),
        )

    return make


def as_many_parameters(config, bands):
    """A standard embedding, and an MLP wider by what bespoke ones hold more."""
    more = WAYS["bespoke"](config, bands).parameter_count()
    hidden = config.hidden
    while gpt.GPT(config.but(hidden=hidden)).parameter_count() < more:
        hidden += 1
    return gpt.GPT(config.but(hidden=hidden))


def adaptive(config, bands):
    return embeddings.with_embedding(
        gpt.GPT(config), embeddings.adaptive(config.width, bands)
    )


WAYS = {
    "standard": standard,
    "bespoke": banded(*embeddings.MULTIPLIERS),
    "as many parameters": as_many_parameters,
    "equal, projected": banded(1, 1, 1, project=True),
    "reversed": banded(*embeddings.MULTIPLIERS[::-1]),
    "adaptive": adaptive,
}


def run(language: str, way: str, seed: int, device) -> dict:
    """Train to the protocol's rule, judge on text that nothing was chosen by."""
    given = LANGUAGES[language](seed)
    bands = embeddings.FrequencyAnalysis.of(given.train, given.vocab)
    torch.manual_seed(seed)
    config = gpt.GPTConfig(vocab=given.vocab, **SHAPE)
    model = WAYS[way](config, bands).to(device)
    losses = learn(model, given, seed)
    judged = parts(model, given.judge, bands.band.to(device))
    return {
        "nats": judged[0],
        "by_band": judged[1],
        "choose": losses,
        "parameters": model.parameter_count(),
    }


def learn(model, given: Language, seed: int) -> list[float]:
    """The losses by which it was stopped, one for each quarter of an epoch.

    A constant rate until `PATIENCE` quarters bring no gain; from the best weights, an
    epoch in which the rate falls to 0. The model is left with the best weights of all.
    """
    x, y = corpus.windows(given.choose, CONTEXT, (CHOOSE - 1) // CONTEXT)
    optimizers = make_optimizers(model, RATE, None, 0.1)
    losses, step, best, kept, since, falling = [], 0, float("inf"), None, 0, None
    while len(losses) < 4 * EPOCHS and falling != 0:
        for _ in range(QUARTER):
            share = min(1.0, (step + 1) / WARMUP)
            if falling is not None:
                share *= falling / (4 * QUARTER)
                falling -= 1
            model.train()
            draw = torch.Generator().manual_seed(seed * 1_000_003 + step)
            batch = corpus.batch(given.train, BATCH, CONTEXT, draw)
            training.descend(model, training.nats(model, *batch), optimizers, share)
            step += 1
        losses.append(training.evaluate(model, x, y, batch=64) * math.log(2))
        gained = losses[-1] < best - GAIN
        if losses[-1] < best:
            best, kept = losses[-1], state(model, optimizers)
        since = 0 if gained else since + 1
        if falling is None and since >= PATIENCE:
            restore(model, optimizers, kept)
            falling = 4 * QUARTER
    restore(model, optimizers, kept)
    return losses


def state(model, optimizers):
    return deepcopy((model.state_dict(), [one.state_dict() for one, _ in optimizers]))


def restore(model, optimizers, kept):
    model.load_state_dict(kept[0])
    for (one, _), saved in zip(optimizers, kept[1], strict=True):
        one.load_state_dict(saved)


@torch.inference_mode()
def parts(model, tokens, band) -> tuple[float, list[float]]:
    """Nats per token, in all and where the right token is of each band."""
    model.eval()
    x, y = corpus.windows(tokens, CONTEXT, (len(tokens) - 1) // CONTEXT)
    x, y = x.to(band.device), y.to(band.device)
    logits = torch.cat([model(part) for part in x.split(64)])
    whole = F.cross_entropy(logits.flatten(0, 1).float(), y.flatten())
    return float(whole), embeddings.nats_by_band(logits, y, band).tolist()


def one(key: tuple[str, str, int], place: str, path) -> tuple:
    """A run in a process of its own, kept as soon as it is done."""
    device = torch.device(place)
    if device.type == "cpu":
        torch.set_num_threads(1)
    found = run(*key, device)
    with results_in(path) as results:
        results["device"] = str(facts(device))
        results["runs"][" | ".join(map(str, key))] = found
    return key, found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, help="processes; one for each core, GPU")
    parser.add_argument("--pilot", action="store_true", help="the pilot's seeds alone")
    asked = parser.parse_args()
    device = pick_device()
    path = RESULTS / f"bespoke-{slug(facts(device).name)}.json"
    keys = [
        (language, way, seed)
        for seed in SEEDS
        for language, way in itertools.product(LANGUAGES, WAYS)
        if seed < OTHERS or way in JUDGED
    ]
    if asked.pilot:
        keys = list(itertools.product(LANGUAGES, ("standard", "bespoke"), PILOT))
    rank, ranks = (int(os.environ.get(x, "0")) for x in ("RANK", "WORLD_SIZE"))
    ranks = max(1, ranks)
    keys = keys[rank::ranks]
    with results_in(path) as results:
        keys = [key for key in keys if " | ".join(map(str, key)) not in results["runs"]]
    if device.type == "cuda":
        first, many = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        places = [f"cuda:{first}"] if ranks > 1 else [f"cuda:{i}" for i in range(many)]
    else:
        places = [str(device)]
    cores = torch.get_num_threads() if device.type == "cpu" and ranks == 1 else 1
    workers = asked.workers or max(len(places), cores)
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    with pool, tqdm(total=len(keys), unit="run") as bar:
        work = [
            pool.submit(one, key, places[i % len(places)], path)
            for i, key in enumerate(keys)
        ]
        for done in as_completed(work):
            key, found = done.result()
            bar.update()
            quarters = len(found["choose"])
            bar.write(f"{key}: {found['nats']:.4f} nats after {quarters} quarters")


if __name__ == "__main__":
    main()
