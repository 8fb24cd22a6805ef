"""Train the small model that the chapters share: book/data/teacher.safetensors.

    python benchmarks/teacher.py [--steps 900]

A byte-level GPT with rotary positions on the book's corpus. It resumes when it was
interrupted. What it reached on the validation text is written into the file.
"""

import argparse
from pathlib import Path

import torch

from sparse_attn import corpus, gpt, training
from sparse_attn.device import facts, pick_device

ROOT = Path(__file__).resolve().parent.parent
CONFIG = gpt.GPTConfig(
    layers=4, heads=4, width=128, vocab=256, context=512, positions="rotary", norm="rms"
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=900)
    steps = parser.parse_args().steps

    device = pick_device()
    torch.manual_seed(0)
    model = gpt.GPT(CONFIG).to(device)
    text = corpus.load()
    checkpoint = ROOT / "_build" / "teacher.checkpoint"
    checkpoint.parent.mkdir(exist_ok=True)
    training.train(
        model,
        text.train,
        steps=steps,
        batch=8,
        context=CONFIG.context,
        muon=0.02,
        checkpoint=checkpoint,
    )
    x, y = corpus.windows(text.validation, CONFIG.context, 256)
    reached = training.evaluate(model.eval(), x.to(device), y.to(device))
    target = ROOT / "book" / "data" / "teacher.safetensors"
    gpt.save(
        model,
        target,
        bits_per_byte=f"{reached:.4f}",
        corpus=text.sha256,
        steps=str(steps),
        device=str(facts(device)),
    )
    print(
        f"{target.name}: {reached:.4f} bits per byte, {target.stat().st_size:,} bytes"
    )


if __name__ == "__main__":
    main()
