"""Train the model whose attention is sparse: book/data/recall.safetensors.

    python benchmarks/recall_teacher.py [--steps 1000]

A GPT of two layers that answers associative recall up to 512 tokens. What it reached
on fresh sequences of each length is written into the file.
"""

import argparse
from pathlib import Path

import torch

from sparse_attn import gpt, recall
from sparse_attn.device import facts, pick_device

ROOT = Path(__file__).resolve().parent.parent
CONFIG = gpt.GPTConfig(
    layers=2,
    heads=2,
    width=64,
    vocab=recall.vocabulary(),
    context=512,
    positions="rotary",
    norm="rms",
)
SEED, FRESH = 0, 1000  # of training, and of the sequences that judge


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=1000)
    steps = parser.parse_args().steps

    device = pick_device()
    torch.manual_seed(SEED)
    model = recall.prepare(gpt.GPT(CONFIG)).to(device)
    recall.train(model, steps=steps, seed=SEED)
    reached = {}
    for T in (128, 256, 512):
        fresh = recall.questions(128, T, torch.Generator().manual_seed(FRESH + T))
        reached[f"accuracy_{T}"] = f"{recall.accuracy(model, *fresh):.4f}"
    target = ROOT / "book" / "data" / "recall.safetensors"
    gpt.save(model, target, steps=str(steps), device=str(facts(device)), **reached)
    print(f"{target.name}: {reached}, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
