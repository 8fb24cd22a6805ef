"""What attention costs, in closed form: arithmetic, bytes moved, bytes held.

Conventions, everywhere: one multiply-add is 2 FLOPs, and only matrix products are
counted; softmax, GELU, norms and additions are not. Bytes *moved* are those of the
plain, unfused program: every operation reads its inputs and writes its output once.
Bytes *held* are the weights plus every tensor written, none freed. Biases are left
out, and so are the two statistics per token that a norm keeps for training.
`counting` counts the same three numbers in real calls, and tests demand equality.

Symbols: B sequences, T tokens, C model width, H heads, D head width, L layers,
V vocabulary, K keys kept per query.
"""

from dataclasses import dataclass

from sparse_attn.checks import check_count, check_counts


@dataclass(frozen=True)
class Cost:
    """The bill of one part of a model: `flops`, and bytes `moved` and `held`."""

    flops: int
    moved: int
    held: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.flops + other.flops, self.moved + other.moved, self.held + other.held
        )

    def __rmul__(self, n: int) -> "Cost":
        return Cost(n * self.flops, n * self.moved, n * self.held)

    @property
    def intensity(self) -> float:
        """FLOPs per byte moved."""
        return self.flops / self.moved


def pairs(T: int, *, causal: bool = False) -> int:
    """Query-key pairs of one head: T², or T(T+1)/2 when no query looks ahead."""
    check_counts(T=T)
    return T * (T + 1) // 2 if causal else T * T


def scores(T, C, H, *, B=1, causal=False, bytes_per_value=4) -> Cost:
    """q kᵀ, softmax and p v of one layer, all heads, as three separate operations.

    4·C FLOPs per query-key pair, whatever the number of heads. The T x T scores are
    written and read, then the weights again: causal masking halves the useful FLOPs
    but none of these bytes, since the plain program still forms the whole square.
    """
    check_counts(T=T, C=C, H=H, B=B, bytes_per_value=bytes_per_value)
    if C % H:
        raise ValueError(f"H={H} heads do not divide the width C={C}")
    vectors, square = B * T * C, B * H * T * T
    return Cost(
        flops=4 * B * C * pairs(T, causal=causal),
        moved=(3 * vectors + 4 * square + vectors) * bytes_per_value,
        held=(2 * square + vectors) * bytes_per_value,
    )


def fused_scores(T, C, *, B=1, causal=False, bytes_per_value=4) -> Cost:
    """The same result from one ideal kernel: q, k and v read once, the output written.

    A lower bound: a real kernel reads k and v again for every tile of queries.
    """
    check_counts(T=T, C=C, B=B, bytes_per_value=bytes_per_value)
    vectors = B * T * C
    return Cost(
        flops=4 * B * C * pairs(T, causal=causal),
        moved=4 * vectors * bytes_per_value,
        held=vectors * bytes_per_value,
    )


def projections(T, C, *, B=1, bytes_per_value=4) -> Cost:
    """Query, key and value as one C -> 3C product, and the C -> C output product."""
    check_counts(T=T, C=C, B=B, bytes_per_value=bytes_per_value)
    vectors, weights = B * T * C, 4 * C * C
    return Cost(
        flops=2 * B * T * weights,
        moved=(vectors + 3 * vectors + vectors + vectors + weights) * bytes_per_value,
        held=(4 * vectors + weights) * bytes_per_value,
    )


def mlp(T, C, *, expansion=4, B=1, bytes_per_value=4) -> Cost:
    """C -> expansion·C, GELU, and back to C."""
    check_counts(T=T, C=C, expansion=expansion, B=B, bytes_per_value=bytes_per_value)
    vectors, weights = B * T * C, 2 * expansion * C * C
    hidden = expansion * vectors
    return Cost(
        flops=2 * B * T * weights,
        moved=(vectors + 4 * hidden + vectors + weights) * bytes_per_value,
        held=(2 * hidden + vectors + weights) * bytes_per_value,
    )


def norms_and_additions(T, C, *, B=1, bytes_per_value=4) -> Cost:
    """Two layer norms and two residual additions: no matrix product, much traffic."""
    check_counts(T=T, C=C, B=B, bytes_per_value=bytes_per_value)
    vectors = B * T * C
    return Cost(
        0, 2 * (2 + 3) * vectors * bytes_per_value, 4 * vectors * bytes_per_value
    )


def block(T, C, H, *, expansion=4, B=1, causal=False, bytes_per_value=4) -> Cost:
    """One pre-norm transformer block: projections, scores, MLP, norms, additions."""
    same = dict(B=B, bytes_per_value=bytes_per_value)
    return (
        projections(T, C, **same)
        + scores(T, C, H, causal=causal, **same)
        + mlp(T, C, expansion=expansion, **same)
        + norms_and_additions(T, C, **same)
    )


def lm_head(T, C, V, *, B=1, bytes_per_value=4) -> Cost:
    """The product with the (V, C) vocabulary matrix: a logit per token and word."""
    check_counts(T=T, C=C, V=V, B=B, bytes_per_value=bytes_per_value)
    return Cost(
        flops=2 * B * T * C * V,
        moved=(B * T * C + C * V + B * T * V) * bytes_per_value,
        held=(B * T * V + C * V) * bytes_per_value,
    )


def model(T, C, H, L, V, *, expansion=4, B=1, causal=False, bytes_per_value=4) -> Cost:
    """L blocks and the LM head; looking up embeddings is a copy of T rows, left out."""
    check_count("L", L)
    same = dict(B=B, bytes_per_value=bytes_per_value)
    each = block(T, C, H, expansion=expansion, causal=causal, **same)
    return L * each + lm_head(T, C, V, **same)


def score_share(T: int, C: int, *, causal: bool = False) -> float:
    """Share of a block's FLOPs that the scores take: T/(T + 6C), or causal half of T.

    The linear layers cost 24·C² per token (8 projections, 16 MLP), the scores 4·C
    per pair: the share grows with T/C alone.
    """
    check_counts(T=T, C=C)
    per_token = 4 * C * pairs(T, causal=causal) / T
    return per_token / (per_token + 24 * C * C)


def half_share_length(C: int, *, causal: bool = False) -> int:
    """The first T at which scores cost as much as the linear layers: 6C.

    Causal: 12C - 1, because query t sees t + 1 keys, itself included.
    """
    check_counts(C=C)
    return 12 * C - 1 if causal else 6 * C


def topk_pairs(T: int, K: int, *, causal: bool = False) -> int:
    """Query-key pairs when each query keeps K keys, or all it may see if fewer."""
    check_counts(T=T)
    check_count("K", K, most=T)
    return K * (K + 1) // 2 + (T - K) * K if causal else T * K


def topk_flops(T: int, D: int, K: int, *, causal: bool = False) -> int:
    """One head of width D that attends exactly to K keys per query, found for free."""
    check_counts(D=D)
    return 4 * D * topk_pairs(T, K, causal=causal)


def topk_mlp_flops(T: int, D: int, hidden: int, K: int) -> int:
    """The published top-K / MLP method for ONE head of width D, per sequence.

    Selector D -> hidden -> T for each query, and approximator K·D -> hidden -> D.
    2·T²·hidden of it is the selector's last layer, so the method stays quadratic.
    Source: github.com/MikeyBeez/sparse-attention-mlp, scaling_analysis_summary.py.
    """
    check_counts(T=T, D=D, hidden=hidden)
    check_count("K", K, most=T)
    selector = D * hidden + hidden * T
    approximator = K * D * hidden + hidden * D
    return 2 * T * (selector + approximator)


def topk_mlp_break_even(D: int, hidden: int, K: int) -> float:
    """The T at which that head costs what a full head does; infinite for hidden >= 2D.

    4·T²·D = 2·T·(D·hidden·(K + 2) + hidden·T), so T = D·hidden·(K + 2)/(2D - hidden),
    and however long the sequence, the gain stays below 2D/hidden.
    """
    check_counts(D=D, hidden=hidden, K=K)
    gap = 2 * D - hidden
    return D * hidden * (K + 2) / gap if gap > 0 else float("inf")
