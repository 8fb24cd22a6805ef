"""Roofs and the calls of chapter 4 on this device, stored for readers of others.

    python benchmarks/roofline.py

Ceilings in each dtype that the device multiplies, every call of `workloads`, and the
stairs of waves. Writes benchmarks/results/roofline-DEVICE.json.
"""

import json
from pathlib import Path

import torch

from sparse_attn import roofline, timing, workloads
from sparse_attn.device import caches, facts, pick_device, supports
from sparse_attn.units import slug

RESULTS = Path(__file__).resolve().parent / "results"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def main():
    torch.set_grad_enabled(False)
    device = pick_device()
    found = {
        "device": str(facts(device)),
        "torch": torch.__version__.split("+")[0],
        "caches": caches(device),
        "ceilings": _ceilings(device),
        "copy": roofline.copy_rates([2**k for k in range(13, 29)], device),
        "calls": _calls(device),
        "waves": _waves(device),
    }
    path = RESULTS / f"roofline-{slug(facts(device).name)}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(path.name)


def _ceilings(device) -> dict:
    """Per dtype: bytes per second copied, FLOPs per second multiplied, the ridge."""
    measured = {}
    for dtype in DTYPES:
        if supports(dtype, device):
            roof = roofline.measure_ceilings(device, dtype)
            name = str(dtype).removeprefix("torch.")
            measured[name] = dict(copy=roof.copy, matmul=roof.matmul, ridge=roof.ridge)
    return measured


def _calls(device) -> dict:
    """Per call: FLOPs, bytes, seconds with their interval, share of the fp32 roof."""
    todo = workloads.calls(device)
    clocks = timing.measure_together({n: fn for n, (fn, _) in todo.items()})
    roof = roofline.measure_ceilings(device)
    rows = {}
    for name, (_, work) in todo.items():
        call = roofline.Placed(work.flops, work.moved, clocks[name], roof)
        rows[name] = dict(
            flops=work.flops,
            bytes=work.moved,
            seconds=call.time.median,
            interval=[call.time.low, call.time.high],
            fraction=call.fraction,
        )
    return rows


def _waves(device) -> dict:
    """Seconds by equal pieces of work, as many as four waves take."""
    units, pieces = workloads.waves(device)
    clocks = timing.measure_together(pieces)
    return dict(units=units, seconds={n: t.median for n, t in clocks.items()})


if __name__ == "__main__":
    main()
