"""The measured ceilings of a device: how fast it copies, how fast it multiplies.

Knows rates; takes its clock from `timing`, and leaves FLOPs and bytes to `cost`.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch

from sparse_attn.device import as_device
from sparse_attn.timing import measure, measure_together

COPY_BYTES = 2**28  # 256 MiB: past every cache of today's devices
MATMUL_SIDE = {"cpu": 2048, "mps": 4096, "cuda": 8192}


@dataclass(frozen=True)
class Ceilings:
    """What one device reached: bytes per second copied, FLOPs per second multiplied.

    copy counts bytes read plus bytes written, into memory that is there. fresh: bytes
    per second written into a new tensor: on a CPU the system first has to hand out its
    pages, one by one; on a GPU PyTorch keeps freed memory, so that fresh is like copy.
    ridge: FLOPs per byte where copy and matmul meet.
    """

    dtype: torch.dtype
    copy: float
    matmul: float
    fresh: float

    @property
    def ridge(self) -> float:
        return self.matmul / self.copy


@lru_cache
def measure_ceilings(
    device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Ceilings:
    """Medians of a large copy and a large square product; kept for the session.

    `measure_ceilings.cache_clear()` forgets them, so that the next call measures.
    """
    device = as_device(device)
    x = torch.ones(COPY_BYTES // 4, dtype=torch.float32, device=device)
    y = torch.empty_like(x)
    into = {"old": lambda: y.copy_(x), "new": lambda: x.clone()}
    seconds = {n: t.median for n, t in measure_together(into, device=device).items()}
    reading = seconds["old"] / 2  # as long as writing into memory that is there
    copy = 2 * COPY_BYTES / seconds["old"]
    fresh = COPY_BYTES / max(seconds["new"] - reading, reading)

    n = MATMUL_SIDE[device.type]
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    matmul = 2 * n**3 / measure(lambda: a @ b, device=device).median
    return Ceilings(dtype, copy, matmul, fresh)
