"""What each remedy of chapter 2 does to the loss: short runs, equal steps, three seeds.

    python benchmarks/remedies.py [--steps 600] [--seeds 3] [--part I/N]

Every variant of one seed sees the same batches.
"""

import torch
from sweep import sweep

from sparse_attn import corpus, training
from sparse_attn.gpt import GPT, GPTConfig

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


def run(name: str, seed: int, steps: int, device) -> dict:
    torch.manual_seed(seed)
    model = GPT(BASE.but(**VARIANTS[name])).to(device)
    text = corpus.load()
    training.train(
        model, text.train, steps=steps, batch=8, context=256, muon=0.02, seed=seed
    )
    x, y = corpus.windows(text.validation, 256, 256)
    reached = training.evaluate(model.eval(), x.to(device), y.to(device))
    return {"bits_per_byte": reached, "parameters": model.parameter_count()}


if __name__ == "__main__":
    sweep("remedies", __doc__.split("\n")[0], VARIANTS, run, steps=600)
