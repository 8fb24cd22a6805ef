"""The ledger of published claims: what each says, what we find, where it is shown.

The entries are in ledger/*.toml, one file for each subject.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib import resources

from sparse_attn.claims.calls import drifted, evaluate, recompute
from sparse_attn.claims.entry import VERDICTS, Claim, agrees
from sparse_attn.claims.page import Table, table

__all__ = [
    "VERDICTS",
    "Claim",
    "Table",
    "agrees",
    "drifted",
    "evaluate",
    "find",
    "ledger",
    "recompute",
    "table",
    "tally",
]


@cache
def ledger() -> tuple[Claim, ...]:
    """Every claim, in the order of the files. Raises ValueError for an id twice."""
    files = resources.files("sparse_attn.claims") / "ledger"
    found = [
        Claim.read(entry)
        for file in sorted(files.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".toml")
        for entry in tomllib.loads(file.read_text("utf-8"))["claim"]
    ]
    twice = [name for name, n in Counter(claim.id for claim in found).items() if n > 1]
    if twice:
        raise ValueError(f"ids twice in the ledger: {twice}")
    return tuple(found)


def find(id: str) -> Claim:
    """The claim of that id. Raises ValueError where there is none."""
    for claim in ledger():
        if claim.id == id:
            return claim
    raise ValueError(f"id={id!r}: no such claim, see claims.ledger()")


def tally(claims: Iterable[Claim] | None = None) -> dict[str, int]:
    """How many claims have each verdict, of all unless given; all verdicts are keys."""
    claims = ledger() if claims is None else claims
    found = Counter(claim.verdict for claim in claims)
    return {verdict: found[verdict] for verdict in VERDICTS}
