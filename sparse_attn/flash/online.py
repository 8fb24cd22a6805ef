"""Softmax in one pass: two running numbers per row, and the law by which they merge.

Knows nothing of queries and keys, but for `merge`, which joins finished outputs.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sparse_attn.checks import check_count


class Running(NamedTuple):
    """What is left of the scores seen so far: m, their maximum, and l = Σ exp(x - m).

    m, l: (...), one pair per row, in fp32 for half types. Before the first score, and
    for a row of nothing but -inf, m = -inf and l = 0; otherwise l >= 1.
    """

    m: Tensor
    l: Tensor

    @property
    def lse(self) -> Tensor:
        """log Σ exp(x), (...): the one number per row worth keeping; -inf for none."""
        return self.m + self.l.clamp_min(1).log()


def running(x: Tensor) -> Running:
    """The state after all scores of the last axis at once; x: (..., N) -> (...)."""
    _check_scores(x)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    m = x.detach().amax(dim=-1)  # a shift, which changes no value and no gradient
    return Running(m, (x - shift(m)[..., None]).exp().sum(dim=-1))


def merge_states(a: Running, b: Running) -> Running:
    """The state after both: each sum is rescaled to the common maximum, then added.

    Associative and commutative, with (-inf, 0) as its unit: blocks may be merged in
    any order and grouping. Source: Milakov and Gimelshein 2018, section 3.1.
    """
    m = torch.maximum(a.m, b.m)
    top = shift(m)
    return Running(m, a.l * (a.m - top).exp() + b.l * (b.m - top).exp())


def merge_tree(states: Sequence[Running]) -> Running:
    """All states merged in pairs, then pairs of pairs: log2 of their number deep.

    So do processors that each saw some of the keys. Raises ValueError for none.
    """
    if not states:
        raise ValueError("states is empty: at least one state is needed")
    while len(states) > 1:
        left, right = states[0:-1:2], states[1::2]
        rest = states[-1:] if len(states) % 2 else []
        states = [*map(merge_states, left, right), *rest]
    return states[0]


def running_blocks(x: Tensor, block: int) -> Iterator[Running]:
    """The state after each block of the last axis; x: (..., N), the last may be short.

    Each step holds one block and one state. Raises ValueError for a block below 1.
    """
    check_count("block", block)
    _check_scores(x)
    state = None
    for part in x.split(block, dim=-1):
        new = running(part)
        state = new if state is None else merge_states(state, new)
        yield state


def online_softmax(x: Tensor, block: int) -> Tensor:
    """softmax over the last axis of x (..., N): one pass for (m, l), one to divide.

    A row of nothing but -inf gives zeros, no NaN. Half types are summed in fp32.
    Raises ValueError for a block below 1. Source: Milakov and Gimelshein 2018, alg. 3.
    """
    *_, last = running_blocks(x, block)
    weights = (x.to(last.m.dtype) - shift(last.m)[..., None]).exp()
    return (weights / last.l.clamp_min(1)[..., None]).to(x.dtype)


def absorb(state: Running, scores: Tensor) -> tuple[Running, Tensor, Tensor]:
    """What a tile does: takes more scores (..., N) into a state (...).

    Returns the new state, by what every older sum of weights must be multiplied, (...),
    and the new weights exp(scores - m), (..., N). Neither leaves a NaN where all is
    -inf. Source: Dao et al. 2022, algorithm 1, lines 10 to 12.
    """
    m = torch.maximum(state.m, scores.amax(dim=-1))
    top = shift(m)
    decay, weights = (state.m - top).exp(), (scores - top[..., None]).exp()
    return Running(m, state.l * decay + weights.sum(dim=-1)), decay, weights


def merge(outs: Sequence[Tensor], lses: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Attention over disjoint ranges of keys joined: attention over their union.

    outs: (B, H, T, D) each; lses: (B, H, T) each, as `flash_attention(return_lse=True)`
    gives them. Each output weighs exp(its LSE); one that saw no key (LSE -inf) weighs
    nothing. Returns (out, lse) of the union, so that merging goes on; associative.
    Raises ValueError for lists or shapes that do not fit.
    Source: Rabe and Staats 2021, section 2; used so for decoding by Dao et al. 2023.
    """
    _check_parts(outs, lses)
    lse = torch.stack(tuple(lses))  # (parts, B, H, T)
    m = lse.detach().amax(dim=0)
    weights = (lse - shift(m)).exp()
    whole = Running(m, weights.sum(dim=0))
    weights = weights / whole.l.clamp_min(1)
    out = sum(w[..., None] * out for w, out in zip(weights, outs, strict=True))
    return out.to(outs[0].dtype), whole.lse


def shift(m: Tensor) -> Tensor:
    """What is safe to subtract: the maximum, or 0 where it is -inf, as -inf + inf is
    no number."""
    return m.masked_fill(m == -torch.inf, 0.0)


def _check_scores(x: Tensor):
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x)
        raise ValueError(f"x is {got}: a floating-point tensor is needed")
    if x.ndim < 1 or 0 in x.shape:
        raise ValueError(f"x has shape {tuple(x.shape)}: no axis may be empty")


def _check_parts(outs: Sequence[Tensor], lses: Sequence[Tensor]):
    if not outs or len(outs) != len(lses):
        raise ValueError(
            f"outs has {len(outs)} parts and lses {len(lses)}: as many are needed, "
            "and at least one"
        )
    for out, lse in zip(outs, lses, strict=True):
        if out.shape != outs[0].shape or lse.shape != outs[0].shape[:-1]:
            raise ValueError(
                f"outs has shapes {tuple(outs[0].shape)} and {tuple(out.shape)}, lses "
                f"{tuple(lse.shape)}: (..., T, D) and (..., T) of one size are needed"
            )
