"""Sweeps of many training runs: side by side, interrupted and resumed, in one file.

Finished runs are kept in the results file, so that an interrupted sweep goes on; parts
of it may run side by side.
"""

import argparse
import fcntl
import json
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path

import torch

from sparse_attn.device import facts, pick_device
from sparse_attn.units import slug

RESULTS = Path(__file__).resolve().parent / "results"


def sweep(
    question: str,
    about: str,
    names: Iterable[str],
    run: Callable[[str, int, int, torch.device], dict],
    steps: int,
    once: Iterable[str] = (),
    shown: str = "bits_per_byte",
):
    """run(name, seed, steps, device) -> what it found, for every name and seed.

    question: the results go to results/<question>-<device>.json. about: a sentence
    for --help. steps: how many unless --steps says otherwise. once: names that hold
    nothing random, for which the first seed is enough. shown: what of a run is printed.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--part", default="1/1", help="I/N: every N-th run from I on")
    asked = parser.parse_args()
    first, parts = map(int, asked.part.split("/"))

    device = pick_device()
    if device.type == "cpu" and parts > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // parts))
    path = RESULTS / f"{question}-{slug(facts(device).name)}.json"
    runs = [
        (seed, name)
        for seed in range(asked.seeds)
        for name in names
        if seed == 0 or name not in once
    ]
    for seed, name in runs[first - 1 :: parts]:
        key = f"{name} | seed {seed} | {asked.steps} steps"
        with results_in(path) as results:
            if key in results["runs"]:
                continue
        found = run(name, seed, asked.steps, device)
        with results_in(path) as results:
            results["device"] = str(facts(device))
            results["runs"][key] = found
        print(f"{key}: {shown} {found[shown]:.4f}", flush=True)


@contextmanager
def results_in(path: Path):
    """The results file, locked while it is read and written."""
    path.parent.mkdir(exist_ok=True)
    with open(path, "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        results = json.loads(file.read() or '{"runs": {}}')
        before = json.dumps(results)
        yield results
        if json.dumps(results) != before:
            text = json.dumps(results, indent=1, sort_keys=True)  # may raise: first
            file.seek(0)
            file.truncate()
            file.write(text + "\n")
