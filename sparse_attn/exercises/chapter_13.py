"""Answers and likely mistakes for chapter 13, computed, not typed."""

import math

from sparse_attn import corpus, stats
from sparse_attn.exercises import Function, Number

_LOSS, _WORDS = 3.5, 50
_FLOOR = corpus.entropy(corpus.zipf_probabilities(_WORDS, 1.0))
_WINDOW, _NATS = 64, 5.0
_SPREAD, _SOUGHT = 0.02, 0.01


def _seeds(power: float = 0.8) -> int:
    n = 2
    while stats.detectable(_SPREAD, n, power=power) > _SOUGHT:
        n += 1
    return n


def _first_interval() -> int:
    n = 2
    while stats.half_width(_SPREAD, n) > _SOUGHT:
        n += 1
    return n


def _holm(holm) -> str | None:
    """(p values) -> adjusted ones, in the order given."""
    for p in ([0.01], [0.04, 0.01, 0.03], [0.5, 0.9, 0.2, 0.001], [0.02, 0.02, 0.3]):
        right, n = stats.holm(p), len(p)
        try:
            got = [float(x) for x in holm(list(p))]
        except TypeError:
            return f"It gives {holm(list(p))!r}; a list of {n} numbers is needed."
        if len(got) == n and all(
            math.isclose(a, b, rel_tol=1e-9) for a, b in zip(got, right, strict=True)
        ):
            continue
        order = sorted(range(n), key=p.__getitem__)
        stepped = [0.0] * n
        for rank, i in enumerate(order):
            stepped[i] = p[i] * (n - rank)
        for wrong, why in (
            ([x * n for x in p], "each is multiplied by n; that is Bonferroni's."),
            ([min(1.0, x * n) for x in p], "each is multiplied by n; that is "
             "Bonferroni's."),
            (stepped, "none may be less than the one before it in order, or over 1."),
            ([min(1.0, x) for x in stepped], "none may be less than the one before it "
             "in order."),
            (sorted(right), "they are to come back in the order given."),
        ):  # fmt: skip
            if len(got) == n and all(map(math.isclose, got, wrong)):
                return f"For {p}: {why}"
        return f"For {p} it gives {got}, not {[round(x, 4) for x in right]}."
    return None


EXERCISES = {
    "13.1": Number(
        _LOSS - _FLOOR,
        f"The floor is {_FLOOR:.3f} nats; so much could still be learned.",
        {
            _LOSS - _FLOOR / math.log(2): "The loss is in nats, and so must the floor "
            "be.",
            _LOSS - math.log(_WORDS): "That is the floor if all words are equally "
            "frequent.",
        },
    ),
    "13.2": Number(
        _NATS / _WINDOW,
        "One target of 64 lies outside the window and costs the entropy; the others "
        "cost nothing.",
        {
            _NATS: "Only the last target is outside of what the model sees.",
            0.0: "The last target lies outside the window.",
            _NATS / (_WINDOW - 1): "There are 64 targets, and the mean is over all.",
        },
    ),
    "13.3": Function(
        _holm,
        "It keeps the chance of any false find below the level, and is never stricter "
        "than multiplying all by n.",
    ),
    "13.4": Number(
        _seeds(),
        "Four times as many as for twice the difference: luck shrinks with the root of "
        "the number of seeds.",
        {
            _first_interval(): "With so many the interval is as wide as the "
            "difference, and would leave out zero half of the time.",
            8 * (_SPREAD / _SOUGHT) ** 2: "That is the rule of thumb; the exact number "
            "is a little larger.",
            _seeds(0.95): "That is for 95% power.",
        },
        tolerance=1e-3,
    ),
}
