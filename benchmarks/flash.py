"""Our Triton kernels beside PyTorch's flash kernel: time and memory, on CUDA.

    python benchmarks/flash.py [--longest 32768]

Forward, and backward alone, in bf16, for head widths 64 and 128, causal and not. Each
length has 16,384 tokens at width 2048, the longest one sequence. A call is timed as
Python makes it, launch included. Results go to results/flash-<device>.json.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from sparse_attn import cost, kernels, timing
from sparse_attn.device import facts, peak_memory, pick_device
from sparse_attn.units import slug

RESULTS = Path(__file__).resolve().parent / "results"
TOKENS, WIDTH = 16_384, 2048


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--longest", type=int, default=32_768)
    longest = parser.parse_args().longest

    device = pick_device()
    if device.type != "cuda":
        sys.exit(f"Nothing was measured: CUDA is needed, and the device is {device}.")
    if why := kernels.obstacle(device):
        sys.exit(f"Nothing was measured: {why}.")
    results = {"device": str(facts(device)), "torch": torch.__version__, "runs": {}}
    path = RESULTS / f"flash-{slug(facts(device).name)}.json"
    lengths = [T for T in (2**n for n in range(9, 24)) if longest >= T]
    for T, D, causal in [(T, D, c) for T in lengths for D in (64, 128) for c in (0, 1)]:
        name = f"T={T} D={D} {'causal' if causal else 'full'}"
        found = results["runs"][name] = compare(T, D, bool(causal), device)
        path.write_text(json.dumps(results, indent=1) + "\n")
        rates = (f"{way} {found[way]['rate of SDPA'][0]:.0%}" for way in found)
        print(f"{name}: {', '.join(rates)} of SDPA's rate", flush=True)


def compare(T: int, D: int, causal: bool, device: torch.device) -> dict:
    """Both kernels on the same numbers: forward without gradients, backward alone."""
    B, H = max(1, TOKENS // T), WIDTH // D
    torch.manual_seed(T + D)
    q, k, v, dout = (
        torch.randn(B, H, T, D, device=device, dtype=torch.bfloat16) for _ in "qkvd"
    )
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    attends = {
        "triton": partial(kernels.flash_attention, causal=causal),
        "sdpa": partial(F.scaled_dot_product_attention, is_causal=causal),
    }
    work = 4 * B * H * D * cost.pairs(T, causal=causal)  # FLOPs of q kᵀ and p v
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        forward = {name: partial(fn, q, k, v) for name, fn in attends.items()}
        backward = {
            name: partial(
                torch.autograd.grad, fn(*leaves), leaves, dout, retain_graph=True
            )
            for name, fn in attends.items()
        }
        return {
            "forward": measured(forward, work, device),
            "backward": measured(backward, 2.5 * work, device),  # 5 products, not 2
        }


def measured(fns: dict, work: float, device: torch.device) -> dict:
    """[median, low, high] of the seconds and of our rate as a share of SDPA's."""
    times = timing.measure_together(fns, device=device)
    ratio = timing.ratio(times["sdpa"], times["triton"])
    found = {"rate of SDPA": [ratio.value, ratio.low, ratio.high]}
    for name, fn in fns.items():
        with peak_memory(device) as peak:
            fn()
        time = times[name]
        found[name] = {
            "seconds": [time.median, time.low, time.high],
            "TFLOP/s": work / time.median / 1e12,
            "peak bytes": peak.bytes,
        }
    return found


if __name__ == "__main__":
    main()
