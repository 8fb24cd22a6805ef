"""What the benchmarks found, as stored with the book.

Knows where the files are and which device each is from; leaves what they hold to the
benchmark that wrote them.
"""

from __future__ import annotations

import json
from math import fsum
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent / "benchmarks" / "results"


def load(question: str) -> dict:
    """What benchmarks/<question>.py found: its "device", and what else it stored.

    The first device by name where there are several, see `load_all`.
    Raises FileNotFoundError where there is none, with the questions that there are.
    """
    return load_all(question)[0]


def load_all(question: str) -> list[dict]:
    """`load` for every device that has answered, in the order of their names."""
    found = sorted(HOME.glob(f"{question}-*.json"))
    if not found:
        known = sorted({path.name.split("-")[0] for path in HOME.glob("*-*.json")})
        raise FileNotFoundError(
            f"no results for {question!r} in {HOME}: there are {known}. They come with "
            "the repository: clone it, and install the package from there"
        )
    return [json.loads(path.read_text()) for path in found]


def mean(question: str, name: str, *path: str) -> float:
    """Mean over the seeds of one entry in the runs of that name, such as "loss".

    Runs are keyed "name | seed ...". Raises ValueError for a name that has no run.
    """
    runs = load(question)["runs"].items()
    found = [run for key, run in runs if key.split(" | ")[0] == name]
    if not found:
        raise ValueError(f"name={name!r}: {question} has no such run")
    for key in path:
        found = [run[key] for run in found]
    return fsum(found) / len(found)
