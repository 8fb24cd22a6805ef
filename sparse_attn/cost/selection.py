"""What selecting keys holds in memory and in weights, in closed form.

Symbols as in `flops`. Its FLOPs are there too: `topk_mlp_flops`. As everywhere in
`cost`, biases are left out; a test counts the weights of real networks.
"""

from sparse_attn.checks import check_count, check_counts

INDEX_BYTES = 8  # PyTorch's indices are int64


def selector_parameters(T: int, D: int, *, hidden: int = 64, H: int = 1, L: int = 1):
    """Weights of H·L selectors D -> hidden -> T: hidden·(D + T) each.

    They grow with the length of the text: 126 billion at T = 128,000, D = 128, H = 128
    and L = 120, which is what the published script takes GPT-4 for.
    """
    check_counts(T=T, D=D, hidden=hidden, H=H, L=L)
    return hidden * (D + T) * H * L


def square_bytes(T: int, *, H: int = 1, B: int = 1, bytes_per_value: int = 4) -> int:
    """One number for each pair of queries and keys: B·H·T²."""
    check_counts(T=T, H=H, B=B, bytes_per_value=bytes_per_value)
    return B * H * T * T * bytes_per_value


def kept_bytes(T: int, K: int, *, H: int = 1, B: int = 1, bytes_per_value: int = 4):
    """One number for each pair that is kept: B·H·T·K, the published "sparse memory"."""
    check_counts(T=T, H=H, B=B, bytes_per_value=bytes_per_value)
    check_count("K", K, most=T)
    return B * H * T * K * bytes_per_value


def selection_bytes(
    T: int, D: int, K: int, *, H: int = 1, B: int = 1, bytes_per_value: int = 4
) -> dict[str, int]:
    """Every large tensor that the published head writes, by name.

    logits: the selector's, one for each pair, a square like that of the scores.
    indices: of the K kept, int64. values: the K·D numbers gathered for each query.
    The two hidden layers, narrow beside these, are left out.
    """
    kept = kept_bytes(T, K, H=H, B=B, bytes_per_value=bytes_per_value)
    check_counts(D=D)
    return {
        "logits": square_bytes(T, H=H, B=B, bytes_per_value=bytes_per_value),
        "indices": B * H * T * K * INDEX_BYTES,
        "values": kept * D,
    }
