"""Answers and likely mistakes for chapter 1, computed, not typed."""

from sparse_attn import cost
from sparse_attn.exercises import Function, Number

_GPT3 = dict(T=2048, C=12_288)
_K128 = 128 * 1024


def _fair(speedup) -> str | None:
    """A speedup of one head over one head, whatever the number of heads given."""
    for T, H in ((64, 2), (512, 12), (2048, 20)):
        one = cost.scores(T, 64, 1).flops / cost.topk_mlp_flops(T, 64, 128, 8)
        got = speedup(T, H)
        if abs(got - H * one) < 1e-6 * H * one:
            return f"At T={T} with {H} heads it still divides {H} heads by one."
        if not abs(got - one) <= 1e-6 * one:  # NaN is wrong too
            return f"At T={T} with {H} heads it gives {got:.4g}; {one:.4g} is needed."
    return None


EXERCISES = {
    "1.1": Number(
        cost.score_share(**_GPT3),
        "Width moves the crossover: GPT-3 is 16 times wider than GPT-2 small.",
        {
            cost.score_share(**_GPT3, causal=True): "That is half of the work: a "
            "causal square, or only one of the products q kᵀ and p v.",
            100 * cost.score_share(**_GPT3): "A share lies between 0 and 1; you gave "
            "it in percent.",
        },
    ),
    "1.2": Number(
        cost.half_share_length(4096),
        "Six times the width, as for every GPT-2-shaped block.",
        {
            cost.half_share_length(768): "That is GPT-2's width. Take 4,096.",
            cost.half_share_length(4096, causal=True): "That is the causal length, "
            "where half of the pairs count.",
            4 * 4096: "That compares with the MLP alone; the projections cost too.",
        },
        tolerance=1e-4,
    ),
    "1.3": Number(
        cost.topk_pairs(1000, 64, causal=True),
        "The first 64 queries see a triangle, the rest 64 keys each.",
        {
            64 * 1000: "The first 63 queries have fewer than 64 keys to see.",
            64 * 1000 - 64 * 63: "That window looks both ways.",
            64 * 65 // 2 + 1000 * 64: "The first 64 queries were counted twice.",
        },
        tolerance=1e-6,
    ),
    "1.4": Function(
        _fair,
        "Dividing like by like, no row of the table passes 1 at hidden width 128.",
    ),
    "1.5": Number(
        80e9 // (2 * _K128**2),
        "One head's scores take more than 34 GB; a third would not fit.",
        {
            80e9 // (4 * _K128**2): "That is fp32; fp16 takes 2 bytes per value.",
            80e9 // (2 * _K128): "One row of scores is not enough: T x T of them.",
            3: "Two heads already fill 69 GB, and a part of a head does not count.",
        },
        tolerance=1e-6,
    ),
}
