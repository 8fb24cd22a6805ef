"""Answers and likely mistakes for chapter 15, computed, not typed."""

import math
from dataclasses import replace

from sparse_attn import playground
from sparse_attn.exercises import Function, Number
from sparse_attn.playground.choice import OPTIONS

_LARGE = playground.Choice(K=1024, C=4096, H=32, Hkv=8, L=32, bytes=2)
_H100 = next(one for one in playground.PROFILES if one.name.startswith("H100"))
_LONG, _QUARTER = 131_072, 0.25


def _first(reached) -> int:
    """The first length at which `reached` holds of the bounds."""
    return next(
        T
        for T in OPTIONS["T"]
        if reached(playground.estimate(_LARGE.but(T=T), _H100).bounds)
    )


def _worth_it(worth_it) -> str | None:
    """(estimate) -> bool, on estimates about the two limits."""
    plain = playground.estimate(_LARGE.but(T=_LONG), _H100)
    for whole, lost in (
        (1.5, 0.01), (1.49, 0.0), (3.0, 0.011), (3.0, -0.001), (9.0, math.nan),
    ):  # fmt: skip
        given = replace(plain, bounds=replace(plain.bounds, whole=whole), lost=lost)
        got, right = worth_it(given), whole >= 1.5 and lost <= 0.01
        if not isinstance(got, bool):
            return f"It gives {got!r}; True or False is needed."
        if got != right:
            return f"With the layer {whole}x and {lost} bits lost it says {got}."
    return None


EXERCISES = {
    "15.1": Number(
        _first(lambda b: b.share >= _QUARTER),
        "The square overtakes the rest of the layer late in a wide model.",
        {
            _first(lambda b: b.whole >= 1 / (1 - _QUARTER)): "That is where the layer "
            "gains so much; the share of full attention was asked for.",
        },
    ),
    "15.2": Number(
        _LARGE.Hkv * _LARGE.K / _LONG,
        "Less than one head: no sharing of heads reads so little.",
        {
            _LONG / _LARGE.K / _LARGE.Hkv: "That is the other way round.",
            _LARGE.K / _LONG: "That is the share of the keys; there are 8 heads.",
        },
    ),
    "15.3": Function(_worth_it, "Both limits hold, and a NaN passes neither."),
}
