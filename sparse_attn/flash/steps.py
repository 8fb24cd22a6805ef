"""What a walk yields and what it is: the frame in which `walk` runs its algorithms."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from sparse_attn.checks import check_counts
from sparse_attn.counting import Array, SlowMemory


@dataclass(frozen=True)
class Step:
    """A moment of a walk: `what` was just done for `queries`, and with which `keys`.

    holds: fast memory, name -> shape. read, written: elements moved so far.
    out, m, l: copies of the tile's output (rows, D), and of its running maximum and
    sum (rows,), where the algorithm has them.
    """

    what: str
    queries: slice
    keys: slice | None
    holds: dict[str, tuple[int, ...]]
    read: int
    written: int
    out: Tensor | None
    m: Tensor | None
    l: Tensor | None

    @property
    def moved(self) -> int:
        return self.read + self.written


@dataclass(frozen=True)
class Walk:
    """An algorithm that runs as far as it is iterated: `for step in walk: ...`.

    out: (T, D), where its result lies in the slow part of `memory`; lse: (T,), where
    its log-sum-exp does, if it leaves one. A walk can be walked once; `finish` takes
    the steps that are left.
    """

    memory: SlowMemory
    steps: Iterator[Step]
    out: Array
    lse: Array | None = None

    def __iter__(self) -> Iterator[Step]:
        return self.steps

    def finish(self) -> Tensor:
        """Take every step that is left; returns the output, (T, D)."""
        for _ in self.steps:
            pass
        return self.memory.result(self.out)


def place(memory: SlowMemory, q: Tensor, k: Tensor, v: Tensor) -> list[Array]:
    """The inputs in slow memory, uncounted."""
    return [memory.place(x, name) for x, name in ((q, "Q"), (k, "K"), (v, "V"))]


def room(memory: SlowMemory, q: Tensor, name: str, *shape: int) -> Array:
    """Room for results in slow memory, in the dtype of q."""
    return memory.empty(*shape, name=name, dtype=q.dtype)


def step(what: str, memory: SlowMemory, rows: slice, keys: slice | None = None) -> Step:
    """The moment as it is; the tile's tensors are copied, as the walk goes on."""
    held = memory.contents
    copies = (held[name].clone() if name in held else None for name in "Oml")
    shapes = {name: tuple(x.shape) for name, x in held.items()}
    return Step(what, rows, keys, shapes, memory.read, memory.written, *copies)


def check(q: Tensor, k: Tensor, v: Tensor, **blocks: int):
    """q (T, D) and k, v (S, D) are one head, blocks whole numbers; otherwise raises."""
    check_counts(**blocks)
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, Tensor) or x.ndim != 2 or 0 in x.shape:
            got = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x)
            raise ValueError(f"{name} has {got}: one head is needed, 2 axes, not empty")
    if k.shape != v.shape or q.shape[1] != k.shape[1]:
        raise ValueError(
            f"q has shape {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}: "
            "(T, D), (S, D) and (S, D) are needed"
        )
