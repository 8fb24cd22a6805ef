"""The training loop: batches, schedule, progress, and checkpoints that lose nothing.

Knows how a model of next tokens is fitted and judged; leaves the model to `gpt` and
the text to `corpus`. Losses are in bits per token, and a token here is a byte.
"""

import hashlib
import math
import os
import signal
import threading
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from sparse_attn import corpus
from sparse_attn.checks import check_count, check_counts
from sparse_attn.optimizers import make_optimizers

DECAY = 0.6  # share of the steps, the last ones, in which learning rates fall to 0
CLIP = 1.0  # largest norm of the whole gradient


@dataclass(frozen=True)
class Result:
    """What a run left behind: the loss of each step, in bits per byte."""

    losses: tuple[float, ...]

    @property
    def steps(self) -> int:
        return len(self.losses)


def train(
    model: nn.Module,
    data: Tensor,
    *,
    steps: int,
    batch: int = 16,
    context: int = 256,
    learning_rate: float = 3e-3,
    muon: float | None = None,
    warmup: int = 20,
    weight_decay: float = 0.1,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    every: int = 100,
    progress: bool = True,
) -> Result:
    """Fit `model` in place to predict the next byte of `data`, with AdamW.

    model: maps (B, T) int64 to logits (B, T, V); it stays on its device.
    data: 1-D integers, such as `corpus.load().train`. context: T.
    muon: learning rate of `Muon` for the matrices of the blocks; None: AdamW for all.
    warmup: steps in which learning rates rise linearly. Weights of two axes decay.
    checkpoint: a file, written every `every` steps, at the end and on an interrupt.
    If it is there, training goes on from it: killed and resumed, a run on a CPU has
    bit for bit the losses of a run left alone. For that, each step sets PyTorch's
    global seed from (seed, step), and nothing random depends on the steps before.

    Raises ValueError for arguments that do not fit, for a checkpoint made with others
    and for one that cannot be read; FloatingPointError for a loss that is not finite.
    Source of AdamW: Loshchilov and Hutter 2019.
    """
    check_counts(steps=steps, batch=batch, context=context, every=every)
    check_count("warmup", warmup, least=0)
    check_count("seed", seed, least=0)
    corpus.check_text(data, context)
    optimizers = make_optimizers(model, learning_rate, muon, weight_decay)

    run = _Run(model, optimizers, [])
    if checkpoint is not None:
        checkpoint = Path(checkpoint)
        settings = dict(
            steps=int(steps),
            batch=int(batch),
            context=int(context),
            learning_rate=float(learning_rate),
            muon=None if muon is None else float(muon),
            warmup=int(warmup),
            weight_decay=float(weight_decay),
            seed=int(seed),
            model=_shapes_of(model),
            data=hashlib.sha256(data.cpu().contiguous().numpy()).hexdigest()[:16],
        )
        if checkpoint.exists():
            run.load(checkpoint, settings)
        checkpoint.parent.mkdir(parents=True, exist_ok=True)

    model.train()
    first = len(run.losses)
    bar = tqdm(total=steps, initial=first, disable=not progress, unit="step")
    with bar, _interrupt_after_the_step() as interrupted:
        for i in range(first, steps):
            x, y = corpus.batch(data, batch, context, torch.manual_seed(_mix(seed, i)))
            share = schedule(i, steps, warmup)
            loss = nats(model, x, y)
            run.losses.append(descend(model, loss, optimizers, share))
            bar.set_postfix_str(f"{run.losses[-1]:.3f} bits per byte", refresh=False)
            bar.update()
            due = (i + 1) % every == 0 or i + 1 == steps
            if checkpoint is not None and (due or interrupted):
                run.save(checkpoint, settings)
            if interrupted:
                raise KeyboardInterrupt
    return Result(tuple(run.losses))


def schedule(step: int, steps: int, warmup: int) -> float:
    """Share of the full learning rate: up over `warmup`, down to 0 over the last 60%.

    step counts from 0; the first has 1/warmup, and 0 would be reached at step `steps`.
    """
    return min(1.0, (step + 1) / max(1, warmup), (steps - step) / (DECAY * steps))


def descend(model: nn.Module, loss: Tensor, optimizers, share: float) -> float:
    """One update against `loss`, in nats, at a share of the rates; the loss in bits."""
    bits = loss.item() / math.log(2)
    if not math.isfinite(bits):
        raise FloatingPointError(f"the loss is {bits}: try a smaller learning_rate")
    model.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    for optimizer, learning_rate in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = share * learning_rate
        optimizer.step()
    return bits


def nats(model, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy in nats of the model's logits on its own device."""
    device = next(model.parameters()).device
    logits = model(x.to(device))  # (B, T, V)
    return F.cross_entropy(logits.flatten(0, 1).float(), y.to(device).flatten())


def _mix(seed: int, step: int) -> int:
    """One 32-bit seed from both; PyTorch's CPU generator ignores all higher bits."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1)[0])


def evaluate(model: nn.Module, x: Tensor, y: Tensor, *, batch: int = 16) -> float:
    """Bits per byte of `model` on the windows x, y (N, T), `batch` of them at a time.

    In inference mode, with dropout off; the model is left in the mode it came in.
    """
    check_counts(batch=batch)
    if x.ndim != 2 or x.shape != y.shape or x.numel() == 0:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}: "
            "two equal shapes (N, T) are needed"
        )
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            total = sum(
                nats(model, xs, ys).item() * len(xs)
                for xs, ys in zip(x.split(batch), y.split(batch), strict=True)
            )
    finally:
        model.train(was_training)
    return total / len(x) / math.log(2)


@dataclass
class _Run:
    """What a checkpoint holds: model, optimizers and the losses so far."""

    model: nn.Module
    optimizers: list[tuple[torch.optim.Optimizer, float]]
    losses: list[float]

    def save(self, path: Path, settings: dict):
        """Write a new file and put it in place of the old one in one move."""
        state = dict(
            settings=settings,
            losses=self.losses,
            model=self.model.state_dict(),
            optimizers=[optimizer.state_dict() for optimizer, _ in self.optimizers],
        )
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)

    def load(self, path: Path, settings: dict):
        """Go on where `path` stopped, if it was made with the same `settings`."""
        try:
            with zipfile.ZipFile(path) as file:
                if file.testzip() is not None:  # torch.load checks no checksum
                    raise ValueError("checksums differ")
            state = torch.load(path, map_location="cpu", weights_only=True)
            made, losses = state["settings"], state["losses"]
            model, optimizers = state["model"], state["optimizers"]
        except Exception as error:  # zipfile, pickle and torch raise a dozen kinds
            raise ValueError(
                f"checkpoint={str(path)!r} is damaged or not one of ours ({error!r}): "
                "delete it or name another file"
            ) from error
        differ = [
            f"{name}={made.get(name)!r} there, {here!r} here"
            for name, here in settings.items()
            if made.get(name) != here
        ]
        if differ:
            raise ValueError(
                f"checkpoint={str(path)!r} is of another run: {'; '.join(differ)}. "
                "Use its settings, delete it or name another file"
            )
        self.model.load_state_dict(model)
        for (optimizer, _), saved in zip(self.optimizers, optimizers, strict=True):
            optimizer.load_state_dict(saved)
        self.losses = losses


def _shapes_of(model: nn.Module) -> str:
    """Number of weights and a hash of all names and shapes: tells models apart."""
    shapes = [(name, tuple(p.shape)) for name, p in model.state_dict().items()]
    count = sum(p.numel() for p in model.parameters())
    return f"{count:,} weights, {hashlib.sha256(repr(shapes).encode()).hexdigest()[:8]}"


@contextmanager
def _interrupt_after_the_step():
    """Yields a list that fills on Ctrl-C, so that no step is cut in half.

    A second Ctrl-C raises at once. Only a main thread gets signals.
    """
    interrupted = []
    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or before in (None, signal.SIG_IGN):
        yield interrupted
        return

    def note(*_):
        interrupted.append(True)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
