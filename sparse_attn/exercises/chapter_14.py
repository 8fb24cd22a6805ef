"""Answers and likely mistakes for chapter 14, computed, not typed."""

from sparse_attn import claims, cost, topk
from sparse_attn.exercises import Function, Number

_HEADS, _FULL, _ONE = 32, 12.0, 1.0
_T, _K = 100_000, 16
_TOP1, _SHORT = 0.06, 128
_PRINTED = (
    ("62", 62.5),
    ("62", 63.01),
    ("0.18", 0.1818),
    ("0.18", 0.1999),
    ("15.24", 15.2381),
    ("15.24", 0.7619),
    ("7", 8.0),
    ("7", 5.9),
    ("9.20", 9.24),
)


def _agrees(agrees) -> str | None:
    """(printed string, number) -> bool."""
    for printed, x in _PRINTED:
        got, right = agrees(printed, x), claims.agrees(printed, x)
        if not isinstance(got, bool):
            return f"It gives {got!r}; True or False is needed."
        if got != right:
            word = "can" if right else "cannot"
            return f"{x} {word} have been printed as {printed!r}, but it says {got}."
    return None


EXERCISES = {
    "14.1": Number(
        _FULL / (_HEADS * _ONE),
        "The layer has become more expensive, not cheaper.",
        {
            _FULL / _ONE: "That is the table's ratio: 32 heads over one.",
            _HEADS * _ONE / _FULL: "That is how many times more it costs.",
        },
    ),
    "14.2": Number(
        cost.pairs(_T, causal=True) / cost.topk_pairs(_T, _K, causal=True),
        "About T / 2K: half of what it would be without a mask.",
        {
            _T / _K: "That is without the mask, which the full square profits from.",
            _T**2 / (1000 * _K): "The denominator is that of 1,000 tokens.",
        },
        tolerance=0.001,
    ),
    "14.3": Function(_agrees, "A printed number is an interval."),
    "14.4": Number(
        _TOP1 / topk.chance_top1(_SHORT),
        "Better than chance, and not by much.",
        {
            _TOP1 * _SHORT: "A guess among all 128 is too modest: it may know the "
            "mask.",
            topk.chance_top1(_SHORT) / _TOP1: "That is chance over the selector.",
        },
    ),
}
