"""Answers and likely mistakes for chapter 4, computed, not typed."""

import torch

from sparse_attn import cost
from sparse_attn.counting import SlowMemory
from sparse_attn.exercises import Function, Number
from sparse_attn.roofline import PUBLISHED

_H100 = PUBLISHED["H100 SXM, BF16"]
_LAYER = cost.matmul(512, 4096, 4096, bytes_per_value=2)
_UNWRITTEN = _LAYER.flops / (_LAYER.moved - _LAYER.held)
_SOFTMAX = (2 * 2 / _H100.copy) / (4 * 128 / _H100.matmul)  # per pair


def _fuses(program) -> str | None:
    """out = 2x + y, for several sizes: right, in 3N elements, in two tiles."""
    for n, block in ((12, 4), (10, 4), (7, 7)):
        x, y = torch.arange(1.0, n + 1), torch.linspace(-1, 1, n)
        memory = SlowMemory(fast=2 * block)
        a, b, out = memory.place(x, "x"), memory.place(y, "y"), memory.empty(n)
        here = f"With {n} numbers in blocks of {block}"
        try:
            program(memory, a, b, out, block)
            result = memory.result(out)
        except MemoryError as error:
            return f"{here}: {error}. Two tiles of a block have to do."
        except ValueError as error:
            return f"{here}: {error}."
        if not torch.allclose(result, 2 * x + y):
            return f"{here} the result is not 2x + y."
        if memory.moved != 3 * n:
            return (
                f"{here} it moves {memory.moved} elements; {3 * n} suffice: each "
                "number of x, y and the result once."
            )
    return None


EXERCISES = {
    "4.1": Number(
        _LAYER.intensity,
        "The weights dominate the bytes as long as the tokens are few.",
        {
            512: "That leaves out the tokens' own vectors, in and out.",
            _LAYER.intensity / 2: "In bf16 a value takes 2 bytes.",
            _LAYER.intensity * 2: "Bytes, not numbers: 2 each.",
            _LAYER.intensity
            * (2 * 512 + 4096)
            / (512 + 4096): "The result is written.",
        },
        tolerance=2e-3,
    ),
    "4.2": Number(
        13 / 3,
        "Two reads and a write remain, whatever happens between them.",
        {
            6: "The unfused chain does not move six times as much.",
            12 / 3: "The first operation has two inputs.",
            12 / 2: "The first operation has two inputs, fused or not.",
        },
    ),
    "4.3": Number(
        cost.wave_use(133, 132),
        "The last block runs alone: 131 of 132 units wait a whole wave.",
        {
            1: "All units work in the first wave. And in the second?",
        },
    ),
    "4.4": Function(
        _fuses,
        "Each number crosses once; what happens in between is free.",
    ),
    "4.5": Number(
        _SOFTMAX,
        "Per pair, 4 bytes at one rate against 4D FLOPs at the other. The square in "
        "memory costs more time than the products that are the point of it.",
        {
            _SOFTMAX / 2: "The softmax reads the scores and writes the weights.",
            1 / _SOFTMAX: "The other way around: softmax over products.",
            2 * _SOFTMAX: "There are two products: 4D FLOPs per pair.",
        },
        tolerance=0.02,
    ),
}
