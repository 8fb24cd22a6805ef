"""Blocks of keys and values, asked of the ranks that own them.

Knows how ids become a store of blocks; leaves who wants which to the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_attn.distributed.layout import block_starts
from sparse_attn.distributed.wire import all_to_all, place
from sparse_attn.kernels.selection import BLOCK_K, BLOCK_Q


def fetch(
    k: Tensor,
    v: Tensor,
    blocks: Tensor,
    foreign: Tensor,
    lengths: Sequence[int],
    starts: Sequence[int],
    block_k: int,
    group=None,
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """A store (keys, values) of what is foreign in `blocks`, and its place there.

    k, v: this rank's (B, Hkv, T_r, D); blocks, foreign: (B, H, n_q, n), ids and where
    another rank owns them; starts: first block of each rank. Blocks are asked for by
    key head, each once. Returns tensors (B, Hkv, S, D) and ids (B, H, n_q, n') in them.
    """
    _, N = place(group)
    last = starts[-1]
    wanted = asked(blocks.where(foreign, -1), k.shape[1], last)  # (B, Hkv, n_k)
    ids = [wanted[:, :, a:b].flatten().nonzero()[:, 0] for a, b in pairwise(starts)]
    counts = [torch.tensor([len(x)], device=k.device) for x in ids]
    counts = torch.cat(all_to_all("counts", counts, [(1,)] * N, group)).tolist()
    asks = all_to_all("ids", ids, [(n,) for n in counts], group)

    tail = -k.shape[2] % block_k
    rows = F.pad(torch.stack((k, v)), (0, 0, 0, tail))  # (2, B, Hkv, blocks · size, D)
    rows = rows.unflatten(3, (-1, block_k)).flatten(1, 3)  # (2, B Hkv blocks, size, D)
    replies = [rows[:, x] for x in asks]
    shapes = [(2, len(x), block_k, k.shape[-1]) for x in ids]
    found = all_to_all("blocks", replies, shapes, group)

    slot = wanted.cumsum(dim=-1) - 1  # (B, Hkv, n_k)
    size = max(1, int(wanted.sum(dim=-1).max()))
    missing = -sum(lengths) % block_k
    if missing and wanted[..., -1].any():  # the last, short one: at the end, for all
        slot[..., -1], size = size, size + 1
    else:
        missing = 0
    store = k.new_zeros(2, *wanted.shape[:2], size, block_k, k.shape[-1])
    for r, (x, part) in enumerate(zip(ids, found, strict=True)):
        held = starts[r + 1] - starts[r]
        pair, at = x // held, x % held + starts[r]
        b, h = pair // wanted.shape[1], pair % wanted.shape[1]
        store[:, b, h, slot[b, h, at]] = part
    store = store.flatten(3, 4)[:, :, :, : size * block_k - missing]

    slot = F.pad(slot, (0, 1)).repeat_interleave(blocks.shape[1] // k.shape[1], dim=1)
    foreign = foreign & (blocks >= 0)
    at = slot.gather(2, blocks.where(foreign, last).flatten(2)).view_as(blocks)
    return tuple(store), relabel(at, foreign)


def asked(blocks: Tensor, heads: int, columns: int) -> Tensor:
    """Where some query of a key head lists a block: (B, Hkv, columns) bool.

    blocks (B, H, n_q, n), -1 for none; the query heads of a key head ask as one.
    """
    ids = blocks.where(blocks >= 0, columns).reshape(len(blocks), heads, -1)
    found = torch.zeros(
        *ids.shape[:2], columns + 1, dtype=torch.bool, device=ids.device
    )
    return found.scatter(2, ids, True)[..., :columns]


def relabel(ids: Tensor, kept: Tensor) -> Tensor:
    """ids (..., n) where `kept`, in ascending order, and -1 after them."""
    most = int(kept.sum(dim=-1).max())
    far = torch.iinfo(ids.dtype).max
    ids = ids.masked_fill(~kept, far).sort(dim=-1).values[..., : max(1, most)]
    return ids.masked_fill(ids == far, -1)


def asked_of(
    blocks: Tensor,
    lengths: Sequence[int],
    *,
    Hkv: int = 1,
    block_q: int = BLOCK_Q,
    block_k: int = BLOCK_K,
) -> list[list[int]]:
    """How many blocks rank r asks of rank s, [r][s], if the ranks hold `lengths`.

    blocks (B, H, n_q, n): the selection for the whole sequence, as one process finds it
    with `kernels.select_blocks`. What `cost.selected_bytes` needs.
    """
    starts, found = block_starts(lengths, block_q, block_k), []
    rows = [-(-length // block_q) for length in lengths]
    for rank, part in enumerate(blocks.split(rows, dim=2)):
        wanted = asked(part, Hkv, starts[-1])
        counts = [int(wanted[:, :, a:b].sum()) for a, b in pairwise(starts)]
        found.append([0 if s == rank else n for s, n in enumerate(counts)])
    return found
