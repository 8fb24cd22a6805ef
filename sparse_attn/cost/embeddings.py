"""What token embeddings hold, with one width for all or one for each band.

Knows numbers of weights alone; leaves the modules to `embeddings`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sparse_attn.checks import check_counts


def embedding_parameters(vocab: int, width: int) -> int:
    """One table: V·C."""
    check_counts(vocab=vocab, width=width)
    return vocab * width


def banded_parameters(
    sizes: Sequence[int], widths: Sequence[int], width: int, *, project: bool = False
) -> tuple[int, int]:
    """(weights of the tables, weights of the projections) of `sizes[i]` tokens of
    `widths[i]` numbers, projected to `width` where that differs, or all if `project`.
    """
    for n, own in zip(sizes, widths, strict=True):
        check_counts(sizes=n, widths=own, width=width)
    tables = sum(n * own for n, own in zip(sizes, widths, strict=True))
    return tables, sum(own * width for own in widths if project or own != width)


def banded_break_even(
    split: Sequence[float], widths: Sequence[int], width: int, *, project: bool = False
) -> float:
    """The vocabulary from which bands hold fewer weights than one table; inf for none.

    split: the bands' shares of the tokens.
    """
    _, fixed = banded_parameters([1] * len(widths), widths, width, project=project)
    mean = math.fsum(share * own for share, own in zip(split, widths, strict=True))
    saved = width - mean  # by each token
    return fixed / saved if saved > 1e-9 else math.inf
