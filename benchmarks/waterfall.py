"""Where a saving in FLOPs goes: from the ideal to a whole model, step by step.

    python benchmarks/waterfall.py [--tokens 4096] [--threads 1]

GPT-2 small's shape, one text, 512 keys kept. Every step is how many times faster the
sparse way is than the dense one, measured side by side. Printed, and kept in
results/waterfall-<device>.json.
"""

import argparse
from functools import partial

import torch
from sweep import RESULTS, results_in
from ways import KEEP, by, read, sparse

from sparse_attn import gpt, kernels, timing
from sparse_attn.device import facts, pick_device
from sparse_attn.kernels.selection import (
    BLOCK_K,
    GROUP,
    block_means,
    blocks_from_means,
)
from sparse_attn.layers import fused_attention
from sparse_attn.units import slug


def waterfall(T: int, device) -> list[tuple[str, float]]:
    """(step, times faster than dense) from what FLOPs promise to the whole model."""
    torch.manual_seed(0)
    config = gpt.GPTConfig.gpt2(context=T)
    net = gpt.GPT(config).to(device).eval()
    H, D = config.heads, config.width // config.heads
    q, k, v = torch.randn(3, 1, H, T, D, device=device)
    asks, answers = block_means(q, GROUP), block_means(k, BLOCK_K)
    n = KEEP // BLOCK_K
    blocks = kernels.select_blocks(q, k, n, causal=True)

    def ranked():
        chosen = blocks_from_means(asks, answers, n, causal=True)
        return kernels.block_attention(q, k, v, chosen, causal=True)

    attention = {
        "dense": partial(fused_attention, q, k, v, causal=True),
        "kernel": partial(kernels.block_attention, q, k, v, blocks, causal=True),
        "+ scores of means, top-k": ranked,
        "+ means": partial(sparse(), q, k, v),
    }
    taken = timing.measure_together(attention, device=device, samples=5)
    x = torch.randn(1, T, config.width, device=device)
    tokens = torch.randint(config.vocab, (1, T), device=device)
    imposed = by(sparse())

    @torch.no_grad()
    def layer():
        return net.blocks[0](x)

    def under(run):
        with imposed(net):
            return run()

    steps = [("pairs of the lists", ideal(blocks, T))]
    steps += [
        (name, timing.ratio(taken["dense"], taken[name]).value)
        for name in list(attention)[1:]
    ]
    for name, run in (
        ("whole layer", layer),
        ("whole model", partial(read, net, tokens)),
    ):
        both = {"dense": run, "sparse": partial(under, run)}
        taken = timing.measure_together(both, device=device, samples=1)
        steps.append((name, timing.ratio(taken["dense"], taken["sparse"]).value))
    return steps


def ideal(blocks, T: int) -> float:
    """All causal pairs over those that the lists leave."""
    listed = kernels.listed_pairs(blocks, T)
    return blocks.shape[1] * T * (T + 1) / 2 / listed


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--threads", type=int)
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    device = pick_device()
    steps = waterfall(asked.tokens, device)
    for name, ratio in steps:
        print(f"{name:26} {ratio:6.2f}x")
    path = RESULTS / f"waterfall-{slug(facts(device).name)}.json"
    key = f"{asked.tokens} tokens | {torch.get_num_threads()} threads"
    with results_in(path) as results:
        results["device"] = str(facts(device))
        results["runs"][key] = [[name, float(ratio)] for name, ratio in steps]


if __name__ == "__main__":
    main()
