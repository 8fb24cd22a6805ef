"""The ledger as a table that sorts and filters by itself, without a network.

Knows HTML; leaves what a claim is to `entry`, what it gives to `calls`.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from sparse_attn.claims.calls import recompute
from sparse_attn.claims.entry import SOURCES, VERDICTS, Claim, number, spelled
from sparse_attn.claims.page_parts import (
    BODY,
    CALL,
    CELLS,
    CHECK,
    CHOICE,
    HEAD,
    PAGE,
    SCRIPT,
)

COLUMNS = ("No.", "Claim, and what we find", "Printed", "Ours", "Verdict", "Chapter")


class Table:
    """What `table` returns: a page shows HTML, a terminal a line for each claim."""

    def __init__(self, claims: Sequence[Claim]):
        self.claims = tuple(claims)
        self.ours = {
            claim.id: recompute(claim) if claim.value else () for claim in self.claims
        }

    def __repr__(self) -> str:
        return "\n".join(f"{claim.id} {claim.verdict}" for claim in self.claims)

    def _repr_html_(self) -> str:
        sources = {name for claim in self.claims for name in claim.sources}
        heads = "".join(HEAD.format(name=name) for name in COLUMNS)
        return PAGE.format(
            checks="".join(CHECK.format(verdict=verdict) for verdict in VERDICTS),
            choices="".join(
                CHOICE.format(source=name, title=html.escape(title))
                for name, title in SOURCES.items()
                if name in sources
            ),
            heads=heads,
            rows="".join(map(self._row, self.claims)),
            count=len(self.claims),
            script=SCRIPT,
        )

    def _row(self, claim: Claim) -> str:
        texts = (claim.id, claim.says, claim.why, claim.unit, claim.call)
        id_, says, why, unit, call = map(html.escape, texts)
        cells = CELLS.format(
            id=id_,
            says=says,
            why=why,
            call=CALL.format(call=call) if call else "",
            printed=html.escape(" / ".join(map(spelled, claim.printed))),
            printed_key=_key(claim.printed),
            ours=html.escape(" / ".join(map(number, self.ours[claim.id]))),
            ours_key=_key(self.ours[claim.id]),
            unit=unit if self.ours[claim.id] else "",
            verdict=claim.verdict,
            rank=VERDICTS.index(claim.verdict),
            chapter=claim.chapter,
            anchor=claim.anchor,
            place=int(claim.chapter[:2]),
        )
        return BODY.format(
            id=id_,
            verdict=claim.verdict,
            sources=" ".join(claim.sources),
            words=html.escape(" ".join((*texts, claim.verdict)).lower(), quote=True),
            cells=cells,
        )


def table(claims: Sequence[Claim]) -> Table:
    """Claims to sort by a column, and to filter by verdict, source and words.

    Every call is evaluated for it. Raises ValueError for no claims.
    """
    if not claims:
        raise ValueError("claims=[]: a table needs at least one")
    return Table(claims)


def _key(numbers: Sequence) -> str:
    """What a cell is sorted by: the first of its numbers, as a script reads it."""
    if not numbers:
        return ""
    return str(float(str(numbers[0]).replace(",", ""))).replace("inf", "1e999")
