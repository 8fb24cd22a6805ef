"""What selection by an indexer costs, part by part: finding, attending, pooling.

Knows one head of width D on one sequence; leaves the published method to `selection`
and the plain counts of pairs to `flops`.
"""

from sparse_attn.checks import check_count, check_counts
from sparse_attn.cost.flops import pairs, topk_pairs


def indexer_flops(T: int, D: int, rank: int, *, causal: bool = False) -> int:
    """Scores of a linear indexer: two maps D -> rank for each token, rank per pair.

    Against the 4·D per pair of the attention it spares: a share of rank/2D. Ranking
    the scores is comparisons, which are not counted, and takes time all the same.
    """
    check_counts(T=T, D=D, rank=rank)
    return 2 * 2 * T * D * rank + 2 * rank * pairs(T, causal=causal)


def selected_flops(T: int, D: int, K: int, *, causal: bool = False) -> int:
    """q kᵀ and p v over K keys per query, or over all it sees if they are fewer."""
    check_counts(T=T, D=D, K=K)
    return 4 * D * topk_pairs(T, min(K, T), causal=causal)


def pooled_flops(T: int, D: int, block: int, *, causal: bool = False) -> int:
    """q kᵀ and p v over one mean key and value for each block of tokens.

    A causal query meets the blocks that have begun, its own included. The means are
    additions; that selected keys leave them costs a subtraction for each.
    """
    check_counts(T=T, D=D)
    check_count("block", block)
    whole, part = divmod(T, block)
    blocks = whole + (part > 0)
    met = block * whole * (whole + 1) // 2 + part * blocks if causal else T * blocks
    return 4 * D * met
