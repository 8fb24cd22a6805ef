"""Checks for the exercises: they say why an answer is wrong, not only that it is.

`check("1.2", answer)` in a notebook; each chapter's answers live in a module beside
this one, so that a notebook shows the question and not the solution.
"""

import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from numbers import Real


@dataclass(frozen=True)
class Number:
    """An exercise whose answer is a number.

    mistakes: wrong number -> what was probably done to get it. tolerance is relative.
    """

    answer: float
    why: str
    mistakes: dict[float, str] = field(default_factory=dict)
    tolerance: float = 0.01

    def review(self, given) -> str | None:
        if not isinstance(given, Real) or given != given:
            return f"{given!r} is not a number."
        try:
            given = float(given)
        except OverflowError:  # a whole number past every float
            given = math.inf if given > 0 else -math.inf
        if math.isclose(given, self.answer, rel_tol=self.tolerance):
            return None
        for wrong, reason in self.mistakes.items():
            if math.isclose(given, wrong, rel_tol=self.tolerance):
                return reason
        return "That is too large." if given > self.answer else "That is too small."


@dataclass(frozen=True)
class Function:
    """An exercise whose answer is a function; `examine` says what is wrong, or None."""

    examine: Callable[[Callable], str | None]
    why: str

    def review(self, given) -> str | None:
        if not callable(given):
            return f"{given!r} is not a function."
        try:
            return self.examine(given)
        except Exception as error:  # the reader's own code: report, don't crash
            return f"Your function raised {type(error).__name__}: {error}"


def check(exercise: str, answer: object = None) -> None:
    """Print whether `answer` solves `exercise`, such as "1.2", and why if it doesn't.

    Raises ValueError for an exercise that does not exist.
    """
    if not isinstance(exercise, str):
        raise ValueError(f'exercise={exercise!r}: a string such as "1.2" is needed')
    known = _exercises(exercise.split(".")[0])
    if exercise not in known:
        raise ValueError(f"exercise={exercise!r}: choose from {sorted(known)}")
    if answer is None:
        verdict = "put your answer in place of None, run again."
    else:
        wrong = known[exercise].review(answer)
        verdict = f"not yet. {wrong}" if wrong else f"right. {known[exercise].why}"
    print(textwrap.fill(f"Exercise {exercise}: {verdict}", 79))


def _exercises(chapter: str) -> dict:
    try:
        return import_module(f"{__name__}.chapter_{int(chapter):02}").EXERCISES
    except (ValueError, ModuleNotFoundError):
        raise ValueError(f"chapter {chapter!r} has no exercises here") from None
