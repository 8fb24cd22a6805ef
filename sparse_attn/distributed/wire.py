"""Every byte that travels between ranks goes through here, and is counted.

Knows torch.distributed's point-to-point messages; not what is in them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

_open: list[Counter] = []


@contextmanager
def counted() -> Iterator[Counter]:
    """`with counted() as sent: ...`, then sent: bytes this rank sent, by kind."""
    _open.append(Counter())
    try:
        yield _open[-1]
    finally:
        _open.pop()


def place(group=None) -> tuple[int, int]:
    """This rank's number within the group, and how many ranks it has."""
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(
            "no process group: start ranks with torchrun and call init_process_group "
            "of torch.distributed in each, or use sparse_attn.distributed.launch"
        )
    return dist.get_rank(group), dist.get_world_size(group)


def exchange(
    kind: str, sends: Mapping[int, Tensor], receives: Mapping[int, Tensor], group=None
) -> Callable[[], None]:
    """Starts to send tensors to ranks, and to fill others from ranks; returns `wait`.

    kind: the name under which bytes are counted. Both sides know all shapes; empty
    tensors do not travel. Tensors must be left alone until wait() returns, which raises
    RuntimeError when a neighbor is lost or silent for the group's timeout.
    """
    rank, _ = place(group)
    sends = {to: x.contiguous() for to, x in sends.items() if x.numel()}
    messages = [(dist.isend, x, to) for to, x in sends.items()]
    messages += [(dist.irecv, x, at) for at, x in receives.items() if x.numel()]
    for count in _open:
        count[kind] += sum(x.nbytes for x in sends.values())

    def lost(error):
        reason = re.sub(r"^\[.*?\] ", "", str(error)).split(". ")[0]  # not its source
        return RuntimeError(f"rank {rank} lost a neighbor, sending {kind}: {reason}")

    ops = [dist.P2POp(fn, x, _global(peer, group), group) for fn, x, peer in messages]
    try:
        works = dist.batch_isend_irecv(ops) if ops else []
    except RuntimeError as error:
        raise lost(error) from error

    def wait():
        try:
            for work in works:
                work.wait()
        except RuntimeError as error:
            raise lost(error) from error
        messages.clear()  # held so far, so that nobody reuses their memory

    return wait


def _global(rank: int, group) -> int:
    return rank if group is None else dist.get_global_rank(group, rank)


def all_gather(
    kind: str, x: Tensor, shapes: Sequence[Sequence[int]], group=None
) -> list[Tensor]:
    """The tensors of all ranks, in order; shapes: that of each, which may differ.

    Everybody sends to everybody: (N-1) times its own bytes, as any all-gather does on
    average.
    """
    rank, N = place(group)
    found = [x if r == rank else x.new_empty(shapes[r]) for r in range(N)]
    others = [r for r in range(N) if r != rank]
    exchange(kind, dict.fromkeys(others, x), {r: found[r] for r in others}, group)()
    return found


def all_to_all(
    kind: str, parts: Sequence[Tensor], shapes: Sequence[Sequence[int]], group=None
) -> list[Tensor]:
    """parts[s] goes to rank s; returned is what each rank had for this one.

    shapes: of what comes from each rank. One's own part stays where it is.
    """
    rank, N = place(group)
    others = [r for r in range(N) if r != rank]
    found = [x if r == rank else x.new_empty(shapes[r]) for r, x in enumerate(parts)]
    sends, receives = ({r: x[r] for r in others} for x in (parts, found))
    exchange(kind, sends, receives, group)()
    return found


def all_lengths(T: int, device: torch.device, group=None) -> list[int]:
    """How many tokens each rank holds, this one T: 8 bytes to everybody."""
    mine = torch.tensor([T], device=device)
    found = all_gather("lengths", mine, [(1,)] * place(group)[1], group)
    return torch.cat(found).tolist()
