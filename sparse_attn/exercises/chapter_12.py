"""Answers and likely mistakes for chapter 12, computed, not typed."""

import math
from fractions import Fraction

from sparse_attn import cost
from sparse_attn.exercises import Function, Number

_T, _D, _HIDDEN, _K = 128_000, 128, 64, 32
_PROMISED = cost.published_ratio(_T, _K)
_LEFT = cost.topk_mlp_gain(_T, _D, _HIDDEN, _K)

_C, _FASTER, _WHOLE = 4096, 10, 2
_SHARE = (1 - Fraction(1, _WHOLE)) / (1 - Fraction(1, _FASTER))


def _length(share: Fraction, *, causal: bool = True) -> int:
    """The first T at which scores take `share` of the FLOPs of a block of width _C."""
    keys = 6 * _C * share / (1 - share)  # per query: 4·C each, beside 24·C²
    return math.ceil(2 * keys - 1 if causal else keys)


_WEIGHTS, _LAYERS, _HEADS, _SHARED, _WIDTH, _BATCH = 8e9, 32, 32, 8, 128, 16


def _turn(heads: int = _SHARED, batch: int = _BATCH, tensors: int = 2) -> float:
    """Tokens of context whose caches take as many bytes as the weights."""
    return _WEIGHTS / (tensors * _LAYERS * heads * _WIDTH * batch)


def _sent(lengths: list[int], per_token: int) -> list[int]:
    """Rank r sends every part but the one that its receiver began with."""
    n = len(lengths)
    return [per_token * (sum(lengths) - lengths[(rank + 1) % n]) for rank in range(n)]


def _ring(ring_bytes) -> str | None:
    """(lengths, kv_heads, D, bytes_per_value) -> bytes that each rank sends."""
    for lengths, heads, D, size in (
        ([8, 8, 8, 8], 2, 4, 2),
        ([5, 7, 0, 4], 1, 8, 4),
        ([3, 9], 3, 4, 2),
        ([11], 2, 4, 2),
    ):
        token = heads * D * size
        right = _sent(lengths, 2 * token)
        got, n, case = ring_bytes(lengths, heads, D, size), len(lengths), str(lengths)
        try:
            got = [float(x) for x in got]
        except TypeError:
            return f"It gives {got!r}; a list with a number for each rank is needed."
        if got == right:
            continue
        if len(got) != n:
            return f"{case}: it gives {len(got)} numbers for {n} ranks."
        for wrong, why in (
            (_sent(lengths, token), "that is for keys alone; values travel with them."),
            (
                [2 * token * sum(lengths)] * n,
                "no rank sends its receiver the part with which that one began.",
            ),
            (
                [2 * token * (sum(lengths) - own) for own in lengths],
                "that is what each rank receives; it sends its own part too, and not "
                "the last one that it gets.",
            ),
            (
                [2 * token * (n - 1) * own for own in lengths],
                "a rank sends its own part once, and then those of others, which may "
                "be longer or shorter.",
            ),
        ):
            if got == wrong:
                return f"Parts {case}: {why}"
        return f"Parts {case}: {[round(x) for x in got]} bytes, not {right}."
    return None


EXERCISES = {
    "12.1": Number(
        _PROMISED / _LEFT,
        f"{_PROMISED:,.0f} are promised and {_LEFT:.2f} are left. The promise grows "
        "with T, what is left hardly does: at twice the length the answer almost "
        "doubles.",
        {
            _PROMISED: "That is the promise, 2T/(K + 1). By how much is it too much?",
            _LEFT: "That is what is left. How many times more was promised?",
            _PROMISED * _HIDDEN / (2 * _D): "That is against the limit 2D/h, which "
            "128,000 tokens don't quite reach.",
            _T / _K / _LEFT: "That is T/K against what is left; the rows count 2 for "
            "a pair of full attention, and K + 1 for a query of theirs.",
        },
    ),
    "12.2": Number(
        _length(_SHARE),
        "Attention must take 5/9 of the FLOPs: 7.5 C keys per query on average, and "
        "causal queries see half of the text.",
        {
            _length(_SHARE, causal=False): "A causal query sees half of the text on "
            "average.",
            _length(
                Fraction(1, 2)
            ): "That is where attention takes half. A part that gets ten "
            "times faster and not endlessly fast must be more than half.",
            _length(
                Fraction(1, 2), causal=False
            ): "That is where attention takes half, and not causal at that.",
        },
        tolerance=1e-3,
    ),
    "12.3": Function(
        _ring,
        "All parts pass through each rank but the one that begins at its receiver, so "
        "more ranks do not send less each.",
    ),
    "12.4": Number(
        _turn(),
        "Below, the step waits for its weights, and reading fewer keys spares little; "
        "a larger batch moves the point down, shared heads move it up.",
        {
            _turn(batch=1): "Each of the 16 sequences has a cache of its own, and all "
            "of them share the weights.",
            _turn(tensors=1): "Keys and values are both cached.",
            _turn(heads=_HEADS): "Only the 8 shared heads are cached.",
            _turn() / 2: "Weights take two bytes each, too.",
        },
        tolerance=1e-3,
    ),
}
