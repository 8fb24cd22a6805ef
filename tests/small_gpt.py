"""What the tests of the GPT share: every switch at once, and weights that matter."""

from itertools import product

import torch

from sparse_attn.gpt import GPT, GPTConfig

SMALL = GPTConfig(layers=2, heads=4, width=16, vocab=11, context=24)
WINDOWS = (dict(), dict(window=4), dict(window=4, sinks=2))
SWITCHES = dict(
    kv_heads=(None, 2, 1),
    attend=("fused", "formula"),
    norm=("layer", "rms"),
    positions=("learned", "rotary"),
    mlp=("gelu", "swiglu"),
    bias=(True, False),
    tied=(True, False),
)
ALL = [
    SMALL.but(**dict(zip(SWITCHES, values, strict=True)), **window)
    for *values, window in product(*SWITCHES.values(), WINDOWS)
]


def name(config: GPTConfig) -> str:
    """The switches of a config, as the id of a test."""
    switches = "-".join(str(getattr(config, switch)) for switch in SWITCHES)
    return f"{switches}-window{config.window}+{config.sinks}"


def lively(config: GPTConfig, dtype=torch.float32, seed: int = 0) -> GPT:
    """A GPT in eval mode whose every weight matters: logits of order 1.

    Made in float64, so that a seed gives the same weights in every dtype, rounded.
    """
    torch.manual_seed(seed)
    model = GPT(config).double().eval()
    with torch.no_grad():
        for path, weight in model.named_parameters():
            if path.startswith(("tokens", "positions")):
                weight.normal_(std=config.width**-0.5)  # the head may be the tokens
            elif weight.ndim == 2:
                weight.normal_(std=weight.shape[1] ** -0.5)
            elif path.endswith("bias"):
                weight.normal_(std=0.1)
            else:
                weight.normal_(mean=1, std=0.1)
    return model.to(dtype)


def text(B: int, T: int, vocab: int, seed: int = 0) -> torch.Tensor:
    """Random tokens (B, T)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocab, (B, T), generator=generator)
