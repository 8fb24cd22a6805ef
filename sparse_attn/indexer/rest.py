"""What stands for the keys that were not selected: nothing, block means, or an MLP.

Knows the two halves of an output, selected and rest, and how they are joined; leaves
the selection to the selectors. All of it is the dense reference, O(T·S) per head: what
is saved is counted in `cost`, and saved by the clock in `kernels`.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparse_attn.checks import check_choice, check_counts, check_qkv
from sparse_attn.flash.online import merge
from sparse_attn.indexer.selector import pairs_of, positions, visible
from sparse_attn.topk.networks import HeadApproximator

RESTS = ("none", "pooled", "mlp", "both")
BLOCK = 16  # tokens that one pooled key and value stand for


def selected_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    indices: Tensor,
    *,
    causal: bool = False,
    rest: str = "none",
    block: int = BLOCK,
    correction: "Correction | None" = None,
) -> Tensor:
    """Attention exact over the keys selected, and something cheap for all others.

    q (B, H, T, D); k, v (B, Hkv, S, D); indices (B, H, T, K) as from a selector, with
    -1 for none. rest: "none" drops the others. "pooled" gives each block of `block`
    tokens one mean key and one mean value of those that were not selected, which weighs
    as much as there are of them. "mlp" pools everything into one, and lets a trained
    `correction` mend the sum; "both" does so with pooled blocks.
    Returns (B, H, T, D); a query for which nothing stands gets zeros.
    Raises ValueError for arguments that do not fit.
    """
    check_choice("rest", rest, RESTS)
    if (correction is None) == (rest in ("mlp", "both")):
        raise ValueError(
            f"rest={rest!r} with correction={correction!r}: one is needed for 'mlp' "
            "and 'both', and none for the others"
        )
    if rest == "none":
        return exact_half(q, k, v, indices, causal=causal).out.to(q.dtype)
    block = k.shape[2] if rest == "mlp" else block
    chosen, others = halves(q, k, v, indices, causal=causal, block=block)
    return joined(q, chosen, others, correction).to(q.dtype)


@dataclass(frozen=True)
class Half:
    """Attention over some of the keys, and what is needed to join it to another half.

    out (B, H, T, D); lse (B, H, T): the log-sum-exp of the scores, -inf for none;
    keys (B, H, T): how many.
    """

    out: Tensor
    lse: Tensor
    keys: Tensor


def exact_half(q, k, v, indices, *, causal: bool, at: Tensor | None = None) -> Half:
    """Attention over the keys selected, each with its own score. As `halves`."""
    scores, v, chosen, _ = _scored(q, k, v, indices, causal, at)
    return _exact(scores, v, chosen)


def halves(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    indices: Tensor,
    *,
    causal: bool,
    block: int,
    at: Tensor | None = None,
) -> tuple[Half, Half]:
    """The exact half over the keys selected, and the pooled half over the others.

    at (T,): the queries' positions among the keys, the last T unless given.
    """
    check_counts(block=block)
    scores, v, chosen, seen = _scored(q, k, v, indices, causal, at)
    return _exact(scores, v, chosen), _pooled(scores, v, seen & ~chosen, block)


def _scored(q, k, v, indices, causal, at) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores, v for every head, and bool (B, H, T, S): chosen keys; (T, S): seen."""
    check_qkv(q, k, v)
    if indices.shape[:3] != q.shape[:3]:
        raise ValueError(
            f"indices has shape {tuple(indices.shape)}: (B, H, T, K) with the "
            f"{tuple(q.shape[:3])} of q is needed"
        )
    S, groups = k.shape[2], q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))  # (B, H, S, D)
    seen = visible(positions(q, k, at), S)
    seen = seen if causal else torch.ones_like(seen)
    wide = torch.promote_types(q.dtype, torch.float32)  # a product overflows a half
    q, k, v = (x.to(wide) for x in (q, k, v))
    scores = (q / math.sqrt(q.shape[-1])) @ k.mT  # (B, H, T, S)
    return scores, v, pairs_of(indices, S) & seen, seen


def _exact(scores: Tensor, v: Tensor, chosen: Tensor) -> Half:
    some = chosen.any(dim=-1, keepdim=True)
    masked = scores.masked_fill(~chosen, -torch.inf)
    top = masked.detach().amax(dim=-1, keepdim=True).masked_fill(~some, 0.0)
    weights = (masked - top).exp()
    total = weights.sum(dim=-1, keepdim=True)
    lse = (total.log() + top).squeeze(-1)  # -inf where nothing was chosen
    keys = chosen.count_nonzero(dim=-1)
    return Half(weights @ v / total.masked_fill(~some, 1.0), lse, keys)


def _pooled(scores: Tensor, v: Tensor, others: Tensor, block: int) -> Half:
    """One key and one value for each block: the means of those marked in `others`.

    q·mean(k) = mean(q·k), so means are taken of scores. A block weighs as much as it
    has keys: log(number) is added to its score.
    """
    S = scores.shape[-1]
    marks = _by_block(others.to(scores.dtype), block)  # (B, H, T, n, block)
    sums = (_by_block(scores, block) * marks).sum(dim=-1)
    counts = marks.sum(dim=-1)  # (B, H, T, n)
    means = (sums / counts.clamp(min=1)).masked_fill(counts == 0, -torch.inf)
    some = counts.any(dim=-1, keepdim=True)
    top = means.detach().amax(dim=-1, keepdim=True).masked_fill(~some, 0.0)
    each = (means - top).exp()  # the weight of one key of the block
    total = (each * counts).sum(dim=-1, keepdim=True)
    out = (each[..., None] * marks).flatten(-2)[..., :S] @ v
    lse = (total.log() + top).squeeze(-1)
    keys = counts.sum(dim=-1)
    return Half(out / total.masked_fill(~some, 1.0), lse, keys)


def _by_block(x: Tensor, block: int) -> Tensor:
    """(..., S) -> (..., n, block), the last block filled up with zeros."""
    spare = -x.shape[-1] % block
    return (F.pad(x, (0, spare)) if spare else x).unflatten(-1, (-1, block))


def joined(
    q: Tensor, chosen: Half, others: Half, correction: "Correction | None" = None
) -> Tensor:
    """Both halves as one attention, each weighing exp(its log-sum-exp)."""
    if correction is None:
        return merge((chosen.out, others.out), (chosen.lse, others.lse))[0]
    extra, odds = correction(q, chosen, others)
    lses = (chosen.lse, others.lse + odds)
    return merge((chosen.out, others.out), lses)[0] + extra


class Correction(nn.Module):
    """A `HeadApproximator` for each head, trained on what the pooled sum leaves.

    Reads the query, both halves' outputs, the odds of the rest and how many keys it
    has; gives a vector to add, and a number to add to the odds. Starts as nothing.
    """

    def __init__(self, heads: int, width: int, hidden: int = 64):
        super().__init__()
        check_counts(heads=heads, width=width, hidden=hidden)
        self.heads = nn.ModuleList(
            HeadApproximator(3 * width + 2, width + 1, hidden) for _ in range(heads)
        )
        for head in self.heads:
            last = head.net[-1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, q: Tensor, chosen: Half, others: Half) -> tuple[Tensor, Tensor]:
        """(B, H, T, D) to add to the output, (B, H, T) to add to the rest's lse."""
        odds = (others.lse - chosen.lse).nan_to_num(-BOUND).clamp(-BOUND, BOUND)
        facts = (
            q,
            chosen.out,
            others.out,
            odds[..., None] / BOUND,
            others.keys.log1p()[..., None] / BOUND,
        )
        facts = torch.cat(facts, dim=-1)  # (B, H, T, 3 D + 2)
        out = [head(facts[:, h]) for h, head in enumerate(self.heads)]
        none = others.keys == 0  # exact as it is
        out = torch.stack(out, dim=1).masked_fill(none[..., None], 0.0)
        return out[..., :-1], out[..., -1]


BOUND = 10.0  # odds beyond e^±10 are as good as certain
