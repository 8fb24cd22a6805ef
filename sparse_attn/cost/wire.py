"""Bytes that attention across ranks sends, in closed form: what each rank sends, by
kind, for one layer.

`distributed` counts the same numbers as they are sent. lengths: tokens of each rank.
Symbols as in `flops`; Hkv heads of keys.
"""

from collections.abc import Sequence

from sparse_attn.checks import check_count, check_counts

NUMBER = 8  # bytes of a length, a count or an id: int64


def ring_bytes(
    lengths: Sequence[int],
    *,
    D: int,
    Hkv: int = 1,
    B: int = 1,
    bytes_per_value: int = 4,
) -> list[dict[str, int]]:
    """Keys and values of all ranks but the next one's pass through each rank.

    "blocks": 2·B·Hkv·D·(T - T_next) values, and one length to each other rank.
    """
    token = _token(lengths, D, Hkv, B, bytes_per_value)
    total, N = sum(lengths), len(lengths)
    following = [*lengths[1:], lengths[0]]
    return [
        {"lengths": NUMBER * (N - 1), "blocks": token * (total - other)}
        for other in following
    ]


def gathered_bytes(
    lengths: Sequence[int],
    *,
    D: int,
    Hkv: int = 1,
    B: int = 1,
    bytes_per_value: int = 4,
) -> list[dict[str, int]]:
    """Everybody sends its keys and values to all others: the sum is that of a ring.

    "blocks": 2·B·Hkv·D·(N - 1)·T_r values, and one length to each other rank.
    """
    token = _token(lengths, D, Hkv, B, bytes_per_value)
    others = len(lengths) - 1
    return [
        {"lengths": NUMBER * others, "blocks": token * others * own} for own in lengths
    ]


def selected_bytes(
    lengths: Sequence[int],
    asked: Sequence[Sequence[int]],
    *,
    D: int,
    Hkv: int = 1,
    B: int = 1,
    block_k: int = 16,
    pool: int | None = None,
    bytes_per_value: int = 4,
) -> list[dict[str, int]]:
    """Means of all blocks to everybody, ids to the owners, and the blocks asked for.

    asked[r][s]: how many blocks rank r asks of rank s, each counted once per key head
    and sequence. "means": a vector for each block of keys, and with rest="pooled" one
    for every `pool` values. A block is 2·block_k·D values; the last of a text is filled
    up.
    """
    token = _token(lengths, D, Hkv, B, bytes_per_value)
    check_counts(block_k=block_k, pool=1 if pool is None else pool)
    N, found = len(lengths), []
    if [len(row) for row in asked] != [N] * N:
        raise ValueError(f"asked has {len(asked)} rows: {N} rows of {N} are needed")
    for rank, own in enumerate(lengths):
        of_others = sum(n for s, n in enumerate(asked[rank]) if s != rank)
        of_this = sum(row[rank] for r, row in enumerate(asked) if r != rank)
        means = -(-own // block_k) + (0 if pool is None else -(-own // pool))
        found.append(
            {
                "lengths": NUMBER * (N - 1),
                "means": (N - 1) * means * token // 2,
                "counts": NUMBER * (N - 1),
                "ids": NUMBER * of_others,
                "blocks": of_this * 2 * block_k * D * bytes_per_value,
            }
        )
    return found


def _token(lengths, D, Hkv, B, bytes_per_value) -> int:
    """Bytes of one token's keys and values."""
    check_counts(ranks=len(lengths), D=D, Hkv=Hkv, B=B, bytes_per_value=bytes_per_value)
    for length in lengths:
        check_count("lengths", length)
    return 2 * B * Hkv * D * bytes_per_value
