"""What each remedy of chapter 2 does to the loss: short runs, equal steps, three seeds.

    python benchmarks/remedies.py [--steps 600] [--seeds 3] [--part I/N]

Every variant of one seed sees the same batches. Finished runs are kept in the results
file, so that an interrupted sweep goes on; parts of it may run side by side.
"""

import argparse
import fcntl
import json
from contextlib import contextmanager
from pathlib import Path

import torch

from sparse_attn import corpus, training
from sparse_attn.device import facts, pick_device
from sparse_attn.gpt import GPT, GPTConfig
from sparse_attn.units import slug

RESULTS = Path(__file__).resolve().parent / "results"
BASE = GPTConfig(layers=4, heads=12, width=192, vocab=256, context=256)
VARIANTS = {
    "as GPT-2": {},
    "4 key-value heads": dict(kv_heads=4),
    "2 key-value heads": dict(kv_heads=2),
    "1 key-value head": dict(kv_heads=1),
    "MLP 3x": dict(hidden=3 * 192),
    "SwiGLU, as many weights": dict(mlp="swiglu", hidden=512),
    "window of 64": dict(window=64),
    "4 key-value heads, MLP 3x": dict(kv_heads=4, hidden=3 * 192),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--part", default="1/1", help="I/N: every N-th run from I on")
    asked = parser.parse_args()
    first, parts = map(int, asked.part.split("/"))

    device = pick_device()
    if device.type == "cpu" and parts > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // parts))
    path = RESULTS / f"remedies-{slug(facts(device).name)}.json"
    runs = [(seed, name) for seed in range(asked.seeds) for name in VARIANTS]
    for seed, name in runs[first - 1 :: parts]:
        key = f"{name} | seed {seed} | {asked.steps} steps"
        with _results(path) as results:
            if key in results["runs"]:
                continue
        found = _run(VARIANTS[name], seed, asked.steps, device)
        with _results(path) as results:
            results["device"] = str(facts(device))
            results["runs"][key] = found
        print(f"{key}: {found['bits_per_byte']:.4f} bits per byte", flush=True)


def _run(changes: dict, seed: int, steps: int, device) -> dict:
    torch.manual_seed(seed)
    model = GPT(BASE.but(**changes)).to(device)
    text = corpus.load()
    training.train(
        model, text.train, steps=steps, batch=8, context=256, muon=0.02, seed=seed
    )
    x, y = corpus.windows(text.validation, 256, 256)
    reached = training.evaluate(model.eval(), x.to(device), y.to(device))
    return {"bits_per_byte": reached, "parameters": model.parameter_count()}


@contextmanager
def _results(path: Path):
    """The results file, locked while it is read and written."""
    path.parent.mkdir(exist_ok=True)
    with open(path, "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        results = json.loads(file.read() or '{"runs": {}}')
        before = json.dumps(results)
        yield results
        if json.dumps(results) != before:
            file.seek(0)
            file.truncate()
            file.write(json.dumps(results, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
