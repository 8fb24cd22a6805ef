"""One published claim: what it says, what we find, and where the book shows it.

Knows what a complete entry is and when a printed number agrees with a computed one;
leaves the arithmetic to `calls`.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal

from sparse_attn.checks import check_choice

VERDICTS = (
    "correct",
    "misleading",
    "wrong",
    "depends on device",
    "cannot be checked",
)
WAYS = ("computed", "stored", "measured", "cited", "read")
SOURCES = {
    "A": "Sparse attention with an MLP: the published method and its README",
    "B": "Where GPT-2 loses its time: a chart and its remedies",
    "C": "Transformer efficiency: projects, tables and bespoke embeddings",
    "D": "Lecture slides on FlashAttention and long contexts",
    "ours": "Worked examples and consequences, added by the audit",
}


@dataclass(frozen=True)
class Claim:
    """An entry of the ledger.

    id: as in the audit, such as "S01a". sources: keys of `SOURCES`. says: the claim,
    in our words. printed: its numbers, as the source prints them. theirs: a call that
    gives these by the source's own reading. call: one that gives ours; value: what it
    gave, and must give again. unit: of them. was: an earlier verdict of ours. why: the
    finding, in a sentence or two. how: one of `WAYS`. chapter and anchor: a page of
    the book, a heading in it. cites: keys of the bibliography.
    Raises ValueError for a verdict, a way or a source that there is not, and for a
    claim without a text, a reason or a place.
    """

    id: str
    sources: tuple[str, ...]
    says: str
    verdict: str
    how: str
    why: str
    chapter: str
    anchor: str
    printed: tuple[str, ...] = ()
    theirs: str = ""
    call: str = ""
    value: tuple[float, ...] = ()
    unit: str = ""
    was: str = ""
    cites: tuple[str, ...] = ()

    def __post_init__(self):
        check_choice(f"{self.id}: verdict", self.verdict, VERDICTS)
        check_choice(f"{self.id}: how", self.how, WAYS)
        if self.was:
            check_choice(f"{self.id}: was", self.was, VERDICTS)
        for source in self.sources or ("",):
            check_choice(f"{self.id}: source", source, SOURCES)
        for name in ("id", "says", "why", "chapter", "anchor"):
            if not getattr(self, name).strip():
                raise ValueError(f"{self.id or self.says!r}: {name} is empty")
        if bool(self.value) and not self.call:
            raise ValueError(f"{self.id}: a value without the call that gives it")

    def __str__(self) -> str:
        found = []
        if self.printed:
            found.append(f"printed {' / '.join(map(spelled, self.printed))}")
        if self.value:
            ours = " / ".join(map(number, self.value))
            found.append(f"ours {ours} {self.unit}".rstrip())
        text = f"{self.id} is {self.verdict}" + ": " * bool(found) + ", ".join(found)
        return textwrap.fill(text, 79, subsequent_indent=" " * (len(self.id) + 1))

    @classmethod
    def read(cls, found: Mapping) -> Claim:
        """From a table of a ledger file; lists where numbers may be several.

        Raises ValueError for fields that a claim has not, or lacks.
        """
        known = {field.name for field in fields(cls)}
        if unknown := set(found) - known:
            raise ValueError(f"{found.get('id')}: no such fields: {sorted(unknown)}")
        plain = {
            name: tuple(x) if isinstance(x, list) else x for name, x in found.items()
        }
        for name in ("printed", "value"):
            if name in plain and not isinstance(plain[name], tuple):
                plain[name] = (plain[name],)
        try:
            return cls(**plain)
        except TypeError as error:  # a field is missing
            raise ValueError(f"{found.get('id')}: {error}") from None


def agrees(printed: str, x: float) -> bool:
    """Whether a number can have been printed so: within one unit of its last digit.

    One and not a half, as the sources cut digits off as often as they round.
    """
    number = Decimal(printed.replace(",", ""))
    unit = Decimal(1).scaleb(number.as_tuple().exponent)
    return abs(Decimal(x) - number) <= unit


def number(x: float) -> str:
    """At most 4 significant digits, powers of ten where there would be many zeros.

    Whole numbers below ten million are written out.
    """
    if math.isinf(x):
        return "never" if x > 0 else "-∞"
    if x == int(x) and abs(x) < 1e7:
        return f"{int(x):,}"
    digits = f"{x:.4g}"
    if "e" not in digits:
        return digits
    mantissa, exponent = digits.split("e")
    return f"{mantissa}e{int(exponent)}"


def spelled(printed: str) -> str:
    """As printed, but a power of ten that is short written out."""
    if "e" not in printed:
        return printed
    mantissa, exponent = printed.split("e")
    names = {3: "thousand", 6: "million", 9: "billion"}
    return f"{mantissa} {names[int(exponent)]}" if int(exponent) in names else printed
