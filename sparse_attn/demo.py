"""`python -m sparse_attn demo`: the story of the book in one screen, on this device.

Knows what is run and how much of it; leaves the maths to `topk`, `indexer` and
`kernels`, clocks to `timing`, and how it is told to `demo_page`.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm

from sparse_attn import corpus, gpt, indexer, kernels, metrics, timing, topk
from sparse_attn.attending import attending
from sparse_attn.checks import check_count, check_counts
from sparse_attn.demo_page import (
    BEST,
    EACH,
    MEAN,
    PUBLISHED,
    RESTS,
    SHARED,
    WIDTH,
    WINDOW,
    clock_lines,
    published_lines,
    repaired_lines,
)
from sparse_attn.device import facts, pick_device

TEACHER = Path(__file__).parent.parent / "book" / "data" / "teacher.safetensors"
# The sizes that are timed, but one local block instead of four: with four, 128 keys
# would leave nothing to choose.
SIZES = dict(block_q=64, block_k=16, pool=64, local=1)
STAGE = 20  # ticks of the bar for a stage that has no steps
Tick = Callable[[str, int], None]  # what comes next, and how much was done before it


@dataclass(frozen=True)
class Settings:
    """How much is run; where it is less than published, the screen says so.

    steps: of the published model, `fits` of its selector and its approximator.
    keep: keys of `tokens` bytes in each of `windows` texts. timed_keep: keys of each
    of `lengths`, timed `samples` times.
    """

    steps: int = 150
    fits: tuple[int, int] = (400, 600)  # as published
    evaluations: int = 5
    windows: int = 8
    tokens: int = 512
    keep: int = 128
    lengths: tuple[int, ...] = (2048, 4096, 8192)
    timed_keep: int = 512
    samples: int = 5

    def __post_init__(self):
        check_counts(steps=self.steps, tokens=self.tokens, samples=self.samples)
        check_count("keep", self.keep, most=self.tokens)
        for name in ("evaluations", "windows"):  # fewer have no interval
            check_count(name, getattr(self, name), least=2)


def run(settings: Settings | None = None, teacher: Path = TEACHER):
    """Print each part when it is done, below a progress bar on stderr.

    Raises FileNotFoundError without the trained model, ModuleNotFoundError without the
    text, ValueError for a device that is not here: all before anything is computed.
    """
    settings, device = settings or Settings(), pick_device()
    if not teacher.is_file():
        raise FileNotFoundError(
            f"{teacher} is missing: the trained model is part of the book, not of the "
            "installed package; clone the repository and run the demo there"
        )
    text, model = corpus.load(), gpt.load(teacher)[0].to(device)
    about = f"SPARSE ATTENTION, MEASURED on {facts(device)}"
    tqdm.write(textwrap.shorten(about, WIDTH), file=sys.stdout)
    total = settings.steps + STAGE * (3 + len(settings.lengths))
    with tqdm(total=total, leave=False, ncols=WIDTH, bar_format=BAR) as bar:

        def tick(what: str, done: int):
            bar.set_description_str(what, refresh=False)
            bar.update(done)

        found = published(settings, device, tick)
        tell(published_lines(found, settings.steps, settings.fits))
        found = repaired(settings, model, text, tick)
        tell(repaired_lines(found, settings.keep, settings.tokens))
        tell(clock_lines(clock(settings, device, tick), settings.timed_keep))


BAR = "{desc:26}{percentage:3.0f}% |{bar}| {elapsed}"


def tell(lines: Sequence[str]):
    """Print lines below the progress bars, after an empty one."""
    for line in ("", *lines):
        tqdm.write(line, file=sys.stdout)


def published(settings: Settings, device, tick: Tick) -> dict:
    """row -> its logit errors, one for each evaluation; "top-1" of the selector.

    Chapter 9's five steps with one seed: head 0 of layer 0 is replaced.
    """
    tokens = topk.random_tokens()
    model = topk.make_baseline().to(device)
    steps = model.register_forward_pre_hook(lambda *_: tick("the published model", 1))
    topk.train_baseline(model, tokens, steps=settings.steps)
    steps.remove()
    tick("its two networks", 0)
    signals = topk.collect_signals(model, tokens, seed=100)
    selector, _ = topk.train_selector(signals, steps=settings.fits[0])
    approximator, _ = topk.train_approximator(signals, steps=settings.fits[1])
    tick("their error", STAGE)
    choose = topk.Chosen(selector)
    rows = {
        PUBLISHED: topk.TopKHead(choose, approximator, 3),
        topk.DELETED: topk.Constant(),
        BEST: topk.TopKHead(topk.oracle, None, 3),
        MEAN: topk.RunningMean(),
    }
    found = {row: [] for row in rows}
    for seed in range(200, 200 + settings.evaluations):
        for row, head in rows.items():
            how = dict(batches=1, seed=seed)  # the same windows for every row
            found[row].append(topk.evaluate(model, {0: {0: head}}, tokens, **how))
    fresh = topk.collect_signals(model, tokens, batches=4, seed=300)
    return found | {"top-1": topk.top1_accuracy(choose, fresh)}


def repaired(settings: Settings, model, text: corpus.Corpus, tick: Tick) -> dict:
    """row -> rest -> `metrics.Comparison` with full attention, the same windows."""
    tick("a trained model", STAGE)
    device = next(model.parameters()).device
    x, y = corpus.windows(text.validation, settings.tokens, settings.windows)
    x, y = x.to(device), y.to(device)
    exact = metrics.teacher_logits(model, x)
    found = {row: {} for row in (WINDOW, EACH, SHARED)}
    for rest in RESTS:
        how = dict(keep=settings.keep, causal=True, rest=rest, dense_below=0)
        shared = partial(kernels.sparse_attention, **how, **SIZES)
        recent, means = indexer.Recent(sinks=4), indexer.BlockMean(16)
        for row, under in {
            WINDOW: indexer.selecting(model, recent, settings.keep, rest=rest),
            EACH: indexer.selecting(model, means, settings.keep, rest=rest),
            SHARED: attending(model, lambda _, *qkv, by=shared: by(*qkv)),
        }.items():
            with under:
                found[row][rest] = metrics.compare(exact, model, x, y)
    return found


def clock(settings: Settings, device, tick: Tick) -> dict:
    """tokens -> "dense" or rest -> `timing.Timing`, taken in turns; H=8, D=64."""
    found = {}
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    generator = torch.Generator().manual_seed(0)
    for T in settings.lengths:
        tick(f"the clock at {T:,} tokens", STAGE)
        qkv = torch.randn(3, 1, 8, T, 64, generator=generator).to(device, dtype)
        sparse = partial(kernels.sparse_attention, *qkv, settings.timed_keep)
        dense = partial(F.scaled_dot_product_attention, *qkv, is_causal=True)
        calls = {"dense": dense}
        calls |= {rest: partial(sparse, causal=True, rest=rest) for rest in RESTS}
        with torch.no_grad():
            found[T] = timing.measure_together(
                calls, device=device, samples=settings.samples
            )
    return found
