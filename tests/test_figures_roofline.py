"""Figures of machines and roofs: how they are drawn, for `test_figures`."""

import io
import math

import pytest
import torch
from PIL import Image

from sparse_attn import cost, figures
from sparse_attn.figures.style import BLUE, GREEN, ORANGE
from sparse_attn.roofline import PUBLISHED, Ceilings, Placed
from sparse_attn.timing import Ratio, Timing


def timing(s):
    return Timing(s, 0.9 * s, 1.2 * s, s, (s,))


ROOF = Ceilings(torch.float32, copy=30e9, matmul=180e9, fresh=4e9, cached=120e9)
CACHES = {"L1": 2**15, "L2": 2**20, "L3": 2**25}


def placed(flops, bytes, seconds):
    return Placed(flops, bytes, timing(seconds), ROOF)


SIDES, TIMES = (4, 16, 64, 256), (5e-3, 1e-3, 2e-3, 3e-3)
DRAWN = {  # figure -> (arguments, what its caption must state)
    "anatomy": (
        dict(
            machines={
                "a machine": CACHES | {"memory": 2**35},
                "A100": {"L1, of one SM": 192e3, "L2, shared": 40e6, "memory": 80e9},
            }
        ),
        ["a machine: memory holds 1,024 times", "A100: memory holds 2,000 times"],
    ),
    "rate_by_size": (
        dict(
            rates={2**14: 20e9, 2**18: 110e9, 2**22: 60e9, 2**26: 31e9, 2**28: 30e9},
            caches=CACHES,
            device="a machine",
        ),
        ["110 GB/s at 262 kB", "30 GB/s at 268 MB", "a machine"],
    ),
    "chain_gains": (
        dict(
            lengths=[2, 8],
            gains={
                "by pieces": [Ratio(1.2, 1.1, 1.3), Ratio(2.2, 2.1, 2.4)],
                "compiled": [Ratio(1.6, 1.5, 1.8), Ratio(3.4, 3.1, 3.7)],
            },
            device="a machine",
        ),
        ["2 operations: predicted 1.67", "predicted 5.67", "compiled 3.40"],
    ),
    "staircase": (
        dict(
            pieces=[1, 2, 3, 4, 5],
            timings=[timing(s) for s in (1e-3, 1.1e-3, 2.2e-3, 2.2e-3, 3.3e-3)],
            units=2,
            device="a machine",
        ),
        ["piece 3 begins a second wave", "3 pieces take 2.0 times"],
    ),
    "roofline": (
        dict(
            placed={
                "scale": placed(1e9, 8e9, 0.3),
                "softmax": placed(5e9, 8e9, 0.35),
                "GELU": placed(5e9, 8e9, 0.36),
                "attention, plain": placed(15e9, 1e9, 0.3),
                "product": placed(300e9, 1e9, 2.0),
            },
            device="a machine",
            others={"A100, FP32": PUBLISHED["A100 80 GB, FP32"]},
        ),
        ["3 of 5 operations", "6.0 FLOP per byte", "scale 89%", "product 83%"],
    ),
    "matmul_on_roofs": (
        dict(n=100, dtype="FP32"),
        ["n = 100", "16.7 FLOP/byte", "H100 SXM and M1 Max"],
    ),
    "attention_on_roof": (
        dict(T=1024, D=64, roof=ROOF, device="a machine"),
        ["plain 15.1 FLOP/byte", "a machine", "256", "0.5"],
    ),
    "bound_and_time": (
        dict(
            work={n: cost.matmul(n, n, n, batch=10**6 // n**2) for n in SIDES},
            timings={n: timing(s) for n, s in zip(SIDES, TIMES, strict=True)},
            roof=ROOF,
            what="side n",
            device="a machine",
        ),
        ["a machine", "furthest off at 4"],
    ),
}


def test_colors_follow_the_bound_and_the_list_is_in_order_of_intensity():
    plot = figures.roofline(**DRAWN["roofline"][0])
    rows = [text.get_text() for text in plot.axes[0].get_legend().get_texts()]
    assert [row.split()[1].strip(",") for row in rows] == [
        "scale", "softmax", "GELU", "attention", "product"
    ]  # fmt: skip


@pytest.mark.parametrize("n, waits", [(50, "A100 80 GB and H100 SXM and M1 Max"),
                                      (100, "H100 SXM and M1 Max"),
                                      (1000, "none of these")])  # fmt: skip
def test_a_product_waits_for_memory_below_a_ridge(n, waits):
    assert (
        f"waits for memory on: {waits}." in figures.matmul_on_roofs(n, "FP32").caption
    )


def test_a_small_palette_keeps_the_colors_of_small_marks():
    plot = figures.attention_on_roof(**DRAWN["attention_on_roof"][0])
    picture = Image.open(io.BytesIO(plot.png(dpi=130, colors=24))).convert("RGB")
    drawn = {color for _, color in picture.getcolors(24)}
    for name in (BLUE, ORANGE, GREEN):
        wanted = [int(name[i : i + 2], 16) for i in (1, 3, 5)]
        assert min(math.dist(wanted, color) for color in drawn) < 12, name


def test_points_on_a_roof_are_the_formulas():
    T, D = 4096, 128
    said = figures.attention_on_roof(T, D, roof=ROOF, device="x").caption
    plain = 4 * T * T * D / (4 * (4 * T * D + 4 * T * T))
    assert f"plain {plain:.3g} FLOP/byte" in said
    assert f"fused, each number moved once {T / 4:.3g}" in said
