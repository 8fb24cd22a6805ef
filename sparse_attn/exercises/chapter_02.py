"""Answers and likely mistakes for chapter 2, computed, not typed."""

from sparse_attn import cost
from sparse_attn.exercises import Number
from sparse_attn.gpt import GPTConfig
from sparse_attn.profiling import grouped

_FULL = GPTConfig.gpt2(attend="formula")


def _head_share(config, T: int) -> float:
    parts = grouped(cost.flops_by_part(config, T))
    return parts["LM head"] / sum(parts.values())


_MEDIUM = _FULL.but(layers=24, heads=16, width=1024)
_SQUARES = 12 * 12 * 1024**2 * 4

EXERCISES = {
    "2.1": Number(
        _head_share(_MEDIUM, 512),
        "More and wider blocks, the same vocabulary: the head shrinks in proportion.",
        {
            _head_share(_FULL, 512): "That is GPT-2 small. Take 24 layers of 1,024.",
            100 * _head_share(_MEDIUM, 512): "A share lies between 0 and 1; you gave "
            "it in percent.",
        },
    ),
    "2.2": Number(
        1 / (1 - 0.25 / 2),
        "What is not touched does not get faster: Amdahl's law.",
        {
            2.0: "Only a quarter of the time gets faster.",
            1 - 0.25 / 2: "That is the time that remains. How many times faster is it?",
            1 / (1 - 0.25): "That makes the quarter infinitely fast.",
        },
        tolerance=1e-3,
    ),
    "2.3": Number(
        2048 / 0.051,
        "The published 5,000 would need a batch of 255 tokens.",
        {
            4 * 2048 / 0.051: "2,048 tokens are the whole batch already.",
            2048 / 0.033: "That is the row after the remedies: 33 ms.",
            512 / 0.051: "There are four sequences in the batch.",
        },
    ),
    "2.4": Number(
        2 * _SQUARES,
        "Two squares per head and layer, and they grow with the square of T.",
        {
            _SQUARES: "Both the softmax and the weights behind it are kept.",
            2 * _SQUARES / 12: "That is one layer, or one head of each.",
            2 * _SQUARES / 4: "In fp32 a value takes 4 bytes.",
            4 * 2 * _SQUARES: "The batch is one sequence.",
        },
    ),
}
