"""How far an approximation of attention is from the attention it replaces.

Knows distances, of weights, outputs, logits and losses; leaves what is approximated
to `topk` and `indexer`, and intervals over seeds to whoever runs several.
"""

import math
import statistics
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparse_attn.checks import check_count, check_counts, check_weights


def attention_recall(weights: Tensor, pairs: Tensor) -> Tensor:
    """The share of attention mass that `pairs` keep, mean over queries: (B, H), 0 to 1.

    weights: (B, H, T, S), rows that sum to 1, as from `attention_weights`; pairs: bool,
    of the same shape. Raises ValueError for tensors that do not fit.
    """
    check_weights(weights, pairs)
    weights = weights.to(torch.promote_types(weights.dtype, torch.float32))
    return (weights * pairs).sum(dim=-1).mean(dim=-1)


def recall_at_k(weights: Tensor, pairs: Tensor, K: int) -> Tensor:
    """The share of each query's K heaviest keys that are among `pairs`: (B, H).

    weights and pairs as in `attention_recall`. A query that sees fewer than K keys is
    asked only for those it sees: a weight of zero is nothing to be found.
    """
    check_weights(weights, pairs)
    check_count("K", K, most=weights.shape[-1])
    heaviest = weights.topk(K, dim=-1)
    wanted = heaviest.values > 0
    found = pairs.gather(-1, heaviest.indices) & wanted
    return found.sum(dim=(-2, -1)) / wanted.sum(dim=(-2, -1))


def relative_error(approximation: Tensor, exact: Tensor) -> float:
    """Norm of the difference over norm of `exact`: 0 is perfect, 1 is as bad as zeros.

    Raises ValueError for different shapes.
    """
    if approximation.shape != exact.shape:
        raise ValueError(
            f"approximation has shape {tuple(approximation.shape)} but exact "
            f"{tuple(exact.shape)}: they must be equal"
        )
    return float((approximation - exact).norm() / exact.norm())


@dataclass(frozen=True)
class Comparison:
    """A changed model beside its teacher, on the same windows.

    bits, teacher_bits: bits per token of each window. logit_error: relative error of
    all logits together. kl: mean KL divergence of next-token distributions, teacher
    first, in bits per token.
    """

    bits: tuple[float, ...]
    teacher_bits: tuple[float, ...]
    logit_error: float
    kl: float

    @property
    def bits_per_token(self) -> float:
        return statistics.fmean(self.bits)

    @property
    def change(self) -> float:
        """Bits per token more than the teacher needs."""
        return statistics.fmean(self._changes)

    @property
    def standard_error(self) -> float:
        """Of `change`, over the windows, each compared with itself; 0 for a single."""
        changes = self._changes
        if len(changes) < 2:
            return 0.0
        return statistics.stdev(changes) / math.sqrt(len(changes))

    @property
    def _changes(self) -> list[float]:
        pairs = zip(self.bits, self.teacher_bits, strict=True)
        return [ours - theirs for ours, theirs in pairs]


def teacher_logits(teacher: nn.Module, x: Tensor, batch: int = 8) -> tuple[Tensor, ...]:
    """Logits of the windows x (N, T), `batch` at a time: what `compare` compares with.

    Each (batch, T, V); together they take N·T·V numbers of memory.
    """
    check_counts(batch=batch)
    with torch.inference_mode():
        return tuple(teacher(part) for part in x.split(batch))


def compare(
    exact: tuple[Tensor, ...], model: nn.Module, x: Tensor, y: Tensor
) -> Comparison:
    """`model` on the windows x, y (N, T) against the teacher's logits of the same x.

    exact: from `teacher_logits`, so that one pass of the teacher serves many models.
    """
    sizes = [len(part) for part in exact]
    if sum(sizes) != len(x) or x.shape != y.shape:
        raise ValueError(
            f"exact has {sum(sizes)} windows, x {tuple(x.shape)}, y {tuple(y.shape)}: "
            "they must be of the same windows"
        )
    bits, teacher_bits, off, size, divergence = [], [], 0.0, 0.0, 0.0
    with torch.inference_mode():
        for part, xs, ys in zip(exact, x.split(sizes), y.split(sizes), strict=True):
            logits = model(xs)  # (B, T, V)
            off += float((logits - part).square().sum())
            size += float(part.square().sum())
            ours, theirs = logits.log_softmax(-1), part.log_softmax(-1)
            divergence += float((theirs.exp() * (theirs - ours)).sum())
            bits += _window_bits(ours, ys)
            teacher_bits += _window_bits(theirs, ys)
    return Comparison(
        tuple(bits),
        tuple(teacher_bits),
        math.sqrt(off / size),
        divergence / y.numel() / math.log(2),
    )


def _window_bits(log_p: Tensor, y: Tensor) -> list[float]:
    """(B, T, V) log-probabilities, (B, T) targets -> bits per token of each window."""
    nats = F.nll_loss(log_p.transpose(1, 2), y, reduction="none")  # (B, T)
    return (nats.mean(dim=1) / math.log(2)).tolist()


def future_leak(model: nn.Module, tokens: Tensor, seed: int = 0) -> float:
    """How far logits move when what comes after them changes: 0 for a causal model.

    tokens (B, T): at each of several places, all tokens after it are replaced by others
    of `tokens`, drawn at random (a mere change of order is unseen without positions).
    The largest change of a logit at or before it, relative to the largest logit, is
    returned. Rounding gives about 1e-6; a model that sees its target, 0.1 or more.
    Raises ValueError for tokens that are all the same, and logits that are 0 or not
    finite.
    """
    if tokens.ndim != 2 or 0 in tokens.shape:
        raise ValueError(f"tokens has shape {tuple(tokens.shape)}: (B, T) is needed")
    T, draw = tokens.shape[1], torch.Generator().manual_seed(seed)
    was_training, moved, seen = model.training, 0.0, False
    model.eval()
    try:
        with torch.inference_mode():
            before = model(tokens)
            largest = float(before.abs().max())
            for t in sorted({T // 4, T // 2, T - 3} & set(range(T - 1))):
                drawn = torch.randint(
                    tokens.numel(), (len(tokens), T - t - 1), generator=draw
                )
                other = tokens.clone()
                other[:, t + 1 :] = tokens.flatten()[drawn.to(tokens.device)]
                seen |= not torch.equal(other, tokens)
                change = (model(other) - before)[:, : t + 1].abs().max()
                moved = max(moved, float(change.nan_to_num(math.inf)))
    finally:
        model.train(was_training)
    if not seen:
        raise ValueError(
            f"tokens of shape {tuple(tokens.shape)} give no other future: more and "
            "different ones are needed"
        )
    if not 0 < largest < math.inf:
        raise ValueError(f"model gives logits up to {largest}: finite ones are needed")
    return moved / largest
