"""Whether the Triton kernels of selected attention take what they are asked to.

Knows the sizes that they were made for; `obstacle` knows the devices.
"""

from __future__ import annotations

import torch
from torch import Tensor


def has_kernels(q: Tensor, *sizes: int) -> bool:
    """Whether `fused` takes q (..., D) on its device, with blocks of these sizes.

    Blocks are powers of 2 from 16 on, and so small that what a kernel holds at a time
    fits. Triton's interpreter on a CPU does not count: it is for tests.
    """
    from sparse_attn import kernels

    if q.device.type != "cuda" or kernels.obstacle(q.device) is not None:
        return False
    device = torch.cuda.get_device_properties(q.device)
    room = getattr(device, "shared_memory_per_block_optin", 0)  # bytes; NVIDIA's
    tile = max(64, *sizes) * width_of(q.shape[-1]) * q.element_size()  # or 64 entries
    fits = q.shape[-1] <= kernels.WIDEST and HELD * tile <= room
    powers = all(n >= 16 and n & (n - 1) == 0 for n in sizes)
    return q.dtype in kernels.DTYPES and fits and powers


HELD = 5  # tiles, a little more than the backward kernels compile to


def width_of(D: int) -> int:
    """D rounded up to what the kernels take, a power of 2 from 16 on."""
    return max(16, 1 << (D - 1).bit_length())
