"""What selection by an indexer costs, part by part: finding, attending, pooling.

Knows one head of width D on one sequence; leaves the published method to `selection`,
and attending to the keys found to `flops`.
"""

from sparse_attn.checks import check_count, check_counts
from sparse_attn.cost.flops import pairs, scores, topk_flops


def indexer_flops(T: int, D: int, rank: int, *, causal: bool = False) -> int:
    """Scores of a linear indexer: two maps D -> rank for each token, rank per pair.

    Against the 4·D per pair of the attention it spares: a share of rank/2D. Ranking
    the scores is comparisons, which are not counted, and takes time all the same.
    """
    check_counts(T=T, D=D, rank=rank)
    return 2 * 2 * T * D * rank + 2 * rank * pairs(T, causal=causal)


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


def indexed_shares(
    T: int, D: int, K: int, rank: int, *, block: int = 16
) -> dict[str, float]:
    """Part -> its share of full causal attention's FLOPs: finding, selected, pooled.

    K of T and more are all keys. rank 0: keys that are found for free, as a window's.
    """
    check_counts(K=K)
    check_count("rank", rank, least=0)
    parts = {
        "finding": indexer_flops(T, D, rank, causal=True) if rank else 0,
        "selected": topk_flops(T, D, min(K, T), causal=True),
        "pooled": pooled_flops(T, D, block, causal=True),
    }
    full = scores(T, D, 1, causal=True).flops
    return {name: flops / full for name, flops in parts.items()}
