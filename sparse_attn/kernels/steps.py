"""The loop over query blocks that list equally many keys: gather, attend, join.

Knows how a few rows at a time pass through the cache, and how Python stays out of it;
leaves which rows are alike, and what they list, to `blocked`.
"""

import sys
import warnings
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from sparse_attn.kernels.attend import attend, join


def attend_rows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    mask: Tensor | None,
    sees: bool,
    pooled: tuple[Tensor, Tensor, Tensor] | None,
    reach: list[int],
    at_once: int,
    scale: float,
    room: Tensor,
    out: Tensor,
    lse: Tensor,
):
    """Attention of n rows of queries to the blocks that each lists, into out and lse.

    q, out (n, 1, block_q, D), lse (n, 1, block_q); k, v (n_k, block_k D); keys (n, m).
    mask (1 or n, 1, block_q, m block_k): added to scores; sees: as in `attend`.
    pooled: mean keys and values (n_pools, D), and what is added to their scores,
    (n, n_pools), of which step s reads the first reach[s]. at_once: rows to a step;
    room (2, at_once m or more, block_k D): for the blocks that they list.
    """
    D = q.shape[3]
    for step, n in enumerate(reach):
        i, j = step * at_once, min((step + 1) * at_once, q.shape[0])
        ids, mine, goal = keys[i:j].flatten(), q[i:j], (out[i:j], lse[i:j])
        near = torch.index_select(k, 0, ids, out=room[0, : ids.shape[0]])
        far = torch.index_select(v, 0, ids, out=room[1, : ids.shape[0]])
        near, far = near.view(j - i, 1, -1, D), far.view(j - i, 1, -1, D)
        added = mask if mask is None or mask.shape[0] == 1 else mask[i:j]
        found = attend(mine, near, far, added, scale, sees=sees)
        if pooled is not None and n > 0:
            near, far, bias = pooled
            near, far = near[:n].expand(j - i, 1, n, D), far[:n].expand(j - i, 1, n, D)
            added = bias[i:j, None, None, :n]
            join(found, attend(mine, near, far, added, scale), goal[0], goal[1])
        else:
            goal[0].copy_(found[0])
            goal[1].copy_(found[1])


def loop_on(device: torch.device) -> Callable:
    """`attend_rows` as it is fastest on the device: on a CPU, without Python.

    Measured once on a CPU of two cores, that spared a twentieth of the time on one
    thread and more on two, which otherwise wait for each other to use the interpreter.
    TorchScript gets no new features, and is not made for Python 3.14: there this is the
    loop itself, as it is on a GPU, where TorchScript would try to write kernels.
    """
    if device.type != "cpu" or sys.version_info >= (3, 14):
        return attend_rows
    return _scripted()


@lru_cache(maxsize=1)
def _scripted() -> Callable:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(attend_rows)
