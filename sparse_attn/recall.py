"""Associative recall: a task whose answers lie far back, each at one single place.

Knows the sequences, how a model of next tokens is fitted to them and how its answers
are counted; leaves the model to `gpt`. Pairs of a key and a value come first, then a
gap of filler, then every key once more in another order, each with its value again:

    k3 v7 k1 v2 ... k5 v7 | filler ... filler | k1 v2 k5 v7 ... k3 v7

At a question's key the next token is its value, and only the pair far back tells it.
Source: Ba et al. 2016 (the task); Olsson et al. 2022 (two layers suffice: a head that
copies the previous token, and one that finds it again).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from sparse_attn.checks import check_count, check_counts
from sparse_attn.gpt import GPT
from sparse_attn.layers import rotate
from sparse_attn.optimizers import make_optimizers
from sparse_attn.training import Result, descend, schedule

KEYS = 64  # key tokens are 0 ... KEYS - 1
VALUES = 64  # value tokens follow them; a blind guess is right once in VALUES
LENGTHS = (48, 64, 96, 128, 256, 512)  # to learn from, short to long
WARMUP = 20  # steps in which learning rates rise
GAP = 32  # least filler: two layers with windows of 16 keys see 30 tokens back


def vocabulary(keys: int = KEYS, values: int = VALUES) -> int:
    """How many tokens there are: keys, then values, then one filler, the last."""
    check_counts(keys=keys, values=values)
    return keys + values + 1


def pairs_of(T: int, keys: int = KEYS) -> int:
    """Pairs in a sequence of T: an eighth of T, as far as there are keys.

    Raises ValueError where a gap of `GAP` does not fit.
    """
    check_counts(keys=keys)
    check_count("T", T, least=GAP + 3)  # one pair, one question, and y one ahead
    return max(1, min(T // 8, keys, (T + 1 - GAP) // 4))


def questions(
    B: int,
    T: int,
    generator: torch.Generator,
    *,
    pairs: int | None = None,
    keys: int = KEYS,
    values: int = VALUES,
) -> tuple[Tensor, Tensor, Tensor]:
    """B sequences: x, y with the token that follows each of x, and where it is asked.

    pairs: how many, `pairs_of(T)` unless given; keys of one sequence are distinct, its
    values drawn independently. asked: True at a question's key, where y is the answer.
    Returns x, y int64 and asked bool, all (B, T) and on the CPU; as many True in each
    row as there are pairs. Raises ValueError where keys or room for the gap run out.
    """
    check_counts(B=B, values=values)
    pairs = pairs_of(T, keys) if pairs is None else pairs
    check_count("pairs", pairs, most=keys)
    gap = T + 1 - 4 * pairs
    if gap < GAP:
        raise ValueError(
            f"T={T} leaves a gap of {gap} beside pairs={pairs}: {GAP} or more are "
            f"needed, so T={4 * pairs + GAP - 1}"
        )
    key = torch.rand(B, keys, generator=generator).argsort(dim=1)[:, :pairs]
    value = keys + torch.randint(values, (B, pairs), generator=generator)
    again = torch.rand(B, pairs, generator=generator).argsort(dim=1)

    told = torch.stack((key, value), dim=-1)  # (B, pairs, 2)
    asked = told.gather(1, again[..., None].expand(-1, -1, 2))
    filler = torch.full((B, gap), vocabulary(keys, values) - 1)
    tokens = torch.cat((told.flatten(1), filler, asked.flatten(1)), dim=1)  # (B, T + 1)
    at = torch.zeros(B, T, dtype=torch.bool)
    at[:, 2 * pairs + gap :: 2] = True
    return tokens[:, :-1], tokens[:, 1:], at


def accuracy(
    model: nn.Module, x: Tensor, y: Tensor, asked: Tensor, *, batch: int = 16
) -> float:
    """Share of the asked positions where the model's likeliest next token is y's.

    x, y, asked: (N, T) as from `questions`, `batch` sequences at a time. In inference
    mode, with dropout off; the model is left in the mode it came in.
    """
    check_counts(batch=batch)
    _check_questions(x, y, asked)
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    right = 0
    try:
        with torch.inference_mode():
            parts = (part.to(device).split(batch) for part in (x, y, asked))
            for xs, ys, at in zip(*parts, strict=True):
                said = model(xs).argmax(dim=-1)  # (batch, T)
                right += int((said == ys)[at].sum())
    finally:
        model.train(was_training)
    return right / int(asked.sum())


def _check_questions(x: Tensor, y: Tensor, asked: Tensor):
    """Three (N, T) of one shape, `asked` bool and somewhere True; otherwise raises."""
    shapes = [tuple(part.shape) for part in (x, y, asked)]
    if x.ndim != 2 or len(set(shapes)) > 1:
        raise ValueError(
            f"x, y and asked have shapes {shapes}: three equal ones (N, T) are needed"
        )
    if asked.dtype != torch.bool or not asked.any():
        got = f"{asked.dtype} and True {int(asked.sum())} times"
        raise ValueError(f"asked is {got}: torch.bool and a question are needed")


@torch.no_grad()
def prepare(model: GPT) -> GPT:
    """Set what training takes longest to find: a head that sees the previous token.

    The first head of the first layer gets biases with which rotary positions alone
    prefer the key one back: k = c and q = c turned by one step less. Token vectors are
    drawn anew, large enough to be told apart. All of it is trained further.
    Raises ValueError for a model without rotary positions or biases.
    """
    attention = model.blocks[0].attention
    D = attention.head_width
    if not attention.rotary or attention.query.bias is None:
        raise ValueError(f"model is {model.config}: positions='rotary' and bias needed")
    nn.init.normal_(model.tokens.weight, std=0.1)
    constant = torch.full((1, D), 3 * D**-0.25, device=model.tokens.weight.device)
    back = torch.tensor([-1], device=constant.device)
    attention.query.bias[:D] = rotate(constant, back)[0]
    attention.key.bias[:D] = constant[0]
    return model


def train(
    model: nn.Module,
    *,
    steps: int,
    lengths: tuple[int, ...] = LENGTHS,
    tokens: int = 4096,
    keys: int = KEYS,
    values: int = VALUES,
    learning_rate: float = 3e-3,
    muon: float | None = 0.01,
    seed: int = 0,
    progress: bool = True,
) -> Result:
    """Fit `model` in place to answer: cross-entropy at the asked positions only.

    lengths: short to long. The first half is there at once, the others join one by one
    until half of the steps are done; each step draws one of those that are there.
    tokens: of one step, so that its batch is tokens // length sequences, all fresh.
    Learning rates as in `training.train`; no weight decays.

    Returns the loss of each step in bits per answer; log2(values) is a blind guess.
    Raises ValueError for what does not fit, FloatingPointError for a loss of NaN.
    """
    check_counts(steps=steps, tokens=tokens, lengths=len(lengths))
    check_count("seed", seed, least=0)
    optimizers = make_optimizers(model, learning_rate, muon, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    model.train()
    with tqdm(range(steps), disable=not progress, unit="step") as bar:
        for i in bar:
            there = max(1, min(steps, steps // 2 + i) * len(lengths) // steps)
            T = lengths[int(torch.randint(there, (), generator=generator))]
            B = max(1, tokens // T)
            batch = questions(B, T, generator, keys=keys, values=values)
            losses.append(_step(model, batch, optimizers, schedule(i, steps, WARMUP)))
            bar.set_postfix_str(f"{losses[-1]:.3f} bits per answer", refresh=False)
    return Result(tuple(losses))


def _step(model, batch, optimizers, share: float) -> float:
    """One update of every weight; returns the loss before it, in bits per answer."""
    device = next(model.parameters()).device
    x, y, asked = (part.to(device) for part in batch)
    loss = F.cross_entropy(model(x)[asked], y[asked])  # (B·pairs, V)
    return descend(model, loss, optimizers, share)
