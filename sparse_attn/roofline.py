"""The ceilings of a device, and how close a call comes to them.

Knows rates, measured and published; takes its clock from `timing`, and leaves FLOPs
and bytes to `cost` and `counting`.
Source: Williams, Waterman and Patterson 2009.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from sparse_attn.checks import check_count
from sparse_attn.device import as_device, caches, facts
from sparse_attn.timing import Timing, measure, measure_together

COPY_BYTES = 2**28  # 256 MiB, or twice the last cache of the device, if that is more
MATMUL_SIDES = {
    "cpu": (256, 512, 1024, 2048),
    "mps": (2048, 4096),
    "cuda": (4096, 8192),
}
LONG = 0.3  # seconds; a product that takes longer is not tried at twice its side


@dataclass(frozen=True)
class Roof:
    """Two rates that no program of a device exceeds.

    copy: bytes per second, read plus written. matmul: FLOPs per second in `dtype`.
    source: key of the reference for published rates; empty for measured ones.
    """

    dtype: torch.dtype
    copy: float
    matmul: float
    source: str = ""

    @property
    def ridge(self) -> float:
        """FLOPs per byte at which both limits bind."""
        return self.matmul / self.copy

    def rate(self, intensity: float) -> float:
        """The most FLOPs per second at `intensity` FLOPs per byte."""
        return min(self.matmul, intensity * self.copy)

    def seconds(self, flops: float, bytes: float) -> float:
        """The least time: the longer of arithmetic and traffic, fully overlapped."""
        return max(flops / self.matmul, bytes / self.copy)


@dataclass(frozen=True)
class Ceilings(Roof):
    """What one device reached in large calls, and two rates beside its roof.

    copy is into memory that is there. fresh: bytes per second written into a new
    tensor: on a CPU the system first has to hand out its pages, one by one; on a GPU
    PyTorch keeps freed memory, so that fresh is like copy. cached: bytes per second
    copied where both arrays stay in a cache; only for a CPU, elsewhere None.
    """

    fresh: float = 0.0
    cached: float | None = None


_A100, _H100 = "nvidia2021a100datasheet", "nvidia2023h100datasheet"
# Dense products at boost clock, as their makers print them; chapter 4 discusses them.
PUBLISHED = {
    "A100 80 GB, FP32": Roof(torch.float32, 2.039e12, 19.5e12, _A100),
    "A100 80 GB, TF32": Roof(torch.float32, 2.039e12, 156e12, _A100),
    "A100 80 GB, BF16": Roof(torch.bfloat16, 2.039e12, 312e12, _A100),
    "H100 SXM, FP32": Roof(torch.float32, 3.35e12, 66.9e12, _H100),
    "H100 SXM, TF32": Roof(torch.float32, 3.35e12, 494.7e12, _H100),
    "H100 SXM, BF16": Roof(torch.bfloat16, 3.35e12, 989.4e12, _H100),
    "M1 Max, FP32": Roof(torch.float32, 400e9, 10.4e12, "apple2021m1max"),
}


@lru_cache
def measure_ceilings(
    device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Ceilings:
    """Medians of a large copy, and the best large square product; kept for the session.

    `measure_ceilings.cache_clear()` forgets them, so that the next call measures.
    """
    device = as_device(device)
    n = copy_bytes(device) // 4
    x = torch.ones(n, dtype=torch.float32, device=device)
    y = torch.empty_like(x)
    into = {"old": lambda: y.copy_(x), "new": lambda: x.clone()}
    seconds = {n: t.median for n, t in measure_together(into, device=device).items()}
    reading = seconds["old"] / 2  # as long as writing into memory that is there
    copy = 8 * n / seconds["old"]
    fresh = 4 * n / max(seconds["new"] - reading, reading)

    cached = None
    if device.type == "cpu":
        cached = max(copy_rates([2**k for k in range(16, 22)], device).values())
    return Ceilings(dtype, copy, _matmul_rate(device, dtype), "", fresh, cached)


def copy_bytes(device: torch.device | None = None) -> int:
    """Size of an array that no cache of `device` holds, within a 16th of its memory."""
    device = as_device(device)
    size = max(COPY_BYTES, 2 * max(caches(device).values(), default=0))
    return min(size, facts(device).memory // 16)


def copy_rates(
    sizes: Sequence[int], device: torch.device | None = None
) -> dict[int, float]:
    """Bytes per second, read plus written, of copying arrays of the given bytes."""
    device = as_device(device)
    for size in sizes:
        check_count("size", size, least=4)
    copies = {}
    for size in sizes:
        x, y = (torch.ones(size // 4, device=device) for _ in range(2))
        copies[size] = lambda x=x, y=y: y.copy_(x)
    taken = measure_together(copies, device=device)
    return {size: 2 * size / t.median for size, t in taken.items()}


def _matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs per second of the square product that reaches most."""
    best = 0.0
    for n in MATMUL_SIDES[device.type]:
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        taken = measure(lambda a=a, b=b: a @ b, device=device)
        best = max(best, 2 * n**3 / taken.median)
        if taken.median > LONG:
            break
    return best


@dataclass(frozen=True)
class Placed:
    """A call under a roof: what it had to do, and the time it took."""

    flops: int
    bytes: int
    time: Timing
    roof: Roof

    @property
    def intensity(self) -> float:
        """FLOPs per byte."""
        return self.flops / self.bytes

    @property
    def attained(self) -> float:
        """FLOPs per second."""
        return self.flops / self.time.median

    @property
    def bound(self) -> str:
        """Which limit lies lower at this intensity: "memory" or "compute"."""
        return "memory" if self.intensity < self.roof.ridge else "compute"

    @property
    def fraction(self) -> float:
        """Least time over time taken: 1 on the roof."""
        return self.roof.seconds(self.flops, self.bytes) / self.time.median

    def __str__(self) -> str:
        return (
            f"{self.intensity:.3g} FLOP/byte, {self.attained / 1e9:.3g} GFLOP/s, "
            f"{self.bound}-bound, {self.fraction:.0%} of the roof"
        )


def place(
    fn: Callable[[], object],
    *,
    flops: int,
    bytes: int,
    roof: Roof | None = None,
    device: torch.device | None = None,
) -> Placed:
    """Time `fn`, which does `flops` and must move `bytes`, and put it under `roof`.

    roof: measured ceilings of the device in fp32, unless given. bytes: the least that
    the call must move between slow memory and the processor, inputs and outputs.
    Raises ValueError for negative FLOPs or no bytes at all.
    """
    check_count("flops", flops, least=0)
    check_count("bytes", bytes)
    roof = measure_ceilings(device) if roof is None else roof
    return Placed(flops, bytes, measure(fn, device=device), roof)
