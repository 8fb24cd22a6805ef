"""The calls of the ledger, evaluated.

Knows which names a call may use; leaves what they compute to the package.
"""

from __future__ import annotations

import math
from functools import cache
from importlib import import_module

from sparse_attn.claims.entry import Claim

MODULES = (
    "claims.readings.gpt2",
    "claims.readings.lecture",
    "claims.readings.method",
    "corpus",
    "cost",
    "embeddings",
    "flash",
    "gpt",
    "hashing",
    "metrics",
    "patterns",
    "results",
    "roofline",
    "stats",
    "topk",
)


@cache
def names() -> dict[str, object]:
    """What a call may use: modules of the package by last name, torch and math."""
    import torch

    found = {"torch": torch, "math": math}
    for name in MODULES:
        found[name.split(".")[-1]] = import_module(f"sparse_attn.{name}")
    return found


def evaluate(call: str) -> tuple[float, ...]:
    """The numbers that a call gives. Its text is the ledger's own, never a reader's."""
    found = eval(call, dict(names()))
    return tuple(map(float, found if isinstance(found, tuple | list) else (found,)))


def drifted(claim: Claim) -> bool:
    """Whether `claim.call` gives other numbers than it gave; to four digits.

    Raises ValueError where it gives more numbers than it did, or fewer.
    """
    pairs = zip(recompute(claim), claim.value, strict=True) if claim.value else ()
    return not all(math.isclose(*pair, rel_tol=5e-4, abs_tol=1e-12) for pair in pairs)


def recompute(claim: Claim) -> tuple[float, ...]:
    """What `claim.call` gives now. Raises ValueError for a claim that has none."""
    if not claim.call:
        raise ValueError(f"{claim.id} has no call: it was {claim.how}")
    return evaluate(claim.call)
