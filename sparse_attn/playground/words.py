"""Texts with numbers in them, kept apart until they are shown, by Python or by a page.

Knows how each kind of number is written; leaves which to write to `rows` and `advice`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sparse_attn import units

FLOPS = (("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6),
         ("kFLOP", 1e3), ("FLOP", 1.0))  # fmt: skip
BYTES = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0))
SCALES = {"flops": FLOPS, "size": BYTES, "seconds": units.SECONDS}  # for the page


def flops(x: float) -> str:
    """A number of FLOPs: 68.7 GFLOP."""
    unit, scale = next((u for u in FLOPS if x >= u[1]), FLOPS[-1])
    return f"{units.three(x / scale)} {unit}"


FORMATS: dict[str, Callable[[float], str]] = {
    "flops": flops,
    "size": units.size,
    "seconds": units.seconds,
    "three": units.three,
    "percent": lambda x: f"{units.three(100 * x)}%",
    "count": lambda x: f"{x:,.0f}",
}


@dataclass(frozen=True)
class Text:
    """A template and its numbers: Text("{0:size} of {1:size}", (a, b)).

    After the colon stands one of FORMATS. str() fills it in; a page does so itself.
    """

    template: str
    numbers: tuple = ()

    def __str__(self) -> str:
        return self.template.format(*map(_Shown, self.numbers))


class _Shown:
    def __init__(self, number):
        self.number = number

    def __format__(self, kind: str) -> str:
        return FORMATS[kind](self.number)
