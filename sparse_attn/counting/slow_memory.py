"""A simulated processor with two memories: slow and large, fast and small.

Runs real algorithms on real numbers and counts every element that crosses between
the two. It knows nothing of time: that is `timing`'s, and the rates are `roofline`'s.
"""

from contextlib import contextmanager

import torch
from torch import Tensor

from sparse_attn.checks import check_count


class Array:
    """A tensor in slow memory, or a part of one: `x[0:64]` is an address, not data.

    Its numbers can only be had by `SlowMemory.load`, which counts them.
    """

    def __init__(self, data: Tensor, name: str):
        self._data, self.name = data, name

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._data.shape)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index) -> "Array":
        return Array(self._data[index], f"{self.name}[{_written(index)}]")

    def __repr__(self) -> str:
        return f"{self.name} {self.shape} in slow memory"


class SlowMemory:
    """Slow memory, and beside it fast memory for `fast` elements (None: no limit).

    Arrays lie in slow memory: `place` puts them there before the count begins. A
    program brings tiles of them into fast memory with `load`, computes, and writes
    results back with `store`; both count elements. A result that stays in fast memory
    while others are loaded is announced with `hold`; what is used up on the spot, in
    the middle of one expression, is taken to live in registers and is not counted.
    A tile is an ordinary tensor and may be changed in place.

    read, written, moved: elements so far. held, peak: elements in fast memory, now
    and at most. contents: what is in fast memory, by name, in order of arrival.
    """

    def __init__(self, fast: int | None = None):
        if fast is not None:
            check_count("fast", fast)
        self.fast = fast
        self.read = self.written = self.held = self.peak = 0
        self.contents: dict[str, Tensor] = {}

    @property
    def moved(self) -> int:
        return self.read + self.written

    def place(self, x: Tensor, name: str = "array") -> Array:
        """Put a copy of `x` into slow memory. Not counted: it is where inputs begin."""
        return Array(x.detach().clone(), name)

    def empty(
        self, *shape: int, name: str = "array", dtype: torch.dtype = torch.float32
    ) -> Array:
        """Room for results in slow memory; NaN wherever nothing has been stored."""
        return Array(torch.full(shape, torch.nan, dtype=dtype), name)

    def load(self, source: Array, name: str | None = None) -> Tensor:
        """Read `source` into fast memory: a tile, called as `source` unless named.

        Raises MemoryError, with what is there, if it does not fit; ValueError for
        something that does not lie in slow memory, or a name that is taken.
        """
        if not isinstance(source, Array):
            raise ValueError(
                f"source is {type(source).__name__}: only an Array lies in slow memory"
            )
        tile = self.hold(source._data.clone(), name or source.name)
        self.read += tile.numel()
        return tile

    def store(self, target: Array, tile: Tensor) -> None:
        """Write `tile` to `target` in slow memory; it stays in fast memory too.

        Raises ValueError for another shape: here nothing is broadcast in secret.
        """
        if not isinstance(target, Array):
            raise ValueError(
                f"target is {type(target).__name__}: only an Array lies in slow memory"
            )
        if target.shape != tuple(tile.shape):
            raise ValueError(
                f"tile has shape {tuple(tile.shape)} but {target.name} {target.shape}"
            )
        target._data.copy_(tile)
        self.written += tile.numel()

    def hold(self, tile: Tensor, name: str) -> Tensor:
        """Keep a computed tile in fast memory until it is freed; returns it.

        Raises MemoryError if it does not fit, ValueError if the name is taken.
        """
        if name in self.contents:
            raise ValueError(f"name={name!r}: fast memory already holds one; free it")
        if self.fast is not None and self.held + tile.numel() > self.fast:
            there = ", ".join(f"{n} {x.numel():,}" for n, x in self.contents.items())
            raise MemoryError(
                f"fast memory is for {self.fast:,} elements and holds {self.held:,} "
                f"({there or 'nothing'}): {name} with {tile.numel():,} does not fit"
            )
        self.contents[name] = tile
        self.held += tile.numel()
        self.peak = max(self.peak, self.held)
        return tile

    def free(self, *tiles: Tensor) -> None:
        """Give up tiles. Their numbers become NaN: a program that needs them is wrong.

        Raises ValueError for a tensor that fast memory does not hold.
        """
        for tile in tiles:
            names = [name for name, x in self.contents.items() if x is tile]
            if not names:
                raise ValueError(f"no such tile to free: it holds {[*self.contents]}")
            del self.contents[names[0]]
            self.held -= tile.numel()
            tile.fill_(torch.nan if tile.is_floating_point() else 0)

    @contextmanager
    def block(self):
        """`with memory.block():` frees at its end all that came in since its start.

        So does a thread block on a GPU: what it had on the chip ends with it.
        """
        before = {id(tile) for tile in self.contents.values()}
        yield self
        self.free(*(x for x in self.contents.values() if id(x) not in before))

    def result(self, array: Array) -> Tensor:
        """What an array holds in the end. Not counted: nobody reads it but you.

        Raises ValueError if part of it was never stored.
        """
        missing = int(array._data.isnan().sum())
        if missing:
            raise ValueError(
                f"{array.name}: {missing:,} of {array._data.numel():,} elements are "
                "NaN: never stored, or computed from a tile that was freed"
            )
        return array._data.clone()


def _written(index) -> str:
    """An index as it was typed: 0:64, or 0:64, 3."""
    if isinstance(index, tuple):
        return ", ".join(map(_written, index))
    if isinstance(index, slice):
        ends = ("" if end is None else str(end) for end in (index.start, index.stop))
        step = "" if index.step is None else f":{index.step}"
        return ":".join(ends) + step
    return "..." if index is Ellipsis else str(index)
