"""Devices of the playground: two rates for each size of a value, and who says so.

Knows names; takes rates from `roofline`, published and measured, and the stored ones
from the benchmark's results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from sparse_attn import results
from sparse_attn.checks import check_choice
from sparse_attn.device import as_device, facts, supports
from sparse_attn.roofline import PUBLISHED, Roof, measure_ceilings


@dataclass(frozen=True)
class Profile:
    """A device as two rates: `roofs` by bytes per value.

    One byte is a way to store a value; it is calculated with at the rate of two. A
    device without a published rate for two calculates at that of four.
    source: keys of the references for published rates, or what measured them.
    """

    name: str
    roofs: Mapping[int, Roof] = field(repr=False)
    source: str

    def roof(self, bytes: int) -> Roof:
        """The rates for values of so many bytes: 4, 2 or 1."""
        check_choice("bytes", bytes, (4, 2, 1))
        return self.roofs.get(max(2, bytes), self.roofs[4])


def stored() -> Profile:
    """The CPU whose measurements come with the book."""
    found = results.load("roofline")
    dtypes = {4: torch.float32, 2: torch.bfloat16}
    rates = {n: found["ceilings"][str(t).split(".")[-1]] for n, t in dtypes.items()}
    return Profile(
        f"{found['device'].partition(' (')[0]}, as stored",
        {n: Roof(dtypes[n], one["copy"], one["matmul"]) for n, one in rates.items()},
        f"measured by benchmarks/roofline.py on {found['device']}",
    )


def _published(name: str, dtypes: Mapping[int, str]) -> Profile:
    roofs = {n: PUBLISHED[f"{name}, {dtype}"] for n, dtype in dtypes.items()}
    return Profile(name, roofs, roofs[4].source)


class Here(Profile):
    """This device: its rates are measured when they are asked for, once a session."""

    def __init__(self, device: torch.device | None = None):
        device = as_device(device)
        super().__init__("this device, measured", {}, f"measured on {facts(device)}")
        object.__setattr__(self, "device", device)

    def roof(self, bytes: int) -> Roof:
        """Takes some seconds for a size that was not asked for before."""
        check_choice("bytes", bytes, (4, 2, 1))
        return measure_ceilings(self.device, dtype_of(max(2, bytes), self.device))


def dtype_of(bytes: int, device: torch.device) -> torch.dtype:
    """What calculates with values of so many bytes: fp32, else bf16 where there is
    one, else fp16. Raises ValueError for one byte, which none does."""
    if bytes == 4:
        return torch.float32
    if bytes == 2:
        has = supports(torch.bfloat16, device)
        return torch.bfloat16 if has else torch.float16
    raise ValueError(
        f"bytes={bytes}: a way to store values; attention is run in 4 or in 2 bytes"
    )


# This book's stored device first, then published ones.
PROFILES: tuple[Profile, ...] = (
    stored(),
    _published("A100 80 GB", {4: "FP32", 2: "BF16"}),
    _published("H100 SXM", {4: "FP32", 2: "BF16"}),
    _published("M1 Max", {4: "FP32"}),
)
