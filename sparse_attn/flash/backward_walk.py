"""The gradient of attention on `counting.SlowMemory`: what its tiles move, one head."""

import math

import torch
from torch import Tensor

from sparse_attn.counting import SlowMemory
from sparse_attn.flash.online import Running, online_softmax, running, shift
from sparse_attn.flash.steps import check, place, room
from sparse_attn.flash.tiles import Tiles


def outer_kv_backward(
    memory: SlowMemory,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dout: Tensor,
    *,
    block_q: int,
    block_k: int,
    causal: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dq, dk, dv) for the gradient `dout` of the output: keys outside, queries inside.

    q, dout: (T, D); k, v: (S, D), placed uncounted, as are what forward left behind,
    O and each row's m and l, and the zeros of dq. Each tile of k and v is read once,
    and its dk and dv, which grow in fast memory, are written once. Meanwhile every
    tile of q, O, dO, dq, m and l is read, and dq is written back; the weights are
    computed anew. causal: tiles above the diagonal are skipped.
    Raises ValueError for arguments that do not fit, MemoryError for tiles that do not.
    Source: Dao et al. 2022, algorithm 4.
    """
    check(q, k, v, block_q=block_q, block_k=block_k)
    _check_gradient(dout, q)
    tiles = Tiles(len(q), len(k), block_q, block_k, causal)
    out, state = _forward(q, k, v, tiles)
    rows_of = {
        name: memory.place(x, name)
        for name, x in zip(
            ("O", "dO", "dQ", "m", "l"),
            (out, dout, torch.zeros_like(q), *state),
            strict=True,
        )
    }
    dk, dv = (room(memory, q, name, *k.shape) for name in ("dK", "dV"))
    rows_of["Q"], k, v = place(memory, q, k, v)

    for keys in tiles.all_keys():
        with memory.block():
            K, V = memory.load(k[keys], "K"), memory.load(v[keys], "V")
            dK = memory.hold(torch.zeros_like(K), "dK")
            dV = memory.hold(torch.zeros_like(V), "dV")
            for rows in tiles.seeing(keys):
                with memory.block():
                    tile = {n: memory.load(x[rows], n) for n, x in rows_of.items()}
                    _add(memory, tile, K, V, dK, dV, tiles.hidden(rows, keys))
                    memory.store(rows_of["dQ"][rows], tile["dQ"])
            memory.store(dk[keys], dK)
            memory.store(dv[keys], dV)
    return tuple(memory.result(x) for x in (rows_of["dQ"], dk, dv))


def _add(memory, tile, K, V, dK, dV, hidden):
    """What one tile of scores adds to dQ, dK and dV, in place. P = exp(S - m)/l;
    dV = Pᵀ dO; dS = P ∘ (dO Vᵀ - rowsum(dO ∘ O)); dQ = dS K; dK = dSᵀ Q."""
    Q, O, dO, dQ, m, l = (tile[name] for name in ("Q", "O", "dO", "dQ", "m", "l"))
    scale = 1 / math.sqrt(Q.shape[1])
    P = memory.hold(scale * (Q @ K.mT), "P")
    if hidden is not None:
        P.masked_fill_(hidden, -torch.inf)
    P.sub_(shift(m)[:, None]).exp_().div_(l.clamp_min(1)[:, None])
    dV.add_(P.mT @ dO)
    dS = memory.hold(dO @ V.mT, "dS")
    dS.sub_((dO * O).sum(-1, keepdim=True)).mul_(P).mul_(scale)
    dQ.add_(dS @ K)
    dK.add_(dS.mT @ Q)


def _forward(q, k, v, tiles: Tiles) -> tuple[Tensor, Running]:
    """What the forward pass left in slow memory; its own traffic is `walk`'s."""
    scores = q @ k.mT / math.sqrt(q.shape[1])
    hidden = tiles.hidden(slice(0, len(q)), slice(0, len(k)))
    if hidden is not None:
        scores.masked_fill_(hidden, -torch.inf)
    return online_softmax(scores, len(k)) @ v, running(scores)


def _check_gradient(dout: Tensor, q: Tensor):
    if not isinstance(dout, Tensor) or dout.shape != q.shape:
        got = f"shape {tuple(dout.shape)}" if isinstance(dout, Tensor) else type(dout)
        raise ValueError(f"dout has {got}: that of q is needed, {tuple(q.shape)}")
