"""Where the time and the memory of a GPT go: its forward pass, its training step.

Knows which module is which part of the bill; the clock is `timing`'s, prices `cost`'s.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from sparse_attn.gpt import GPT
from sparse_attn.timing import Marks, Timing, measure_together

BETWEEN = "additions"  # residual additions, reshapes, rotary turns: outside all parts
HOOKS = "hooks"  # what hooking into backward takes: no part, and not reported

# The last word of a module's name says to which part it belongs. An MLP holds its
# products, which are parts by themselves: what remains of it is the activation.
PARTS = {
    "tokens": "embedding",
    "positions": "embedding",
    "norm": "norm",
    "norm_1": "norm",
    "norm_2": "norm",
    "query": "query",
    "key": "key",
    "value": "value",
    "scores": "scores",
    "out": "out",
    "up": "mlp up",
    "gate": "mlp up",
    "mlp": "mlp activation",
    "down": "mlp down",
    "head": "head",
    "loss": "loss",
}
GROUPS = {  # coarser, for a picture; what is not named here is the rest
    "scores": ("scores",),
    "projections": ("query", "key", "value", "out"),
    "MLP": ("mlp up", "mlp activation", "mlp down"),
    "LM head": ("head",),
}
ORDER = (*dict.fromkeys(PARTS.values()), BETWEEN, "optimizer")


@dataclass(frozen=True)
class Profile:
    """Seconds and saved bytes of each part, summed over layers.

    seconds: mean over the middle third of the runs with hooks, so that they add up;
    medians of parts would not. whole: the same runs without hooks, taken in turn.
    saved: bytes kept for backward, as in `saved_bytes`; all 0 without gradients.
    """

    seconds: dict[str, float]
    saved: dict[str, int]
    whole: Timing

    @property
    def accounted(self) -> float:
        """Sum of the parts over the whole: 1, but for what the hooks cost and noise."""
        return sum(self.seconds.values()) / self.whole.median


def grouped(parts: dict[str, float]) -> dict[str, float]:
    """Amounts by part, as here or in `cost.flops_by_part`, added up by `GROUPS`."""
    groups = {
        group: sum(parts.get(part, 0) for part in names)
        for group, names in GROUPS.items()
    }
    return groups | {"rest": sum(parts.values()) - sum(groups.values())}


def profile_forward(
    model: GPT, tokens: Tensor, *, samples: int | None = None
) -> Profile:
    """The parts of `model(tokens)`, without gradients; tokens (B, T) on its device."""
    with torch.no_grad():
        return _profile(model, lambda mark: model(tokens), {}, samples)


def profile_training_step(
    model: GPT,
    tokens: Tensor,
    targets: Tensor,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    samples: int | None = None,
) -> Profile:
    """The parts of forward, mean cross-entropy, backward and optimizer step.

    tokens, targets (B, T). A part's seconds are those of both its directions; all
    weights must train. "optimizer" clears the gradients and, where one is given,
    steps: every run then moves the weights. Without one they stay as they are, and
    the gradients of the last run are left in place.
    """
    whole = _WithLoss(model)

    def step(mark):
        mark("optimizer")
        model.zero_grad()
        mark(BETWEEN)
        whole(tokens, targets).backward()
        mark("optimizer")
        if optimizer is not None:
            optimizer.step()

    return _profile(whole, step, saved_bytes(model, tokens, targets), samples)


class _WithLoss(nn.Module):
    """(tokens, targets) -> mean cross-entropy, with the loss as one more module."""

    def __init__(self, model: GPT):
        super().__init__()
        self.model, self.loss = model, _CrossEntropy()

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return self.loss(self.model(tokens), targets)


class _CrossEntropy(nn.Module):
    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def _profile(model: nn.Module, run, saved: dict, samples: int | None) -> Profile:
    device = next(model.parameters()).device
    runs = []

    def watched():
        marks = Marks(device)
        with _watch(model, _Open(marks.mark)):
            marks.mark(BETWEEN)
            run(marks.mark)
            marks.mark("end")
        runs.append(marks.seconds())

    both = {"whole": lambda: run(lambda label: None), "watched": watched}
    whole = measure_together(both, device=device, samples=samples)["whole"]

    warm = sorted(runs[2:], key=lambda run: sum(run.values()))  # first call, warm-up
    middle = warm[len(warm) // 3 : len(warm) - len(warm) // 3]
    parts = [part for part in ORDER if part in middle[0]]
    seconds = {part: float(np.mean([run[part] for run in middle])) for part in parts}
    return Profile(seconds, {part: saved.get(part, 0) for part in parts}, whole)


class _Open:
    """The parts that are open, innermost last; `tell` hears whose turn begins."""

    def __init__(self, tell: Callable[[str], None]):
        self.parts, self.tell = [BETWEEN], tell

    def enter(self, part: str):
        self.parts.append(part)
        self.tell(part)

    def leave(self, *_):
        self.parts.pop()
        self.tell(self.parts[-1])


@contextmanager
def _watch(model: nn.Module, parts: _Open):
    """Hooks that open and close every part of `model`; removed whatever happens."""
    hooks = []
    try:
        for name, module in model.named_modules():
            part = PARTS.get(name.rpartition(".")[2])
            if part is not None:
                before, after = _hooks(parts, part, nested=any(module.children()))
                hooks.append(module.register_forward_pre_hook(before))
                hooks.append(module.register_forward_hook(after))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _hooks(parts: _Open, part: str, nested: bool):
    """Before and after a module's forward; they put the same on its graph's nodes.

    Backward runs the youngest ready node first. So a module's share of it begins with
    the node of its output and ends with that of a view of its input, taken here. An
    embedding's input has no gradient: it stays open until backward ends, its last.
    PyTorch's full backward hooks say the same, at twice the price.
    Gradients keep their bits, unless a module reads its input more than once: then
    they are added in another order.
    """

    def enter(*_):
        parts.enter(part)

    def before(module, args):
        if not (torch.is_grad_enabled() and args[0].requires_grad):
            return parts.enter(part)
        parts.tell(HOOKS)
        x, *others = args
        x = x.view_as(x)
        x.grad_fn.register_hook(parts.leave)
        parts.enter(part)
        return x, *others

    def after(module, args, out):
        if not out.requires_grad:
            return parts.leave()
        parts.tell(HOOKS)
        if nested:  # a node of its own, else the inner module would be entered first
            out = out.view_as(out)
        out.grad_fn.register_prehook(enter)
        parts.leave()
        return out

    return before, after


def saved_bytes(model: GPT, tokens: Tensor, targets: Tensor) -> dict[str, int]:
    """Bytes that each part's forward keeps for backward; the first to save one pays.

    A storage is counted once and whole, however many parts save a view of it. Left
    out is what exists anyway: weights, `tokens` and `targets`. A part that adds
    nothing is missing. `cost` knows the closed forms.
    """
    whole = _WithLoss(model)
    parts = _Open(lambda part: None)
    there = (*model.parameters(), *model.buffers(), tokens, targets)
    seen = {x.untyped_storage().data_ptr() for x in there}
    saved, kept = Counter(), []

    def save(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            kept.append(storage)  # else its address could be given to another
            saved[parts.parts[-1]] += storage.nbytes()
        return x

    with _watch(whole, parts), saved_tensors_hooks(save, lambda x: x):
        whole(tokens, targets)
    return {part: saved[part] for part in ORDER if part in saved}
