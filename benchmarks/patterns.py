"""Small models trained under each pattern of chapter 7: equal steps and budget.

    python benchmarks/patterns.py [--steps 500] [--seeds 3] [--part I/N]

Every pattern keeps about an eighth of the causal pairs. Each model is judged under its
own pattern and with all keys. The model trained with all keys is also judged under
each pattern as it is, and after a tenth of the steps more under that pattern.
"""

import copy

import torch
from sweep import sweep

from sparse_attn import corpus, training
from sparse_attn import patterns as P
from sparse_attn.gpt import GPT, GPTConfig

T = 512
BASE = GPTConfig(
    layers=4, heads=4, width=64, vocab=256, context=T, positions="rotary", norm="rms"
)
NEAR, FAR = P.sliding_window(32), P.Window(31, gap=8)
PATTERNS = {  # of 512 causal tokens, about 31 keys for each query
    "all keys": P.Causal(),
    "window 32": NEAR,
    "window 28, 4 sinks": P.lambda_shaped(28, 4),
    "every 4th of 128": P.Window(31, gap=4),
    "two heads near, two far": (NEAR, NEAR, FAR, FAR),
    "strided 16": P.strided(16),
    "fixed 32, 2": P.fixed(32, 2),
    "own block of 64": P.SameBlock(64),
    "random 31": P.Random(31, among=P.Causal()) | P.Window(0),
    "BigBird, blocks of 8": P.bigbird(8, 1),
}


def run(name: str, seed: int, steps: int, device) -> dict:
    torch.manual_seed(seed)
    model = GPT(BASE).to(device)
    text = corpus.load()
    x, y = (z.to(device) for z in corpus.windows(text.validation, T, 128))

    def train(model, name, steps, muon):
        with P.imposed(model, PATTERNS[name]):
            training.train(
                model,
                text.train,
                steps=steps,
                batch=8,
                context=T,
                muon=muon,
                learning_rate=0.15 * muon,
                seed=seed,
                progress=False,
            )

    def judge(model, name):
        with P.imposed(model, PATTERNS[name]):
            return training.evaluate(model, x, y)

    train(model, name, steps, muon=0.02)
    found = {"bits_per_byte": judge(model, name), "all keys": judge(model, "all keys")}
    if name == "all keys":
        found["imposed"] = {other: judge(model, other) for other in PATTERNS}
        found["tuned"] = {}
        for other in PATTERNS:
            tuned = copy.deepcopy(model)
            train(tuned, other, steps // 10, muon=0.005)
            found["tuned"][other] = judge(tuned, other)
    return found


if __name__ == "__main__":
    sweep("patterns", __doc__.split("\n")[0], PATTERNS, run, steps=500)
