"""Train the small model that the chapters share: book/data/teacher.safetensors.

    python benchmarks/teacher.py [--steps 900]
    python benchmarks/teacher.py --long [--steps 240]

A byte-level GPT with rotary positions on the book's corpus. It resumes when it was
interrupted. What it reached on the validation text is written into the file. --long
goes on from that model with texts of 4,096 bytes: book/data/long_teacher.safetensors.
"""

import argparse
from pathlib import Path

import torch

from sparse_attn import corpus, gpt, training
from sparse_attn.device import facts, pick_device

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "book" / "data"
CONFIG = gpt.GPTConfig(
    layers=4, heads=4, width=128, vocab=256, context=512, positions="rotary", norm="rms"
)


LONG = 4096
SHORT_RUN = dict(steps=900, batch=8, muon=0.02)
LONG_RUN = dict(steps=240, batch=2, muon=0.01, learning_rate=1.5e-3)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--long", action="store_true", help="texts of 4,096 bytes")
    parser.add_argument("--steps", type=int)
    asked = parser.parse_args()
    run = LONG_RUN if asked.long else SHORT_RUN
    run |= dict(steps=asked.steps or run["steps"])
    name = "long_teacher" if asked.long else "teacher"

    device = pick_device()
    torch.manual_seed(0)
    config = CONFIG.but(context=LONG) if asked.long else CONFIG
    model = gpt.GPT(config).to(device)
    if asked.long:
        model.load_state_dict(gpt.load(DATA / "teacher.safetensors")[0].state_dict())
    text = corpus.load()
    checkpoint = ROOT / "_build" / f"{name}.checkpoint"
    checkpoint.parent.mkdir(exist_ok=True)
    training.train(
        model, text.train, context=config.context, checkpoint=checkpoint, **run
    )
    x, y = corpus.windows(text.validation, config.context, 256 * 512 // config.context)
    reached = training.evaluate(model.eval(), x.to(device), y.to(device))
    target = DATA / f"{name}.safetensors"
    gpt.save(
        model,
        target,
        bits_per_byte=f"{reached:.4f}",
        corpus=text.sha256,
        steps=str(run["steps"]),
        device=str(facts(device)),
    )
    print(
        f"{target.name}: {reached:.4f} bits per byte, {target.stat().st_size:,} bytes"
    )


if __name__ == "__main__":
    main()
