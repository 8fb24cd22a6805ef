"""Elements that attention moves between slow and fast memory, tile by tile, one head.

Symbols as in `flops`, and S keys, block_q queries and block_k keys to a tile. The
counts of `flash.naive_walk`, `outer_kv_walk`, `outer_q_walk` and `outer_kv_backward`;
tests demand equality.
"""

from dataclasses import dataclass

from sparse_attn.checks import check_counts


@dataclass(frozen=True)
class Elements:
    """Numbers `read` from slow memory and `written` to it: times their size, bytes."""

    read: int
    written: int

    @property
    def moved(self) -> int:
        return self.read + self.written


@dataclass(frozen=True)
class TileCount:
    """Tiles of the T x S scores: seen in `full`, in part, and not at all."""

    full: int
    partial: int
    skipped: int

    @property
    def visited(self) -> int:
        return self.full + self.partial


def naive_elements(T: int, D: int, *, S: int | None = None) -> Elements:
    """Scores written, read, weights written, read; q, k, v read once, out written.

    Causal or not: the plain program forms the whole square. It is `scores` of one
    head, in elements.
    """
    S = T if S is None else S
    check_counts(T=T, D=D, S=S)
    return Elements(T * D + 2 * S * D + 2 * T * S, T * D + 2 * T * S)


def outer_kv_elements(
    T: int,
    D: int,
    block_q: int,
    block_k: int,
    *,
    S: int | None = None,
    causal: bool = False,
) -> Elements:
    """FlashAttention's first order of loops: keys outside, queries inside.

    k and v are read once, and for each of their ⌈S/block_k⌉ tiles all of q, O, m and l,
    of which O, m and l are written again. Their first values are not counted.
    2·S·D + ⌈S/block_k⌉·(3·T·D + 4·T) in all, less if causal.
    Source: Dao et al. 2022, algorithm 1.
    """
    S = T if S is None else S
    check_counts(D=D)
    rows = _tiles_by_row(T, S, block_q, block_k, causal)
    met = sum((b - a) * visited for a, b, visited, _ in rows)
    return Elements(2 * S * D + met * (2 * D + 2), met * (D + 2))


def outer_kv_backward_elements(
    T: int,
    D: int,
    block_q: int,
    block_k: int,
    *,
    S: int | None = None,
    causal: bool = False,
) -> Elements:
    """The gradients in FlashAttention's first order of loops, keys outside.

    k and v are read and dk and dv written once; for each of the ⌈S/block_k⌉ tiles of
    keys, all of q, O, dO, dq, m and l are read, and dq is written again.
    4·S·D + ⌈S/block_k⌉·(5·T·D + 2·T) in all, less if causal.
    Source: Dao et al. 2022, algorithm 4.
    """
    S = T if S is None else S
    check_counts(D=D)
    rows = _tiles_by_row(T, S, block_q, block_k, causal)
    met = sum((b - a) * visited for a, b, visited, _ in rows)
    return Elements(2 * S * D + met * (4 * D + 2), 2 * S * D + met * D)


def outer_q_elements(
    T: int,
    D: int,
    block_q: int,
    block_k: int,
    *,
    S: int | None = None,
    causal: bool = False,
) -> Elements:
    """FlashAttention's second order of loops: queries outside, keys inside.

    q is read once, and for each of its ⌈T/block_q⌉ tiles all of k and v; O and one
    log-sum-exp per row are written once.
    2·T·D + T + 2·S·D·⌈T/block_q⌉ in all, less if causal.
    Source: Dao 2023, algorithm 1.
    """
    S = T if S is None else S
    check_counts(D=D)
    rows = _tiles_by_row(T, S, block_q, block_k, causal)
    keys = sum(min(visited * block_k, S) for _, _, visited, _ in rows)
    return Elements(T * D + 2 * D * keys, T * D + T)


def tiles(
    T: int, block_q: int, block_k: int, *, S: int | None = None, causal: bool = False
) -> TileCount:
    """How many tiles causal attention computes whole, masks in part, and skips."""
    S = T if S is None else S
    rows = _tiles_by_row(T, S, block_q, block_k, causal)
    visited = sum(visited for _, _, visited, _ in rows)
    full = sum(full for *_, full in rows)
    return TileCount(full, visited - full, len(rows) * -(-S // block_k) - visited)


def _tiles_by_row(T, S, block_q, block_k, causal) -> list[tuple[int, int, int, int]]:
    """Per tile of queries: its first, its last + 1, tiles of keys visited, and full."""
    check_counts(T=T, S=S, block_q=block_q, block_k=block_k)
    columns = -(-S // block_k)
    rows = []
    for a in range(0, T, block_q):
        b = min(a + block_q, T)
        if causal:  # query t sees t + 1 + S - T keys, if that is any
            some, all_ = (max(0, n + S - T) for n in (b, a + 1))
        else:
            some = all_ = S
        full = columns if all_ == S else all_ // block_k
        rows.append((a, b, -(-some // block_k), full))
    return rows


def tile_memory(D: int, block_q: int, block_k: int) -> int:
    """Elements of fast memory that a tile needs, in either order of loops.

    Tiles of q, k, v and O, one of scores which the weights overwrite, m and l.
    """
    check_counts(D=D, block_q=block_q, block_k=block_k)
    return 2 * block_k * D + 2 * block_q * D + block_q * block_k + 2 * block_q


def flash_blocks(M: int, D: int) -> tuple[int, int]:
    """(block_q, block_k) by the paper's rule, for fast memory of M elements, not bytes.

    block_k = ⌈M/4D⌉ and block_q = min(block_k, D): q, k, v and O then fit, but M has
    no room left for the scores (`tile_memory` says how much they all need).
    Source: Dao et al. 2022, algorithm 1, line 1.
    """
    check_counts(M=M, D=D)
    block_k = -(-M // (4 * D))
    return min(block_k, D), block_k
